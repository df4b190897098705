"""CSV with a header, as RFC 4180 has it: commas, quotes doubled, fields of any length."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from amaqctl.errors import InputError

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_OTHER_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}


def csv_rows(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Last line (from 1) and values of each row of ``text``; blank lines are skipped.

    Raises:
        InputError: not CSV, or a row that does not fit the header; names the place in ``path``.
    """
    lines = (found[0] for found in _LINE.finditer(text))
    reader = csv.reader(lines, strict=True)
    separator = other_separator(text.lstrip().split("\n", 1)[0])
    columns: list[str] | None = None
    try:
        for fields in _fields(reader, len(text)):
            if not fields:
                continue
            if columns is None:
                columns = fields
                _check_header(fields)
            elif len(fields) != len(columns):
                raise csv.Error(f"{len(fields):,} fields under a header of {len(columns):,}")
            else:
                yield reader.line_num, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        hint = "quote fields that hold commas, quotes or line breaks, or use .jsonl"
        raise InputError(
            str(error),
            where=f"{path}:{reader.line_num}",
            hint=separator_hint(separator) if separator else hint,
            error_id="INPUT-FORMAT",
        ) from None


def other_separator(header: str) -> str | None:
    """What a header without commas seems to be separated by, in words; None where by nothing."""
    if "," in header:
        return None
    return next((words for sign, words in _OTHER_SEPARATORS.items() if sign in header), None)


def separator_hint(separator: str) -> str:
    """The way out for a file of fields separated by ``separator``."""
    return (
        f"the fields seem to be separated by {separator}; save the file with commas, or as .jsonl"
    )


def _fields(reader: Any, max_characters: int) -> Iterator[list[str]]:
    """The reader's rows. Its limit on a field is one of the whole process, so it is put back."""
    while True:
        limit = csv.field_size_limit(max_characters + 1)
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(f"not CSV: {error}") from None
        finally:
            csv.field_size_limit(limit)
        yield fields


def _check_header(fields: list[str]) -> None:
    repeated = sorted(name for name, count in Counter(fields).items() if count > 1)
    if repeated:
        raise csv.Error(f"the header repeats column '{repeated[0]}'")
