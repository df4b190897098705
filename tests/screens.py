"""A stdout that says it is a terminal, and texts kept as snapshots.

To renew the texts after a change that was meant, set ``AMAQCTL_UPDATE_SNAPSHOTS=1``.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTHS = (60, 80, 120)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away whatever the caller's own terminal would change."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def be_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Let stdout be a terminal of a width."""
    monkeypatch.setattr(sys, "__stdout__", _Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))


def check_snapshot(name: str, text: str) -> None:
    """Compare letter by letter."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("AMAQCTL_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")
