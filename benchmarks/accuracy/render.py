"""Write the tables of the records into a page, and draw the Pareto plot.

    python benchmarks/accuracy/render.py --page docs/results.md --plot docs/pareto.svg

A part of the page stands between ``<!-- records: GRID -->`` and ``<!-- end of GRID -->``; the part
`verdicts` holds the bars, `widths` the allocations at the end. Without --page all is printed.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from bars import bars
from grids import GRIDS
from paired import against_default
from plot import plot
from records import KEPT, Record, current, load
from stability import lost_runs
from tables import tables


def verdicts(found: dict[str, Record]) -> str:
    """The bars as a table."""
    head = ["| bar | asked | measured | met | seeds | bytes / rival |", "|" + " --- |" * 6]
    return "\n".join([*head, *(bar.row() for bar in bars(found))])


def widths(found: dict[str, Record]) -> str:
    """How many channels have which width at the end, in the runs of `amaq`."""
    lines = ["| run | " + " | ".join(map(str, range(9))) + " |", "|" + " --- |" * 10]
    for record in current(GRIDS["bars"], found).values():
        if record["method"] != "amaq" or "failed" in record:
            continue
        for place, counts in record["widths"].items():
            links = json.loads(record["cuts"])
            where = "" if len(links) == 1 else f" {place.split('.')[0]}"
            name = f"{record['task']}, {record['bits']} bits, seed {record['seed']}{where}"
            lines.append(f"| {name} | " + " | ".join(map(str, counts[:9])) + " |")
    return "\n".join(lines)


def parts(found: dict[str, Record]) -> dict[str, str]:
    """Every generated part by name."""
    made = {name: tables(cells, found).strip() for name, cells in GRIDS.items()}
    return {
        **made,
        "verdicts": verdicts(found),
        "widths": widths(found),
        "ablations": against_default(GRIDS["ablations"], found),
        "gradients": against_default(GRIDS["gradients"], found),
        "stability": lost_runs(GRIDS["stability"], found),
    }


def renewed(page: str, found: dict[str, Record]) -> str:
    """The page with every part as the records have it."""
    for name, text in parts(found).items():
        begin, end = f"<!-- records: {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.S)
        part = f"{begin}\n\n{text}\n\n{end}"
        page = pattern.sub(part.replace("\\", r"\\"), page)
    return page


def main() -> None:
    """Render."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, default=KEPT, help="file of results")
    parser.add_argument("--page", type=Path, help="renew the parts of this page")
    parser.add_argument("--plot", type=Path, help="draw the Pareto plot into this file")
    arguments = parser.parse_args()
    found = load(arguments.records)
    if arguments.page:
        page = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(renewed(page, found), encoding="utf-8")
    else:
        for name, text in parts(found).items():
            if text:
                print(f"## {name}\n\n{text}\n")
    if arguments.plot:
        plot(GRIDS["bars"], found, arguments.plot)


if __name__ == "__main__":
    main()
