"""What is shown while examples are scored: on a terminal one line that changes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable

from amaqctl.cli.console.echo import no_caret
from amaqctl.cli.console.streams import say
from amaqctl.units import duration

_LINE_SECONDS = 30.0
_REDRAW_SECONDS = 0.2
_ERASE = "\r\x1b[K"


class ScoringProgress:
    """Tells how far an evaluation is; a context manager around it.

    Args:
        num_examples: that are scored.
        quiet: show nothing.
    """

    def __init__(self, num_examples: int, quiet: bool) -> None:
        self._num_examples = num_examples
        self._quiet = quiet
        self._redraws = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not quiet
        self._around = contextlib.ExitStack()

    def __enter__(self) -> ScoringProgress:
        if self._redraws:
            self._around.enter_context(no_caret())
        return self

    def __exit__(self, *_: object) -> None:
        if self._redraws:
            self._write(_ERASE)
        self._around.close()

    def on_batch(self, boundary: str) -> Callable[[int, int], None]:
        """What an evaluator tells how many of its batches are done, for one boundary."""
        started = told = time.monotonic()
        self._show(f"scoring {self._num_examples} examples, {boundary} …")

        def tell(done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            due = _REDRAW_SECONDS if self._redraws else _LINE_SECONDS
            if now - told >= due:
                told = now
                left = duration((now - started) / done * (total - done))
                self._show(f"scoring, {boundary}: {100 * done // total}%, {left} left")

        return tell

    def _show(self, line: str) -> None:
        if self._redraws:
            self._write(_ERASE + line)
        elif not self._quiet:
            say(line)

    @staticmethod
    def _write(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal may have gone away
            sys.stderr.write(text)
            sys.stderr.flush()
