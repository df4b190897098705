"""One thread that lets time pass for sessions: it notices silence and leases that run out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from amaqctl.transports.session import Session


class Watch:
    """Looks at every session eight times in the silence that it has to notice.

    A process that was stopped (SIGSTOP, a sleeping laptop) has not listened meanwhile: that time
    is forgiven, or it would give everybody up on waking.
    """

    def __init__(self, sessions: Iterable[Session]) -> None:
        self._sessions = tuple(sessions)
        self._interval = min((s.patience.silence_seconds for s in self._sessions), default=1.0) / 8
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amaqctl-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._is_over.wait(self._interval):
            gap = time.monotonic() - last
            last += gap
            forgiven_seconds = gap if gap > 4 * self._interval else 0.0
            for session in self._sessions:
                session.look(forgiven_seconds)
