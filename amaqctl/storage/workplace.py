"""Where something is made before it is put in place, and what becomes of one whose maker died.

A workplace is a hidden folder beside the target, of a name that nobody has (``mkdir`` neither
replaces nor follows anything). Its maker holds a lock on it for as long as it lives, and the
kernel gives that lock back however the maker ends. So a workplace that can be locked is a
leftover, and whoever next writes into the same folder deletes it. No process numbers are kept:
they are used again, and another container counts its own.

A folder that several machines share may not pass their locks on. The name therefore says which
machine made it; one of another machine, or from before a restart, must also be a day old.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PREFIX = ".tmp-amaqctl-"
_DAY_SECONDS = 86400
_MOST_TRIES = 100
_NAME_LENGTH = 40  # of the target's, so that the whole stays within what a name may have


@contextlib.contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``, gone afterwards with what is still in it.

    Leftovers of dead processes beside ``target`` are deleted first.

    Raises:
        OSError: the folder cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    place, lock = _claimed(target)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def sweep(folder: Path, older_patterns: tuple[str, ...] = ()) -> None:
    """Delete what processes that are dead left in ``folder``; what cannot be deleted stays.

    Args:
        older_patterns: names of the leftovers of earlier versions, which kept no lock; to be
            given only by who knows that no other process is at work in ``folder``.
    """
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*"):
            if path.name.startswith(_own_prefix()) or _age_seconds(path) > _DAY_SECONDS:
                _remove_if_dead(path)
        for pattern in older_patterns:
            for path in folder.glob(pattern):
                if not path.name.startswith(_PREFIX):
                    _remove_if_dead(path)


def _claimed(target: Path) -> tuple[Path, int]:
    """A new folder and the open handle that holds its lock.

    Raises:
        OSError: it cannot be made there; or each of many was deleted before it could be locked.
    """
    for _ in range(_MOST_TRIES):
        unique = f"{_own_prefix()}{secrets.token_hex(8)}-{target.name[:_NAME_LENGTH]}"
        place = target.with_name(unique)
        try:
            place.mkdir()
        except FileExistsError:
            continue
        try:
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # a sweeper came between the two calls, and deleted it
        if _locked(handle) is not False and _is_at(handle, place):
            return place, handle
        os.close(handle)  # a sweeper has it, and deletes it
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target.parent))


def _locked(handle: int) -> bool | None:
    """True: the lock is ours; False: another holds it; None: this file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(handle: int, place: Path) -> bool:
    """Whether the open folder is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(place))
    except FileNotFoundError:
        return False


def _remove_if_dead(path: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if _locked(handle) and _is_at(handle, path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(handle)


@cache
def _own_prefix() -> str:
    """The beginning of names that were given on this machine since it was started."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        machine = platform.node()
    return f"{_PREFIX}{hashlib.sha256(machine.encode()).hexdigest()[:8]}-"


def _age_seconds(path: Path) -> float:
    """Since anything in it was changed."""
    newest = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    return time.time() - newest
