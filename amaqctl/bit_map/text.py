"""Draw a bit map as lines of text that fit a width: the digits are the values.

Each line is a list of spans; colour is kept apart from the text, so that it can only repeat what
the digits say. A number is never cropped: what doesn't fit is a whole column, and it is named.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from amaqctl.bit_map.report import BitReport, Floats, HeatMap, HeatRow
from amaqctl.bit_map.why import why_lines

Style = Literal["digits", "blocks", "ascii"]

BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#%@"
_MIN_CELLS = 20
"""Columns of the statistics go before the cells get narrower than this."""
_HIGHEST_PACKED = 8
_LOSSLESS = 16


@dataclass(frozen=True)
class Span:
    """Text, and the value that its colour repeats (None: no colour)."""

    text: str
    value: int | None = None


Line = list[Span]


@dataclass(frozen=True)
class Drawing:
    """Lines, and names of the columns that had to be left out."""

    lines: list[Line]
    left_out: list[str]

    def text(self) -> str:
        """Without colour."""
        return "\n".join("".join(span.text for span in line).rstrip() for line in self.lines)


@dataclass(frozen=True)
class _Statistic:
    """A column behind the cells: its heading, and the text of every row of all maps."""

    name: str
    heading: str
    texts: list[str]

    @property
    def width(self) -> int:
        return max(len(text) for text in (self.heading, *self.texts))

    def aligned(self, text: str) -> str:
        return text.ljust(self.width) if self.name == "histogram" else text.rjust(self.width)


def draw(report: BitReport, width: int, style: Style) -> Drawing:
    """The whole report in ``width`` columns."""
    rows = [row for heat_map in report.maps for row in heat_map.rows]
    labels = [row.label for row in rows] + [heat_map.title for heat_map in report.maps]
    label_width = max((len(label) for label in labels), default=0)
    statistics = _statistics(rows, report.is_difference, style) if rows else []
    room = width - label_width - 2
    left_out = []
    while statistics and room - _taken(statistics) < _MIN_CELLS:
        left_out.append(statistics.pop().name)
    room = max(room - _taken(statistics), 1)
    cells = [_Cells.of(heat_map, room, report.is_difference, style) for heat_map in report.maps]
    cells_width = max((c.width for c in cells), default=0)
    lines: list[Line] = [_plain(text) for text in _wrapped(report.heading, width)]
    number = 0
    for heat_map, layout in zip(report.maps, cells, strict=True):
        first = f"{heat_map.title.ljust(label_width)}  "
        behind = "".join(f"  {column.aligned(column.heading)}" for column in statistics)
        lines += [[], _plain(first + _over(heat_map, layout).ljust(cells_width) + behind)]
        for row in heat_map.rows:
            padding = " " * (cells_width - layout.width)
            behind = "".join(f"  {column.aligned(column.texts[number])}" for column in statistics)
            label = Span(f"{row.label.ljust(label_width)}  ")
            lines.append([label, *layout.spans(row.values_C), Span(padding + behind)])
            number += 1
    lines.append([])
    for text in _legend(cells, report.maps, style):
        lines += [_plain(part) for part in _wrapped([text], width)]
    for pieces in report.summary:
        lines += [_plain(text) for text in _wrapped(pieces, width)]
    if report.why:
        lines.append([])
        for text in why_lines(report.why, style == "ascii"):
            lines += [_plain(part) for part in (_wrapped([text], width) or [""])]
    return Drawing(lines, left_out)


@dataclass(frozen=True)
class _Cells:
    """How the columns of a map are put into cells.

    Attributes:
        edges: first column of each cell, and the end of the last.
        digits: text columns a cell.
    """

    edges: tuple[int, ...]
    digits: int
    is_difference: bool
    style: Style

    @classmethod
    def of(cls, heat_map: HeatMap, room: int, is_difference: bool, style: Style) -> _Cells:
        values = np.concatenate([row.present for row in heat_map.rows])
        digits = len(str(rounded(float(np.abs(values).max()))))
        if style == "blocks":
            digits = 1
        elif is_difference or digits > 1:
            digits += 1  # the sign, or a blank that parts two numbers
        num_cells = max(min(heat_map.num_columns, room // digits), 1)
        edges = [i * heat_map.num_columns // num_cells for i in range(num_cells + 1)]
        return cls(tuple(edges), digits, is_difference, style)

    @property
    def width(self) -> int:
        return (len(self.edges) - 1) * self.digits

    @property
    def sizes(self) -> tuple[int, int]:
        """Columns in the smallest and the largest cell."""
        sizes = np.diff(self.edges)
        return int(sizes.min()), int(sizes.max())

    def spans(self, values_C: Floats) -> Line:
        return [
            self._span(values_C[first:end])
            for first, end in zip(self.edges[:-1], self.edges[1:], strict=True)
        ]

    def _span(self, values: Floats) -> Span:
        present = values[np.isfinite(values)]
        if not present.size:
            return Span(" " * self.digits)
        whole = rounded(float(present.mean()))
        if self.style == "blocks":
            return Span(BLOCKS[min(max(whole, 0), len(BLOCKS) - 1)], whole)
        text = signed(whole) if self.is_difference else str(whole)
        return Span(text.rjust(self.digits), whole)


def rounded(value: float) -> int:
    """To the nearest whole number, halves away from zero."""
    return int(np.sign(value) * np.floor(abs(value) + 0.5))


def signed(value: int) -> str:
    """With its sign; zero has none."""
    return f"{value:+d}" if value else "0"


def _statistics(rows: Sequence[HeatRow], is_difference: bool, style: Style) -> list[_Statistic]:
    """Mean, range and histogram; the last is the first to be left out."""
    means, ranges, bars = [], [], []
    bins = _histogram_bins(rows)
    for row in rows:
        low, high = rounded(float(row.present.min())), rounded(float(row.present.max()))
        mean = float(row.present.mean())
        means.append(f"{mean:+.2f}" if is_difference else f"{mean:.2f}")
        ranges.append(f"{signed(low)}..{signed(high)}" if is_difference else f"{low}-{high}")
        bars.append(_bars(row, bins, style))
    first, last = (signed(b) if is_difference else str(b) for b in (bins[0], bins[-1]))
    scale = first + last.rjust(len(bins) - len(first)) if len(bins) > 1 else first
    if len(scale) > len(bins):
        scale = f"{first}..{last}"
    return [
        _Statistic("mean", "mean", means),
        _Statistic("lo-hi", "lo-hi", ranges),
        _Statistic("histogram", scale, bars),
    ]


def _histogram_bins(rows: Sequence[HeatRow]) -> list[int]:
    """Every whole number that occurs and those between; nothing lies between 8 and 16 bits."""
    values = np.concatenate([row.present for row in rows])
    low, high = rounded(float(values.min())), rounded(float(values.max()))
    if low >= 0 and high == _LOSSLESS:
        return [*range(low, _HIGHEST_PACKED + 1), _LOSSLESS]
    return list(range(low, high + 1))


def _bars(row: HeatRow, bins: Sequence[int], style: Style) -> str:
    """One bar a width; of counts above zero, the smallest is still seen."""
    whole = [rounded(value) for value in row.present.tolist()]
    counts = [whole.count(width) for width in bins]
    marks = _ASCII_BARS if style == "ascii" else BLOCKS
    highest = max(max(counts), 1)
    return "".join(marks[-(-count * (len(marks) - 1) // highest)] for count in counts)


def _taken(statistics: Sequence[_Statistic]) -> int:
    return sum(column.width + 2 for column in statistics)


def _over(heat_map: HeatMap, layout: _Cells) -> str:
    """What stands over the cells: both ends, or as much as there is room for."""
    first, last = heat_map.ends
    between = layout.width - len(first) - len(last)
    if between > 0:
        return f"{first}{' ' * between}{last}"
    return first if len(first) <= layout.width else ""


def _legend(cells: Sequence[_Cells], maps: Sequence[HeatMap], style: Style) -> list[str]:
    """What a cell is, by axis where they differ, and what the marks mean."""
    words: dict[tuple[int, int], dict[str, None]] = {}
    for layout, heat_map in zip(cells, maps, strict=True):
        is_one = layout.sizes[1] == 1
        words.setdefault(layout.sizes, {})[heat_map.column if is_one else heat_map.columns] = None
    texts = []
    for (low, high), names in words.items():
        number = f"{low}" if low == high else f"{low} or {high}"
        what = " or ".join(names)
        texts.append(f"a cell: one {what}" if high == 1 else f"a cell: mean of {number} {what}")
    if style == "blocks":
        texts.append("bits: blank 0, ▁ 1, ▂ 2, ▃ 3, ▄ 4, ▅ 5, ▆ 6, ▇ 7, █ 8 or more")
    if style == "ascii":
        texts.append(f"histogram: blank for none, then {_ASCII_BARS[1:]} to the most")
    return texts


def _wrapped(pieces: Sequence[str], width: int) -> list[str]:
    """Pieces with two spaces between; one that does not fit goes to a line of its own."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 2 + len(piece) <= width:
            lines[-1] += f"  {piece}"
        else:
            indent = "  " if lines else ""
            lines += textwrap.wrap(
                piece,
                width,
                initial_indent=indent,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


def _plain(text: str) -> Line:
    return [Span(text)]
