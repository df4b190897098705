"""The text of a data file: UTF-8, whole, and no more than this machine can hold."""

from __future__ import annotations

import codecs
from pathlib import Path

import psutil

from amaqctl.errors import InputError
from amaqctl.storage import read_bytes

_BYTES_HELD_PER_BYTE = 20
"""What a byte of data takes as text, rows and token ids together, at the least."""

_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file (a byte order mark is taken off).

    Raises:
        InputError: missing, no regular file, unreadable, larger than memory allows, empty,
            not UTF-8 (names the line), or binary.
    """
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise _not_text(path, content, error.start, f"not UTF-8: byte 0x{byte:02x}") from None
    if not text or text.isspace():
        raise InputError(
            "the file is empty",
            where=str(path),
            hint="give a file with data",
            error_id="INPUT-EMPTY",
        )
    if "\0" in text:
        raise _not_text(path, content, content.index(0), "byte 0x00 is no text")
    return text


def _content(path: Path) -> bytes:
    most = psutil.virtual_memory().available // _BYTES_HELD_PER_BYTE
    try:
        size = path.stat().st_size
        # No more than there is: as much as is allowed would be reserved at once.
        return read_bytes(path, size if 0 < size <= most else most)
    except FileNotFoundError:
        raise InputError(
            "no such file",
            where=str(path),
            hint=f"relative paths start at the current directory, {Path.cwd()}",
            error_id="INPUT-FILE",
        ) from None
    except InputError as error:
        raise InputError(
            error.message,
            where=error.where,
            hint="give a regular file, of which this machine's free memory holds the tokens; "
            "save what a pipe carries to a file first",
            error_id=error.error_id,
        ) from error


def _not_text(path: Path, content: bytes, position: int, message: str) -> InputError:
    encoding = next((name for mark, name in _OTHER_ENCODINGS if content.startswith(mark)), None)
    return InputError(
        f"{message}{f'; it looks like {encoding}' if encoding else ''}",
        where=f"{path}:{content.count(10, 0, position) + 1}",
        hint="convert the file to UTF-8",
        error_id="INPUT-ENCODING",
    )
