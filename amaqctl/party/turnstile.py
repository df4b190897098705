"""A lock that is fair: who asks first computes first."""

from __future__ import annotations

import threading
from collections import deque


class Turnstile:
    """Lets one thread through at a time, in the order in which they came.

    A plain lock may be taken again at once by the thread that has just left it; with this one a
    client that asks for much delays another one by a single piece of work.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._waiting: deque[object] = deque()

    def __enter__(self) -> None:
        ticket = object()
        with self._change:
            self._waiting.append(ticket)
            try:
                self._change.wait_for(lambda: self._waiting[0] is ticket)
            except BaseException:
                self._waiting.remove(ticket)
                self._change.notify_all()
                raise

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._waiting.popleft()
            self._change.notify_all()
