"""Rows of a data file: JSON lines (``.jsonl``, ``.json``) or CSV with a header.

Every row knows its file and line, so that any fault found later names the place.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaqctl.errors import InputError

JSON_SUFFIXES = (".jsonl", ".json")
ROW_SUFFIXES = (*JSON_SUFFIXES, ".csv")


@dataclass(frozen=True)
class Row:
    """One row: column name to value, and its ``file:line`` (counted from 1)."""

    values: Mapping[str, Any]
    place: str

    def value(self, column: str) -> Any:
        """The value of ``column``.

        Raises:
            InputError: this row has no such column; names those that it has.
        """
        if column in self.values:
            return self.values[column]
        near = difflib.get_close_matches(column, self.values, n=1, cutoff=0.5)
        columns = ", ".join(self.values) or "none"
        raise InputError(
            f"no column '{column}'; columns here: {columns}",
            where=self.place,
            hint=f"did you mean '{near[0]}'?" if near else "name one of these in task.options",
            error_id="INPUT-COLUMN",
        )

    def text(self, column: str, *, may_be_blank: bool = False) -> str:
        """The value of ``column``, which must be a string.

        Raises:
            InputError: no such column, not a string, not encodable, or blank.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise InputError(
                f"column '{column}' holds {_json_type(value)}, not a string",
                where=self.place,
                hint="write the value as a string",
                error_id="INPUT-VALUE",
            )
        if not may_be_blank and not value.strip():
            raise InputError(
                f"column '{column}' is blank",
                where=self.place,
                hint="remove the row or fill it",
                error_id="INPUT-EMPTY",
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"column '{column}' holds half of a surrogate pair at character {error.start}",
                where=self.place,
                hint="write the character as UTF-8 or as both \\u escapes",
                error_id="INPUT-ENCODING",
            ) from None
        return value


def read_rows(path: Path) -> list[Row]:
    """All rows of ``path``, in order. Blank lines are skipped.

    Raises:
        InputError: unreadable, not UTF-8, of unknown format, malformed, or without rows.
    """
    suffix = path.suffix.lower()
    if suffix not in ROW_SUFFIXES:
        raise InputError(
            f"unknown data format '{path.suffix}'",
            where=str(path),
            hint=f"known are {', '.join(ROW_SUFFIXES)}",
            error_id="INPUT-FORMAT",
        )
    text = read_text(path)
    rows = list(_csv_rows(path, text) if suffix == ".csv" else _json_rows(path, text))
    if not rows:
        raise InputError(
            "the file has no rows",
            where=str(path),
            hint="give a file with at least one row",
            error_id="INPUT-EMPTY",
        )
    return rows


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file (a byte order mark is taken off).

    Raises:
        InputError: missing, unreadable, empty, or not UTF-8 (names the line).
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            "no such file",
            where=str(path),
            hint=f"relative paths start at the current directory, {Path.cwd()}",
            error_id="INPUT-FILE",
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}",
            where=str(path),
            hint="give a readable file",
            error_id="INPUT-FILE",
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"not UTF-8: byte 0x{error.object[error.start]:02x}",
            where=f"{path}:{line}",
            hint="convert the file to UTF-8",
            error_id="INPUT-ENCODING",
        ) from None
    if not text.strip():
        raise InputError(
            "the file is empty",
            where=str(path),
            hint="give a file with data",
            error_id="INPUT-EMPTY",
        )
    return text


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    # Not splitlines(): it would also cut at U+2028, which is legal inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Row(_json_object(line, f"{path}:{number}"), f"{path}:{number}")


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        fault = f"not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        fault = f"not JSON that can be read: {error}"
    else:
        if isinstance(value, dict):
            return value
        fault = f"holds {_json_type(value)}, not an object"
    raise InputError(
        fault,
        where=place,
        hint='write one object a line, such as {"prompt": "...", "completion": "..."}',
        error_id="INPUT-FORMAT",
    )


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    try:
        for fields in reader:
            place = f"{path}:{reader.line_num}"
            if not fields:
                continue
            if columns is None:
                columns = _csv_columns(fields, place)
            else:
                yield Row(_csv_values(columns, fields, place), place)
    except csv.Error as error:
        raise _csv_fault(f"not CSV: {error}", f"{path}:{reader.line_num}") from None


def _csv_columns(fields: list[str], place: str) -> list[str]:
    repeated = sorted({name for name in fields if fields.count(name) > 1})
    if repeated:
        raise _csv_fault(f"the header repeats column '{repeated[0]}'", place)
    return fields


def _csv_values(columns: list[str], fields: list[str], place: str) -> dict[str, str]:
    if len(fields) != len(columns):
        raise _csv_fault(f"{len(fields)} fields under a header of {len(columns)}", place)
    return dict(zip(columns, fields, strict=True))


def _csv_fault(message: str, place: str) -> InputError:
    return InputError(
        message,
        where=place,
        hint="quote fields that hold commas, quotes or line breaks, or use .jsonl",
        error_id="INPUT-FORMAT",
    )


def _json_type(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object"}
    return names.get(type(value), "a string" if isinstance(value, str) else "a number")
