"""The Pareto plots: score against bits a value over the whole run, a panel a task."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cells import EARLY, Cell
from methods import AQ_SGD, NONE, UNTRAINED
from records import Record, current
from tables import scores

Panel = dict[str, dict[float, list[Record]]]
"""Records by method and width."""

_COLUMNS = 2
_LEVELS = {NONE.name: ("none (16 bits)", "--"), UNTRAINED.name: ("untrained", ":")}


def plot(cells: Iterable[Cell], found: dict[str, Record], file: Path) -> None:
    """Draw; a point is the mean over seeds, its bar the standard deviation.

    Scores are through the cut, but for AQ-SGD, which has no memory of what it never trained on.
    Runs that diverged have no score; the tables name them.
    """
    from matplotlib import pyplot

    panels: dict[str, Panel] = {}
    score_of = {}
    colours: dict[str, Any] = {}
    cells = list(cells)
    found = current(cells, found)
    for cell in cells:
        record = found.get(cell.key)
        if record is not None and "failed" not in record and cell.cuts == json.dumps(EARLY):
            panel = panels.setdefault(cell.task.name, defaultdict(lambda: defaultdict(list)))
            panel[cell.method.name][cell.bits or 0].append(record)
            score_of[cell.task.name] = cell.task.score
            if cell.method.name not in _LEVELS:
                colours.setdefault(cell.method.name, _colour(len(colours)))
    rows = math.ceil(len(panels) / _COLUMNS)
    figure, axes = pyplot.subplots(
        rows, _COLUMNS, figsize=(5 * _COLUMNS, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (task, panel) in zip(axes.flat, panels.items(), strict=False):
        _draw(axis, panel, score_of[task], colours)
        axis.set_title(task)
    figure.savefig(file)


def _colour(number: int) -> Any:
    """The ten strong colours first, then the ten pale ones."""
    from matplotlib import colormaps

    pale, strong = divmod(number, 10)
    return colormaps["tab20"](2 * strong + pale % 2)


def _draw(axis: Any, panel: Panel, score: str, colours: dict[str, Any]) -> None:
    for method, widths in panel.items():
        if method in _LEVELS:
            label, style = _LEVELS[method]
            level = statistics.mean(scores(widths[0], "clean", score))
            axis.axhline(level, color="grey", linestyle=style, label=label)
            continue
        is_clean = method.startswith(AQ_SGD.name)
        boundary = "clean" if is_clean else "quantized"
        points = sorted(_point(records, boundary, score) for records in widths.values())
        bits, means, deviations = zip(*points, strict=True)
        axis.errorbar(
            bits,
            means,
            deviations,
            marker="o",
            markerfacecolor="none" if is_clean else None,
            color=colours[method],
            capsize=3,
            label=f"{method}, clean" if is_clean else method,
        )
    axis.set_xlabel("activation bits a value over the run, all bytes counted")
    axis.set_ylabel(score.replace("_", " "))
    if score == "perplexity":
        from matplotlib.ticker import ScalarFormatter

        axis.set_yscale("log")
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which(ScalarFormatter())
    axis.set_xlim(1.5, 12)
    axis.legend(fontsize="x-small")


def _point(records: list[Record], boundary: str, score: str) -> tuple[float, float, float]:
    values = scores(records, boundary, score)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    bits = statistics.mean(record["activation_bits_over_run"] for record in records)
    return bits, statistics.mean(values), deviation
