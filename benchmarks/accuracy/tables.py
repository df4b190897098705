"""Records of a grid as Markdown tables: a row a method, seeds folded into mean ± deviation."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable

from cells import Cell
from methods import UNTRAINED
from records import Record, current

_HEADER = {
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "exact_match": "exact match",
}


def tables(cells: Iterable[Cell], found: dict[str, Record]) -> str:
    """A table for each task and cut, widths together, rows in the order of the grid."""
    groups: dict[tuple[str, str], dict[tuple[float, str], list[Cell]]] = {}
    for cell in cells:
        rows = groups.setdefault((cell.task.name, cell.cuts), defaultdict(list))
        rows[cell.bits or 0, cell.method.name].append(cell)
    found = current((cell for rows in groups.values() for c in rows.values() for cell in c), found)
    blocks = []
    for (task, cuts), rows in groups.items():
        lines = _table(rows, found)
        if lines:
            blocks += [f"**{task}**, cut after {_cut_words(cuts)}:", "", *lines, ""]
    commits = sorted({record["made_by"]["commit"] for record in found.values()})
    cards = sorted({r["made_by"]["card"] for r in found.values() if "card" in r["made_by"]})
    if commits:
        where = f" on {', '.join(cards)}" if cards else ""
        blocks.append(f"Measured at {', '.join(commits)}{where}.")
    return "\n".join(blocks)


def spread(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation, or the one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def scores(records: list[Record], boundary: str, score: str) -> list[float]:
    """One score of every record that has one."""
    return [record["scores"][boundary][score] for record in records if "failed" not in record]


def _table(rows: dict[tuple[float, str], list[Cell]], found: dict[str, Record]) -> list[str]:
    score = next(iter(rows.values()))[0].task.score
    name, digits = _HEADER[score], 2 if score == "perplexity" else 3
    header = ["width", "method", "seeds", f"{name}, through the cut", f"{name}, clean"]
    header += ["bits at the end", "bits over the run", "gradient bits", "MiB sent"]
    lines = []
    for (bits, method), cells in rows.items():
        records = [found[cell.key] for cell in cells if cell.key in found]
        if not records:
            continue
        whole = [record for record in records if "failed" not in record]
        seeds = str(len(records)) + (
            f", {len(records) - len(whole)} diverged" if len(whole) < len(records) else ""
        )
        line = [str(bits or "own"), method, seeds]
        if whole:
            line += [spread(scores(whole, b, score), digits) for b in ("quantized", "clean")]
        if whole and method == UNTRAINED.name:
            line += ["–"] * 4
        elif whole:
            line += [
                f"{statistics.mean(record[key] for record in whole):.2f}"
                for key in (
                    "activation_bits_at_end",
                    "activation_bits_over_run",
                    "gradient_bits_over_run",
                )
            ]
            line.append(f"{statistics.mean(r['wire_bytes'] for r in whole) / 2**20:.2f}")
        lines.append("| " + " | ".join(line) + " |")
    if not lines:
        return []
    return ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *lines]


def _cut_words(cuts: str) -> str:
    places = json.loads(cuts)
    if places == "all":
        return "every block"
    return "block " + " and ".join(map(str, places))
