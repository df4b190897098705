"""Colours of a bit map: dark to light for widths, two sides for differences.

The stops are those of matplotlib's viridis and of ColorBrewer's RdBu, both told apart by people
who are colour-blind. Interpolated in RGB, which eight bits of width don't show.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TextIO

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from amaqctl.cli.bit_map import Line

Rgb = tuple[int, int, int]

WIDTH_STOPS = (
    "440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725",
)  # fmt: skip
DIFFERENCE_STOPS = ("2166ac", "92c5de", "f7f7f7", "f4a582", "b2182b")

_WIDEST = 8.0


def colour(value: float, is_difference: bool, largest: float = _WIDEST) -> Rgb:
    """Background of a value.

    Args:
        value: a width in bits, or a difference.
        largest: difference at the end of the scale; widths always end at 8 bits, so that the
            same width has the same colour in every map.
    """
    if is_difference:
        share = 0.5 + value / (2 * largest) if largest else 0.5
        return _between(DIFFERENCE_STOPS, share)
    return _between(WIDTH_STOPS, value / _WIDEST)


def ink(background: Rgb) -> Rgb:
    """Black or white, whichever has more contrast (relative luminance of WCAG 2.2)."""
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in background)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def hexadecimal(rgb: Rgb) -> str:
    """As ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def paint(lines: Sequence[Line], file: TextIO, width: int, is_difference: bool) -> str:
    """The lines with the escape codes that ``file`` takes: none for a pipe or ``NO_COLOR``."""
    asked = Console(file=file, width=width)
    values = [abs(span.value) for line in lines for span in line if span.value is not None]
    largest = max(values, default=0.0)
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=asked.color_system if asked.is_terminal else None,  # type: ignore[arg-type]
        no_color=asked.no_color,
        force_terminal=asked.is_terminal,
    )
    for line in lines:
        text = Text(no_wrap=True, overflow="ignore")
        for span in line:
            text.append(span.text, style=_style(span.value, is_difference, largest))
        if not line or line[-1].value is None:
            text.rstrip()
        console.print(text, soft_wrap=True, highlight=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().removesuffix("\n")


def _style(value: float | None, is_difference: bool, largest: float) -> Style:
    if value is None:
        return Style()
    background = colour(value, is_difference, largest)
    return Style(color=Color.from_rgb(*ink(background)), bgcolor=Color.from_rgb(*background))


def _between(stops: Sequence[str], share: float) -> Rgb:
    position = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    rest = position - index
    low, high = (bytes.fromhex(stop) for stop in stops[index : index + 2])
    red, green, blue = (round(a + (b - a) * rest) for a, b in zip(low, high, strict=True))
    return red, green, blue
