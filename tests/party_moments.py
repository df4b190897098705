"""Moments in the life of a run of several parties, waited for."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from party_lives import LEADER, PartyRun

MOMENTS = {"starting": 3, "greeting": 3, "running": 7, "saving": 5, "ending": 3}
"""And how often each is chosen."""
_SAVE_SECONDS = 0.05
_LONGEST_SECONDS = 60.0


class Moments:
    """Of the lives that go on now.

    Args:
        choose: random numbers.
        seconds: from the start of training to its end where nothing disturbs it.
    """

    def __init__(self, run: PartyRun, choose: random.Random, seconds: float) -> None:
        self._run, self._choose, self._seconds = run, choose, seconds
        self._size = self._log_size()

    def wait(self) -> str | None:
        """Wait for a moment; which, or None where a party or the run ended before."""
        moment = self._choose.choices([*MOMENTS], [*MOMENTS.values()])[0]
        spread = self._choose.uniform
        seen, seconds = {
            "starting": (lambda: True, 0.7 * self._seconds),
            "greeting": (self._is_connected, 0.4),
            "running": (self._is_training, self._seconds),
            "saving": (self._is_saving, _SAVE_SECONDS),
            "ending": (self._is_ending, 2 * _SAVE_SECONDS),
        }[moment]
        for _ in range(self._choose.randint(0, 2) if moment == "saving" else 0):
            if not (self._until(seen) and self._until(lambda: not self._is_saving())):
                return None
        if not self._until(seen):
            return None
        end = time.monotonic() + spread(0, seconds)
        return moment if self._until(lambda: time.monotonic() >= end) else None

    def wait_until_training(self) -> None:
        """Wait until the leader has begun."""
        self._until(self._is_training)

    def _until(self, holds: Callable[[], bool]) -> bool:
        run, end = self._run, time.monotonic() + _LONGEST_SECONDS
        while not holds():
            if run.is_done or time.monotonic() > end or len(run.lives) < len(run.parties):
                return False
            for life in run.lives.values():  # seen, and left to be reaped
                if os.waitid(os.P_PID, life.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return False
            time.sleep(0.002)
        return True

    def _is_connected(self) -> bool:
        return any(life.is_connected for life in self._run.lives.values())

    def _is_training(self) -> bool:
        return self._log_size() > self._size

    def _log_size(self) -> int:
        log = self._run.out / LEADER / "log.txt"
        return log.stat().st_size if log.exists() else 0

    def _is_saving(self) -> bool:
        out, parties = self._run.out, self._run.parties
        return any(any((out / name / "checkpoints").glob(".tmp-*")) for name in parties)

    def _is_ending(self) -> bool:
        return any((self._run.out / name / "adapter").exists() for name in self._run.parties)
