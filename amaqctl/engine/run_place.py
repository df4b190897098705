"""The folder of a run as a place on a disk: taken by one process, mended, free of links."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Any

from amaqctl.errors import InputError, ResumeError
from amaqctl.storage import AlreadyThere, explained, write_json, write_text

_UNFINISHED = ".tmp-created"
_FILES = ("run.json", "environment.json")
_WRITTEN = (*_FILES, "adapter", "weights", "bits", "checkpoints", "quantizer")
_GROWING = ("metrics.jsonl", "log.txt")
_COPY = "put a copy of what it leads to in its place"
_LONGEST_LINE = 2**20


def fill_new_folder(
    path: Path, profile_yaml: str, environment: dict[str, Any], run: dict[str, Any]
) -> None:
    """Make a run folder at ``path``, ``run.json`` last; of several processes one succeeds.

    Raises:
        InputError: it exists and is not empty, or another process makes it.
        ResourceError: it cannot be written.
    """
    refuse_occupied(path)
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = locked(path)
        try:
            if lock is False or not _is_free(path):
                raise _occupied(path)
            (path / _UNFINISHED).touch()  # who dies before run.json is there leaves a free folder
            write_text(path / "profile.yaml", profile_yaml)
            write_json(path / "environment.json", environment)
            write_json(path / "run.json", run, replace=False)
            (path / _UNFINISHED).unlink(missing_ok=True)
        except AlreadyThere:
            raise _occupied(path) from None
        finally:
            if lock:
                os.close(lock)


def refuse_occupied(path: Path) -> None:
    """Refuse a place for a new run folder where something stands already.

    Raises:
        InputError: it exists and is not empty.
    """
    if os.path.lexists(path) and not _is_free(path):
        raise _occupied(path)


def locked(path: Path) -> int | bool | None:
    """The handle that holds the lock of a folder; False: another has it; None: there are none."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # some network file systems know no locks
        os.close(handle)
        return None
    return handle


def first_stranger(run: Path) -> tuple[Path, str, str] | None:
    """The first place by which training would write, cut off or delete elsewhere, and what it is.

    The folder itself may be a link. A second name of a file that grows counts too: its other name
    would grow as well.

    Returns:
        It, what it is, and a way out.
    """
    for name in (*_WRITTEN, *_GROWING):
        for path in (run / name, *sorted((run / name).rglob("*"))):
            if path.is_symlink():
                return path, "a link", _COPY
    for path in (run / name for name in _GROWING):
        if path.exists() and not stat.S_ISREG(path.lstat().st_mode):
            return path, "no regular file", "move it away"
        if path.exists() and path.lstat().st_nlink > 1:
            return path, "a second name of another file", _COPY
    return None


def cut_torn_line(path: Path) -> None:
    """Cut off what follows the last line end; a killed process wrote only a part of it.

    Raises:
        ResumeError: as `end_of_lines`.
    """
    kept = end_of_lines(path)
    with path.open("rb+") as file:
        if kept < file.seek(0, os.SEEK_END):
            file.truncate(kept)


def end_of_lines(path: Path) -> int:
    """Where the last whole line ends, in bytes.

    Raises:
        ResumeError: further from the end than any line of ours is long: no run wrote this file.
    """
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE)
        file.seek(start)
        found = file.read().rfind(b"\n")
    if found < 0 < start:
        raise ResumeError(
            f"{path.name} has no line end in its last MiB, so no run wrote it",
            where=str(path.parent),
            hint=f"move {path.name} away",
        )
    return start + found + 1


def _is_free(path: Path) -> bool:
    """Empty, or left by a process that died while it made a run folder of it."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or (_UNFINISHED in names and "run.json" not in names)


def _occupied(path: Path) -> InputError:
    return InputError(
        "exists already; a run is never overwritten",
        where=str(path),
        hint="choose another --out, or leave it away",
        error_id="INPUT-RUN-EXISTS",
    )
