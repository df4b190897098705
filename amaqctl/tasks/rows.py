"""Rows of a data file: JSON lines (``.jsonl``, ``.json``) or CSV with a header.

Every row knows its file and line, so that any fault found later names the place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaqctl.errors import InputError
from amaqctl.nearest import listed, nearest
from amaqctl.tasks.csv_rows import csv_rows, other_separator, separator_hint
from amaqctl.tasks.data_text import read_text
from amaqctl.tasks.json_rows import json_rows, json_type

JSON_SUFFIXES = (".jsonl", ".json")
ROW_SUFFIXES = (*JSON_SUFFIXES, ".csv")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        values: column name to value.
        place: its ``file:line``, counted from 1.
        wanted: the columns that the task reads; none of them is a slip of another.
    """

    values: Mapping[str, Any]
    place: str
    wanted: Collection[str] = ()

    def value(self, column: str) -> Any:
        """The value of ``column``.

        Raises:
            InputError: this row has no such column; names those that it has.
        """
        if column in self.values:
            return self.values[column]
        raise InputError(
            f"no column '{column}'; columns here: {listed(self.values) or 'none'}",
            where=self.place,
            hint=self._way_to(column),
            error_id="INPUT-COLUMN",
        )

    def _way_to(self, column: str) -> str:
        separator = other_separator(next(iter(self.values), "")) if len(self.values) == 1 else None
        if separator:
            return separator_hint(separator)
        near = nearest(column, self.values, but=self.wanted)
        if near:
            return f"did you mean '{near}'?"
        return "add it to the row, or name another column in task.options"

    def text(self, column: str, *, may_be_blank: bool = False) -> str:
        """The value of ``column``, which must be a string.

        Raises:
            InputError: no such column, not a string, not encodable, or blank.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise InputError(
                f"column '{column}' holds {json_type(value)}, not a string",
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


def read_rows(path: Path, wanted: Collection[str] = ()) -> list[Row]:
    """All rows of ``path``, in order. Blank lines are skipped.

    Args:
        wanted: the columns that will be read, for better suggestions where one is missing.

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
    read = csv_rows if suffix == ".csv" else json_rows
    rows = [
        Row(values, f"{path}:{line}", wanted) for line, values in read(str(path), read_text(path))
    ]
    if not rows:
        raise InputError(
            "the file has no rows",
            where=str(path),
            hint="give a file with at least one row",
            error_id="INPUT-EMPTY",
        )
    return rows
