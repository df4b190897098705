"""Reading ``metrics.jsonl``: what a run measured, one object a line.

The rule: a ``resume`` of step S takes back what was recorded before it of steps after S; of
records with one kind and step the last holds. A last line without an end was cut off by a kill
and says nothing; any other line that is no record is a fault.

Lines are read backwards in thought: what takes back and what replaces comes later, so one pass
from the end decides, and the time grows with the lines alone, however often a run was resumed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from amaqctl.errors import InputError
from amaqctl.storage import open_regular

_MAX_FILE_BYTES = 2**30
_MAX_LINE_BYTES = 2**18


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records that hold, in the order of their last writing; none where there is no file.

    Raises:
        InputError: the file cannot be read, or a line is no record; it is named from 1.
    """
    try:
        records = _read_lines(path)
    except FileNotFoundError:
        return []
    holding: list[dict[str, Any]] = []
    seen: set[tuple[str, int]] = set()
    last_step = math.inf
    for record in reversed(records):
        key = record["kind"], record["step"]
        if record["step"] <= last_step and key not in seen:
            holding.append(record)
            seen.add(key)
        if record["kind"] == "resume":
            last_step = min(last_step, record["step"])
    return holding[::-1]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    with open_regular(path, _MAX_FILE_BYTES) as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if line.endswith(b"\n"):
                records.append(_record(path, number, line))
            elif len(line) == _MAX_LINE_BYTES:
                raise _no_record(path, number, f"longer than {_MAX_LINE_BYTES} bytes")
    return records


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    from pydantic import ValidationError  # slow, and `--help` comes by here
    from pydantic_core import from_json

    from amaqctl.engine.run_documents import MetricsRecord
    from amaqctl.storage.reading import first_fault

    try:
        MetricsRecord.model_validate_json(line)
    except ValidationError as error:
        raise _no_record(path, number, first_fault(error)) from error
    record: dict[str, Any] = from_json(line)
    return record


def _no_record(path: Path, number: int, why: str) -> InputError:
    return InputError(
        f"no record of a run: {why}",
        where=f"{path}:{number}",
        hint="take this line out; the checkpoints and the result do not depend on it",
        error_id="INPUT-METRICS",
    )
