"""Run a grid of `grids.py`, cell by cell; cells that are done are skipped.

python benchmarks/accuracy/run.py --data DIR --out DIR --grid three-bits
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from grids import GRIDS, Cell


def amaqctl(*arguments: str, log: Path) -> dict[str, object]:
    """Run one command in a process of its own; returns its JSON document."""
    command = [sys.executable, "-m", "amaqctl.cli.main", *arguments, "--json"]
    with log.open("a") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
    document: dict[str, object] = json.loads(done.stdout)
    return document


def run_cell(cell: Cell, data: Path, out: Path) -> None:
    """Train one cell, evaluate it with the quantizers in the path and without, keep both."""
    folder = out / cell.key
    log = out / f"{cell.key}.log"
    changes = [word for item in cell.overrides(data) for word in ("--set", item)]
    result = {"train": amaqctl("train", "quickstart", "--out", str(folder), *changes, log=log)}
    # A run that diverges is a result, and stays in the table.
    if result["train"]["ok"]:
        result["eval"] = amaqctl("eval", str(folder), "--boundary", "both", log=log)
    (out / f"{cell.key}.json").write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    """Run what is missing, with the time left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="where results are kept")
    parser.add_argument("--grid", choices=sorted(GRIDS), default="three-bits")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells = GRIDS[arguments.grid]
    todo = [c for c in cells if not (arguments.out / f"{c.key}.json").exists()]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} done", flush=True)
    started = time.monotonic()
    for number, cell in enumerate(todo, 1):
        run_cell(cell, arguments.data, arguments.out)
        spent = time.monotonic() - started
        left = spent / number * (len(todo) - number)
        print(f"{number}/{len(todo)} {cell.key} {spent:.0f} s, about {left:.0f} s left", flush=True)


if __name__ == "__main__":
    main()
