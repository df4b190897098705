"""SIGINT and SIGTERM as a request to stop at the next step, and a second one as an order."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopSignal:
    """Notes the first signal for as long as the block runs; the second raises KeyboardInterrupt.

    Attributes:
        number: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
