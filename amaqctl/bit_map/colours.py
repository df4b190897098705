"""Colours of a bit map: dark to light for widths, two sides for differences.

The stops are those of matplotlib's viridis and of ColorBrewer's RdBu, both told apart by people
who are colour-blind. Interpolated in RGB, which eight bits of width don't show.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def _between(stops: Sequence[str], share: float) -> Rgb:
    position = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    rest = position - index
    low, high = (bytes.fromhex(stop) for stop in stops[index : index + 2])
    red, green, blue = (round(a + (b - a) * rest) for a, b in zip(low, high, strict=True))
    return red, green, blue
