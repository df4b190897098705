"""Ctrl-C while a command loads: remembered, because libraries turn it into errors of their own.

Measured: interrupted at the wrong moment, transformers tells that a module cannot be imported.
While training runs, `amaqctl.engine.stop_signal` stands in front of this.
"""

from __future__ import annotations

import signal
from types import FrameType

MESSAGE = "stopped at once; what was saved before is whole"

_come: list[int] = []


def watch() -> None:
    """Remember SIGINT from now on; it raises KeyboardInterrupt as it always does.

    Where SIGINT is ignored, as in the background of a script, it stays so.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def has_come() -> bool:
    """Whether SIGINT came since `watch`."""
    return bool(_come)


def _note(number: int, _: FrameType | None) -> None:
    _come.append(number)
    raise KeyboardInterrupt
