"""Every change that this process makes to files of one folder, told before it is made.

In a forked child it may be the last thing that the child does: `die_before`. Nothing here is
collected by pytest.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "os.chmod",
    "shutil.copyfile",
}


def watch(folder: Path, told: Callable[[], None]) -> None:
    """Call ``told`` before every change, and every flush to disk, below ``folder``; for good."""
    place = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            is_change = flags & os.O_ACCMODE != os.O_RDONLY if mode is None else mode != "r"
            is_change = is_change and (not isinstance(mode, str) or mode.strip("btU") != "r")
            if is_change and str(path).startswith(place):
                told()
        elif event in _CHANGES:
            # What is deleted in an open folder is told by its bare name.
            is_bare = event in ("os.remove", "os.rmdir") and arguments[-1] != -1
            if is_bare or str(arguments[0]).startswith(place):
                told()

    sys.addaudithook(hook)
    flush = os.fsync

    def told_flush(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").startswith(place):
            told()
        flush(handle)

    os.fsync = told_flush


def count_into(folder: Path, counted: Path) -> None:
    """Write down, in ``counted``, how many changes were made so far, after each of them."""
    count = 0
    handle = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def told() -> None:
        nonlocal count
        count += 1
        os.pwrite(handle, str(count).encode(), 0)

    watch(folder, told)


def die_before(folder: Path, number: int) -> None:
    """End this process by SIGKILL just before change ``number`` (from 1) below ``folder``."""
    left = number

    def told() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    watch(folder, told)
