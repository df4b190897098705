"""How the codec's time grows with tokens, channels and cuts: slopes on log-log axes.

    python benchmarks/speed/growth.py [--quick]

A slope of 1 is linear growth. Small messages are dominated by what every message costs, so the
slope over the larger half of the sizes stands beside that over all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from codec import AMAQ, FIXED, GROUP, CodecCase, Method, has_native
from inputs import Shape
from timing import Call, Seconds, Timed, printed, round_robin, spread

ROUNDS = 3
SIZES = (256, 512, 1024, 2048, 4096, 8192)
CUTS = (1, 2, 4, 8, 16)
_CHANNELS, _TOKENS = 576, 512
_PERIOD = 8
"""Steps from one error curve of `amaq` to the next."""


class Point:
    """So many cuts of one shape; a call is a message across each."""

    device = "cpu"

    def __init__(self, axis: str, size: int, method: Method, shape: Shape, num_cuts: int) -> None:
        self.labels = {"axis": axis, "method": method.title}
        self.size, self.shape = size, shape
        calls = _PERIOD if method.varies else 2
        self._cuts = [CodecCase(method, shape, "float32", calls) for _ in range(num_cuts)]
        self.figure = self._cuts[0].figure

    def calls(self) -> list[Call]:
        """One round."""
        together = zip(*(cut.calls() for cut in self._cuts), strict=True)
        return [_sum(of_cuts) for of_cuts in together]


def _sum(calls: Sequence[Call]) -> Call:
    return {
        verb: Seconds(sum(c[verb].cpu for c in calls), sum(c[verb].wall for c in calls))
        for verb in calls[0]
    }


def points(sizes: Sequence[int], cuts: Sequence[int], methods: Sequence[Method]) -> list[Point]:
    """Three axes, all methods."""
    made = []
    for method in methods:
        for size in sizes:
            tokens = Shape(f"1x{size}x{_CHANNELS}", (1, size, _CHANNELS))
            channels = Shape(f"1x{_TOKENS}x{size}", (1, _TOKENS, size))
            made.append(Point("tokens", size, method, tokens, 1))
            made.append(Point("channels", size, method, channels, 1))
        shape = Shape(f"1x{_TOKENS}x{_CHANNELS}", (1, _TOKENS, _CHANNELS))
        made += [Point("cuts", size, method, shape, size) for size in cuts]
    return made


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Least squares of log time by log size."""
    x, y = [math.log(v) for v in sizes], [math.log(v) for v in times]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def rows_of(timed: Sequence[Timed]) -> list[dict[str, Any]]:
    """A row an axis, method and verb: milliseconds at each size, and slopes."""
    lines: dict[tuple[str, ...], dict[int, list[float]]] = {}
    for each in timed:
        labels = each.case.labels
        for verb in each.rounds[0].keys() - {"memcpy"}:
            key = (labels["axis"], labels["method"], verb)
            values = [1e3 * r[verb]["cpu"] for r in each.rounds]
            lines.setdefault(key, {})[each.case.size] = spread(values)  # type: ignore[attr-defined]
    rows = []
    for (axis, method, verb), line in sorted(lines.items()):
        sizes = sorted(line)
        times = [line[size][0] for size in sizes]
        half = len(sizes) // 2
        rows.append(
            {
                "axis": axis,
                "method": method,
                "verb": verb,
                "cpu_ms": {str(size): line[size] for size in sizes},
                "slope": round(slope(sizes, times), 3),
                "slope_upper_half": round(slope(sizes[half:], times[half:]), 3),
            }
        )
    return rows


def measure(quick: bool) -> dict[str, Any]:
    """The part of the record."""
    made = (
        points((64, 128, 256, 512), (1, 2, 3, 4), [FIXED])
        if quick
        else points(SIZES, CUTS, [FIXED, GROUP, AMAQ])
    )
    rows = rows_of(round_robin(made, 1 if quick else ROUNDS))
    return {"has_native": has_native(), "rows": rows}


if __name__ == "__main__":
    printed(measure)
