"""SIGINT, SIGTERM and SIGHUP ask to stop at the next step; a second one is an order.

SIGHUP comes when the terminal goes away. Under nohup it is ignored, and stays so.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopSignal:
    """Notes the first signal for as long as the block runs; the second raises KeyboardInterrupt.

    Attributes:
        number: the signal that came last, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            is_nohup = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
            if not is_nohup:
                self._before[number] = signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        is_second = self.number is not None
        self.number = number
        if is_second:
            raise KeyboardInterrupt
