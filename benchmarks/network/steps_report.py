"""The tables of what `steps.py` wrote down: medians over the steps that count.

python benchmarks/network/steps_report.py FILE…
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps import LINES, WAYS

Records = dict[tuple[str, str], list[dict[str, Any]]]


def read(files: Iterable[str]) -> Records:
    """Records by way and line."""
    found: Records = defaultdict(list)
    for file in files:
        for line in Path(file).read_text().splitlines():
            record = json.loads(line)
            record["run"] = (file, record["repeat"])
            found[record["way"], record["line"]].append(record)
    return found


def median(records: list[dict[str, Any]], key: str) -> float:
    """Of one thing that was measured."""
    return statistics.median(record[key] for record in records)


def bare_wire(way: str, line: str, num_bytes: float) -> float:
    """Seconds of a line that carries all bytes of a step one after the other, and of the crossings
    of one micro-batch: there and back over each cut.
    """
    round_trip, rate = LINES[line]
    num_cuts = WAYS[way].cuts.count(",") + 1
    return (8 * num_bytes / rate if rate else 0.0) + num_cuts * round_trip


def print_network(found: Records, ways: list[str]) -> None:
    """Network seconds by way and line, and the bare wire in brackets."""
    lines = [line for line in LINES if all((way, line) in found for way in ways)]
    print(f"| network seconds a step | kB a step | {' | '.join(lines)} |")
    print("|---|" + "---|" * (len(lines) + 1))
    for way in ways:
        num_bytes = median(found[way, lines[0]], "bytes")
        cells = [f"{median(found[way, line], 'network'):.3f}" for line in lines]
        bare = bare_wire(way, lines[-1], num_bytes)
        print(f"| `{way}` | {num_bytes / 1e3:.0f} | {' | '.join(cells)} (bare {bare:.3f}) |")


def print_steps(found: Records, ways: list[str]) -> None:
    """Whole steps, and their codec and compute."""
    lines = [line for line in LINES if all((way, line) in found for way in ways)]
    print(f"| seconds a step | {' | '.join(lines)} | codec | compute |")
    print("|---|" + "---|" * (len(lines) + 2))
    for way in ways:
        cells = [f"{median(found[way, line], 'seconds'):.2f}" for line in lines]
        all_ = [record for line in lines for record in found[way, line]]
        compute, codec = median(all_, "compute"), median(all_, "codec")
        print(f"| `{way}` | {' | '.join(cells)} | {codec:.3f} | {compute:.2f} |")


def differences(shaped: list[dict[str, Any]], plain: list[dict[str, Any]]) -> list[float]:
    """Seconds by which a step is longer over a line than without one, for each run of parties."""
    runs = sorted({record["run"] for record in shaped})
    return [
        median([r for r in shaped if r["run"] == run], "seconds")
        - median([r for r in plain if r["run"] == run], "seconds")
        for run in runs
    ]


def print_visible(found: Records, ways: list[str]) -> None:
    """What of the bare wire is seen in a step: as time in which both wait, and as longer steps.

    Other programs make steps longer, never shorter: beside the median stands the difference of the
    quickest steps.
    """
    print("| way | line | bare wire, s | both wait | longer, quickest | longer, median |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        for line in [line for line in WAYS[way].lines if line != "unshaped"]:
            shaped, plain = found[way, line], found[way, "unshaped"]
            bare = bare_wire(way, line, median(shaped, "bytes"))
            quickest = min(r["seconds"] for r in shaped) - min(r["seconds"] for r in plain)
            longer = statistics.median(differences(shaped, plain))
            seen = (median(shaped, "network"), quickest, longer)
            cells = [f"{seconds:.2f} s, {100 * seconds / bare:.0f} %" for seconds in seen]
            print(f"| `{way}` | {line} | {bare:.3f} | {' | '.join(cells)} |")


def main() -> None:
    """Print all tables."""
    found = read(sys.argv[1:])
    known = [way for way in WAYS if any(name == way for name, _ in found)]
    plain = [way for way in known if not way.startswith("u-")]
    u_shape = [way for way in known if way.startswith("u-")]
    for ways in (plain, u_shape):
        if ways:
            print_network(found, ways)
            print()
            print_steps(found, ways)
            print()
    print_visible(found, u_shape)
    loads = [record["load"] for records in found.values() for record in records]
    counts = {len(records) for records in found.values()}
    print(
        f"\nload {min(loads):.1f} to {max(loads):.1f}; {min(counts)} to {max(counts)} steps a cell"
    )


if __name__ == "__main__":
    main()
