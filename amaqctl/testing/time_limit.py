"""A limit of wall-clock time: what does not end is interrupted, and told by where it was."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

_AGAIN_SECONDS = 1.0  # for code that catches everything and goes on
_AT_ONCE_SECONDS = 1e-3


class TimeLimitError(Exception):
    """The time is up; raised wherever the program was."""


@dataclass
class Clock:
    """Whether the time ran out, told even where somebody caught the error."""

    ran_out: bool = False


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[Clock]:
    """Interrupt what runs longer. Python code is, and torch between two of its operations.

    Only the main thread of a system with signals can be interrupted; elsewhere nothing is.
    A limit may stand inside another.

    Raises:
        TimeLimitError: inside the block, once the time is up, and every second after that.
    """
    clock = Clock()
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield clock
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        clock.ran_out = True
        raise TimeLimitError(f"not done within {seconds:g} s")

    left, again = signal.getitimer(signal.ITIMER_REAL)
    if 0 < left <= seconds:  # a limit around this one is stricter
        yield clock
        return
    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        yield clock
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            due = left - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(due, _AT_ONCE_SECONDS), again)
