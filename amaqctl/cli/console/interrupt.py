"""Ctrl-C before training: it ends the program with one line, whatever is being loaded.

Until a command begins the program ends at once. In a command SIGINT is remembered, because
libraries turn it into errors of their own. Measured: interrupted at the wrong moment,
transformers tells that a module cannot be imported.
While training runs, `amaqctl.engine.stop_signal` stands in front of this.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

MESSAGE = "stopped at once; what was saved before is whole"

_come: list[int] = []


def end_at_once() -> None:
    """Let SIGINT end the program without KeyboardInterrupt, until `watch`.

    Raised in the middle of an import, KeyboardInterrupt may come out in one of Python's own
    callbacks, which prints it and goes on. Nothing is open yet that an end could tear.
    Where SIGINT is ignored, as in the background of a script, it stays so.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def watch() -> None:
    """Remember SIGINT from now on; it raises KeyboardInterrupt as it always does.

    Only where `end_at_once` was in force: a program that calls a command keeps its own handler.
    """
    if signal.getsignal(signal.SIGINT) == _end:
        signal.signal(signal.SIGINT, _note)


def has_come() -> bool:
    """Whether SIGINT came since `watch`."""
    return bool(_come)


def _end(_: int, __: FrameType | None) -> None:
    try:
        os.write(2, f"error: {MESSAGE}\n".encode())
    finally:  # even where there is no stderr
        os._exit(130)


def _note(number: int, _: FrameType | None) -> None:
    _come.append(number)
    raise KeyboardInterrupt
