"""A real terminal for the real program: what is typed reaches it, what it shows is a screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable

_CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


def in_terminal(
    arguments: list[str], keys: bytes, when: Callable[[bytes], bool], columns: int = 80
) -> tuple[str, int, str]:
    """Run amaqctl in a terminal of a width and type ``keys`` once ``when`` holds of its output.

    Returns:
        The screen at the end, the exit code, and all that was written.
    """
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover
        os.environ["TERM"] = "xterm"
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, "-m", "amaqctl", *arguments])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written, is_typed, end = b"", False, time.monotonic() + 300
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # the program has ended
                break
            written += part
        if keys and not is_typed and when(written):
            is_typed = True
            os.write(terminal, keys)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    text = written.decode("utf-8", "replace")
    return screen_of(text, columns), code, text


def screen_of(text: str, columns: int) -> str:
    """What stands on the screen after ``text``; knows what rich and our own lines use."""
    rows: list[list[str]] = [[]]
    row = column = index = 0
    while index < len(text):
        found = _CONTROL.match(text, index)
        if found:
            index = found.end()
            count = int(found[1]) if found[1].isdigit() else 1
            if found[2] == "A":
                row = max(0, row - count)
            elif found[2] == "K":
                rows[row] = [] if found[1] == "2" else rows[row][:column]
            continue
        letter = text[index]
        index += 1
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
        elif letter >= " ":
            if column == columns:
                row, column = row + 1, 0
            while len(rows) <= row:
                rows.append([])
            rows[row] += [" "] * (column + 1 - len(rows[row]))
            rows[row][column] = letter
            column += 1
        while len(rows) <= row:
            rows.append([])
    return "\n".join("".join(cells).rstrip() for cells in rows).rstrip("\n")
