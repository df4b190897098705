"""Reading a file of ours: a regular one, no larger than such a file can be, and what was due in it.

A pipe would be waited for without end, and a device has no end. Nesting is bounded too, by the
JSON reader.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amaqctl.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    Document = TypeVar("Document", bound=BaseModel)

MAX_JSON_BYTES = 4 * 2**20


def open_regular(path: Path, max_bytes: int | None) -> BufferedReader:
    """Open a file to read bytes.

    Args:
        max_bytes: refuse a larger file; None where the reader takes no more memory for one.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is no regular file, larger, or must not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    found = os.fstat(handle)
    why = None
    if not stat.S_ISREG(found.st_mode):
        why = "it is no regular file"
    elif max_bytes is not None and found.st_size > max_bytes:
        why = f"it has {found.st_size} bytes, more than the {max_bytes} that are legal"
    if why is not None:
        os.close(handle)
        raise _unreadable(path, why)
    return open(handle, "rb")


def check_regular(path: Path) -> None:
    """Raise as `open_regular` does, for a file of any size that a library opens by its name."""
    open_regular(path, None).close()


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """All bytes of a file; raises as `open_regular` does."""
    with open_regular(path, max_bytes) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error
    if len(data) > max_bytes:  # it grew, or is one of those whose size is told as 0
        raise _unreadable(path, f"it has more than {max_bytes} bytes")
    return data


def read_json(
    path: Path, schema: type[BaseModel] | None = None, max_bytes: int = MAX_JSON_BYTES
) -> Any:
    """The JSON value in a file, as it stands there.

    Args:
        schema: what is due in it; None takes any value.

    Raises:
        FileNotFoundError: there is none.
        InputError: it cannot be read, is no JSON, or holds something else; the key is named.
    """
    from pydantic_core import from_json

    data = read_bytes(path, max_bytes)
    if schema is not None:
        _parsed(path, data, schema)
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _unreadable(path, f"no legal JSON: {_first_line(error)}") from error


def read_document(path: Path, schema: type[Document], max_bytes: int = MAX_JSON_BYTES) -> Document:
    """What stands in a JSON file, by its schema; raises as `read_json` does."""
    return _parsed(path, read_bytes(path, max_bytes), schema)


def _parsed(path: Path, data: bytes, schema: type[Document]) -> Document:
    from pydantic import ValidationError

    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise _unreadable(path, first_fault(error)) from error


def first_fault(error: Any) -> str:
    """The first thing that a pydantic ValidationError names, in one line: ``key: what``."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).splitlines()[0]
    return f"{place[:100]}: {message}" if place else message


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"cannot be read: {why}", where=str(path), error_id="INPUT-FILE")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
