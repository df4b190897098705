"""Things that a path can be instead of an ordinary file; each is made by a function of the path."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable


def odd_files() -> list[tuple[str, Callable[[str], None]]]:
    """What the path is, and what makes it so."""
    return [
        ("a pipe", os.mkfifo),
        ("a folder", os.mkdir),
        ("a link to /dev/zero", lambda path: os.symlink("/dev/zero", path)),
        ("a link to /dev/null", lambda path: os.symlink("/dev/null", path)),
        ("a link to itself", lambda path: os.symlink(path, path)),
        ("a link to nowhere", lambda path: os.symlink("nowhere", path)),
        ("a socket", _socket),
        ("terabytes of holes", _holes),
        ("empty", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY))),
        ("missing", lambda path: None),
        ("a link to a process's memory", lambda path: os.symlink("/proc/self/mem", path)),
        ("a link to a process's name", lambda path: os.symlink("/proc/self/comm", path)),
    ]


def _socket(path: str) -> None:
    socket.socket(socket.AF_UNIX).bind(path)


def _holes(path: str) -> None:
    with open(path, "wb") as file:
        file.truncate(2 << 40)
