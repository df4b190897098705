"""Files and folders that appear whole or not at all: write beside, flush to disk, put in place.

The umask decides who may read them: libraries that make files for their owner alone are
corrected.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from amaqctl.errors import InputError
from amaqctl.storage.faults import explained
from amaqctl.storage.workplace import workplace

# What a file system says that knows no second name of a file.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class AlreadyThere(InputError):  # noqa: N818 - named for what it says
    """Something stands where nothing may be replaced, made by another process perhaps just now."""

    default_id = "INPUT-EXISTS"


def write_file(path: Path, write: Callable[[Path], None], *, replace: bool = True) -> None:
    """Let ``write`` make a file beside ``path``, then put it in place.

    Args:
        write: given the path to write to; nothing is there yet.
        replace: whether a file that stands at ``path`` is replaced. If not, of several processes
            that write at once exactly one succeeds.

    Raises:
        AlreadyThere: something is at ``path`` and ``replace`` is False.
        ResourceError: no room, or no permission. What stood at ``path`` is as it was.
    """
    with explained(path), workplace(path) as place:
        made = place / path.name
        write(made)
        _settle(made, place)
        if replace:
            os.replace(made, path)
        else:
            _put_file(made, path)
        sync(path.parent)


def write_text(path: Path, text: str, *, replace: bool = True) -> None:
    """Write UTF-8 text; see `write_file`."""
    write_file(path, lambda made: _write_utf8(made, text), replace=replace)


def write_json(path: Path, document: Any, *, replace: bool = True) -> None:
    """Write a readable JSON document; see `write_file`."""
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_text(path, text, replace=replace)


def write_folder(
    folder: Path, write: Callable[[Path], None], *, replace: bool = False, secret: str | None = None
) -> None:
    """Let ``write`` fill a new folder, flush all of it, and put it in place.

    Args:
        write: given the empty folder to fill.
        replace: whether a folder that stands there is replaced; an empty one always is. A kill
            between the two moves that this takes leaves neither.
        secret: suffix of the files that their owner alone may read, whatever the umask; ``write``
            makes them so from the start (`write_secret`).

    Raises:
        AlreadyThere: ``folder`` holds something, or is a file, and ``replace`` is False.
        ResourceError: no room, or no permission. What stood there is as it was.
    """
    with explained(folder), workplace(folder) as place:
        made = place / "new"
        made.mkdir()
        write(made)
        for path in sorted(made.rglob("*"), reverse=True):
            if secret is None or path.suffix != secret:
                _settle(path, place)
            else:
                sync(path)
        sync(made)
        _put_folder(made, folder, place / "old" if replace else None)
        sync(folder.parent)


def write_secret(path: Path, data: bytes) -> None:
    """Make a new file that nobody else may read at any moment, in a folder that is being made."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(handle, "wb") as file:
        os.fchmod(handle, 0o600)
        file.write(data)


def remove_folder(folder: Path) -> None:
    """Delete a folder; first moved aside, so that it is never seen half there.

    Raises:
        ResourceError: it cannot be moved.
    """
    with explained(folder), workplace(folder) as place:
        os.rename(folder, place / "old")


def open_to_append(path: Path) -> TextIO:
    """Open a text file of ours to append to; it is made if it is not there.

    Raises:
        OSError: it cannot be written, or is no regular file of one name: through a link, another
            file would be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags, 0o666)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file of one name", str(path))
    return open(handle, "a", encoding="utf-8")


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle(path: Path, place: Path) -> None:
    """Give what was made the permissions that the umask left to its workplace; flush it."""
    if path.is_file():
        mode = stat.S_IMODE(place.stat().st_mode) & 0o666
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
    sync(path)


def _put_file(made: Path, path: Path) -> None:
    try:
        os.link(made, path)
    except FileExistsError:
        raise _already_there(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_under_lock(made, path)


def _rename_under_lock(made: Path, path: Path) -> None:
    """Where there are no links: at least all of us take turns."""
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.lexists(path):
            raise _already_there(path)
        os.rename(made, path)
    finally:
        os.close(handle)


def _put_folder(made: Path, folder: Path, old: Path | None) -> None:
    is_aside = old is not None and os.path.lexists(folder)
    if is_aside:
        os.rename(folder, old)  # type: ignore[arg-type]
    try:
        os.rename(made, folder)  # takes the place of an empty folder, of nothing else
    except OSError as error:
        if is_aside:
            os.rename(old, folder)  # type: ignore[arg-type]
            raise
        if error.errno not in _OCCUPIED or not os.path.lexists(folder):
            raise
        raise _already_there(folder) from None


def _already_there(path: Path) -> AlreadyThere:
    return AlreadyThere(
        "exists already; nothing is overwritten",
        where=str(path),
        hint="choose another place",
    )


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
