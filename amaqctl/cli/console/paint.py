"""Lines of a bit map in the colours that a terminal can show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TextIO

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from amaqctl.bit_map.colours import colour, ink
from amaqctl.bit_map.text import Line


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
