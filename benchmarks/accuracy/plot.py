"""The Pareto plots: score through the cut against bits a value over the whole run."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from grids import EARLY, Cell
from records import Record, current
from tables import scores


def plot(cells: Iterable[Cell], found: dict[str, Record], file: Path) -> None:
    """Draw a panel a task; a point is the mean over seeds, its bar the standard deviation."""
    from matplotlib import pyplot

    panels: dict[str, dict[str, dict[float, list[Record]]]] = {}
    names = {}
    cells = list(cells)
    found = current(cells, found)
    for cell in cells:
        record = found.get(cell.key)
        if record is not None and "failed" not in record and cell.cuts == json.dumps(EARLY):
            methods = panels.setdefault(cell.task.name, defaultdict(lambda: defaultdict(list)))
            methods[cell.method.name][cell.bits or 0].append(record)
            names[cell.task.name] = cell.task.score
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), squeeze=False)
    for axis, (task, methods) in zip(axes[0], panels.items(), strict=True):
        for method, widths in methods.items():
            if method == "none":
                level = statistics.mean(scores(widths[0], "quantized", names[task]))
                axis.axhline(level, color="grey", linestyle="--", label="none (16 bits)")
                continue
            points = sorted(_point(records, names[task]) for records in widths.values())
            bits, means, deviations = zip(*points, strict=True)
            axis.errorbar(bits, means, deviations, marker="o", capsize=3, label=method)
        axis.set(title=task, xlabel="activation bits a value over the run, all bytes counted")
        axis.set_ylabel(names[task].replace("_", " ") + " through the cut")
        if names[task] == "perplexity":
            axis.set_yscale("log")
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file)


def _point(records: list[Record], score: str) -> tuple[float, float, float]:
    values = scores(records, "quantized", score)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    bits = statistics.mean(record["activation_bits_over_run"] for record in records)
    return bits, statistics.mean(values), deviation
