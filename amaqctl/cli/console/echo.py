"""What a terminal itself writes on the screen while a live display stands there."""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterator

_LOCAL_FLAGS = 3  # place of the local modes in what tcgetattr returns


@contextlib.contextmanager
def no_caret() -> Iterator[None]:
    """Let Ctrl-C not be shown as ``^C``.

    Behind the last line of a display those two letters begin a line of their own, and the display
    then clears one line too few of itself.
    """
    try:
        terminal = sys.stderr.fileno()
        before = termios.tcgetattr(terminal)
        silent = list(before)
        silent[_LOCAL_FLAGS] &= ~termios.ECHOCTL
        termios.tcsetattr(terminal, termios.TCSANOW, silent)
    except (termios.error, OSError, ValueError):  # no terminal
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(termios.error, OSError, ValueError):  # it may have gone away
            termios.tcsetattr(terminal, termios.TCSANOW, before)
