"""Sizes and durations in words."""

from __future__ import annotations


def mib(num_bytes: float) -> str:
    """A size in MiB (or GiB), with a digit or two after the point."""
    value = num_bytes / 2**20
    return f"{value / 1024:.2f} GiB" if value >= 1024 else f"{value:.2f} MiB"


def duration(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
