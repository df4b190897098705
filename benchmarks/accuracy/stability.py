"""How many runs of each method were lost: diverged (a value was not finite) or collapsed."""

from __future__ import annotations

from collections.abc import Iterable

from bars import collapsed, diverged
from cells import Cell
from methods import UNTRAINED
from records import Record, current
from tables import scores

_HEADER = (
    "task",
    "width",
    "method",
    "runs",
    "diverged",
    "collapsed, through the cut",
    "collapsed, clean",
    "worst score, through the cut",
    "worst score, clean",
)
_BOUNDARIES = ("quantized", "clean")


def lost_runs(cells: Iterable[Cell], found: dict[str, Record]) -> str:
    """A row for each task, width and method that has runs; empty where there are none."""
    cells = list(cells)
    found = current(cells, found)
    rows: dict[tuple[str, float, str], list[Cell]] = {}
    for cell in cells:
        if cell.key in found and cell.method != UNTRAINED:
            rows.setdefault((cell.task.name, cell.bits or 0, cell.method.name), []).append(cell)
    if not rows:
        return ""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + " --- |" * len(_HEADER)]
    for (task, bits, method), members in sorted(rows.items(), key=lambda row: _place(row[0])):
        records = [found[cell.key] for cell in members]
        whole = [record for record in records if not diverged(record)]
        numbers = [len(records), len(records) - len(whole)]
        line = [task, str(bits or "own"), method, *map(str, numbers)]
        line += [_num_collapsed(whole, boundary, found) for boundary in _BOUNDARIES]
        line += [_worst(whole, boundary, members[0].task.score) for boundary in _BOUNDARIES]
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def _place(row: tuple[str, float, str]) -> tuple[str, float, str]:
    task, bits, method = row
    return task, -bits, method


def _num_collapsed(records: list[Record], boundary: str, found: dict[str, Record]) -> str:
    verdicts = [collapsed(record, boundary, found) for record in records]
    return "–" if None in verdicts else str(sum(filter(None, verdicts)))


def _worst(records: list[Record], boundary: str, score: str) -> str:
    values = scores(records, boundary, score)
    if not values:
        return "–"
    return f"{max(values):.2f}" if score == "perplexity" else f"{min(values):.3f}"
