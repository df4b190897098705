"""What a grid has measured: a JSON line a cell, in a file that is kept with the project."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cells import Cell

Record = dict[str, Any]
KEPT = Path(__file__).with_name("records.jsonl")

_TRAINED = (
    "loss_before",
    "activation_bits_at_end",
    "activation_bits_over_run",
    "gradient_bits_over_run",
    "wire_bytes",
    "wire_values",
    "seconds",
    "peak_memory_mib",
)


def load(path: Path) -> dict[str, Record]:
    """Records by key; of two with one key the later counts.

    Raises:
        SystemExit: a line is not a record: what to do about it.
    """
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            found[record["key"]] = record
        except (json.JSONDecodeError, KeyError, TypeError):
            # Half a line, as a full disk leaves it: the next record would be glued to it.
            sys.exit(f"{path}: line {number} is not a record; take it out, its cell is run again")
    return found


def append(path: Path, record: Record) -> None:
    """Add one record as one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")


def missing(cells: Iterable[Cell], found: dict[str, Record]) -> list[Cell]:
    """Cells without a record of the same settings, each once."""
    by_key = {cell.key: cell for cell in cells}
    done = current(by_key.values(), found)
    return [cell for key, cell in by_key.items() if key not in done]


def current(cells: Iterable[Cell], found: dict[str, Record]) -> dict[str, Record]:
    """By key, the record of each cell that has one of its present settings."""
    return {
        cell.key: found[cell.key]
        for cell in cells
        if cell.key in found and found[cell.key]["digest"] == cell.digest()
    }


def failure_of(cell: Cell, made_by: dict[str, Any], document: dict[str, Any]) -> Record:
    """What is kept of a cell that diverged: the error of the command that said so."""
    return {**_place_of(cell, made_by), "failed": document["error"]["id"]}


def record_of(
    cell: Cell,
    made_by: dict[str, Any],
    trained: dict[str, Any],
    scored: dict[str, Any],
    widths: dict[str, list[int]],
) -> Record:
    """What is kept of a cell.

    Args:
        made_by: commit, versions, machine.
        trained: document of `amaqctl train --json`.
        scored: document of `amaqctl eval --json`.
        widths: for each link, how many channels have the width 0, 1, 2 …, at the end.
    """
    data = trained["data"]
    return {
        **_place_of(cell, made_by),
        **{name: data[name] for name in _TRAINED},
        "num_scored": scored["data"]["num_examples"],
        "scores": scored["data"]["metrics"],
        "widths": widths,
    }


def _place_of(cell: Cell, made_by: dict[str, Any]) -> Record:
    return {
        "key": cell.key,
        "digest": cell.digest(),
        "task": cell.task.name,
        "method": cell.method.name,
        "bits": cell.bits,
        "cuts": cell.cuts,
        "seed": cell.seed,
        "scored_on": cell.scored_on,
        "made_by": made_by,
    }
