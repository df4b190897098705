"""Files that appear whole or not at all: write beside, flush to disk, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amaqctl.errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then put it in place.

    Raises:
        ResourceError: no room, or no permission; what stood at ``path`` is as it was.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:  # gone already if all went well
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; see `write_file`."""
    write_file(path, lambda temporary: _write_utf8(temporary, text))


def write_json(path: Path, document: Any) -> None:
    """Write a readable JSON document; see `write_file`."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def put_folder_in_place(unfinished: Path, folder: Path) -> None:
    """Flush every file of ``unfinished`` and rename it to ``folder``, which must not exist."""
    for path in sorted(unfinished.rglob("*"), reverse=True):
        sync(path)
    sync(unfinished)
    os.rename(unfinished, folder)
    sync(folder.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder; first renamed, so that it is never seen half there."""
    doomed = folder.with_name(f".tmp-old-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error(error: Exception, path: Path) -> ResourceError:
    """The one-line error for a write that failed: an OSError, or what safetensors makes of one."""
    number = error.errno if isinstance(error, OSError) else _errno_in(str(error))
    if number in _FULL:
        hint = "free some space, or choose another place with output.root or --out"
        return ResourceError("the disk is full", where=str(path), hint=hint)
    hint = "choose another place with output.root or --out"
    why = os.strerror(number) if number else str(error)
    if number == errno.EEXIST:
        why = "a file stands where a folder is needed"
    return ResourceError(f"cannot be written: {why}", where=str(path), hint=hint)


def _errno_in(text: str) -> int | None:
    """The number in ``No space left on device (os error 28)``, as Rust puts it."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
