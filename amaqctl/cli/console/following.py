"""What a follower shows while its leader trains: a greppable line now and then."""

from __future__ import annotations

import time
from typing import Any

from amaqctl.cli.console.streams import say
from amaqctl.units import duration

_LINE_SECONDS = 30.0


class FollowingProgress:
    """A reporter for a follower.

    Args:
        quiet: show nothing.
        client: which one of several it is about; empty for the only one.
    """

    def __init__(self, quiet: bool, client: str = "") -> None:
        self._quiet, self._of = quiet, f"{client}: " if client else ""
        self._started = time.monotonic()
        self._last_line = 0.0
        self._first_step = self._total = 0

    @property
    def seconds(self) -> float:
        """Since training began."""
        return time.monotonic() - self._started

    def on_start(self, first_step: int, max_steps: int) -> None:
        """Start the clock."""
        self._first_step, self._total = first_step, max_steps
        self._started = self._last_line = time.monotonic()
        self._print(f"following from step {first_step} to {max_steps}")

    def on_step(self, record: dict[str, Any]) -> None:
        """Print a line when one is due."""
        step, now = record["step"], time.monotonic()
        if now - self._last_line < _LINE_SECONDS and step < self._total:
            return
        self._last_line = now
        done = step - self._first_step
        left = duration(self.seconds / done * (self._total - step))
        sent = record["wire/total_bytes"] / 2**20
        self._print(f"step={step}/{self._total} sent_mib={sent:.3f} eta={left}")

    def _print(self, line: str) -> None:
        if not self._quiet:
            say(f"{time.strftime('%H:%M:%S')} {self._of}{line}")


class ServingProgress:
    """What a server of several clients shows: a reporter for each, and what happens to them.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def reporter(self, client: str) -> FollowingProgress:
        """For the steps of one client."""
        return FollowingProgress(self._quiet, client)

    def tell(self, text: str) -> None:
        """Print one sentence."""
        if not self._quiet:
            say(f"{time.strftime('%H:%M:%S')} {text}")
