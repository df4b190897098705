"""A bit map as a figure, by matplotlib: every column its own stripe, nothing binned."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from amaqctl.bit_map.colours import DIFFERENCE_STOPS, WIDTH_STOPS
from amaqctl.bit_map.report import BitReport, HeatMap

_ROW_INCHES = 0.3
_WIDTH_INCHES = 10.0


def save_figure(report: BitReport, path: Path, file_format: str) -> None:
    """Draw the maps one below the other and save them; the same report gives the same bytes.

    Args:
        file_format: ``png`` or ``svg``.
    """
    # Optional, so imported by name: type checkers need not have it either.
    matplotlib = importlib.import_module("matplotlib")
    figures = importlib.import_module("matplotlib.figure")
    maps = importlib.import_module("matplotlib.colors")
    heights = [max(len(heat_map.rows), 1) + 2.5 for heat_map in report.maps]
    stops = DIFFERENCE_STOPS if report.is_difference else WIDTH_STOPS
    colours = maps.LinearSegmentedColormap.from_list("bits", [f"#{stop}" for stop in stops])
    largest = max(
        float(np.abs(row.present).max()) for heat_map in report.maps for row in heat_map.rows
    )
    limits = (-(largest or 1.0), largest or 1.0) if report.is_difference else (0.0, 8.0)
    # An SVG looks the same without our fonts, and its ids are the same from one time to the next.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "amaqctl"}):
        figure = figures.Figure(
            figsize=(_WIDTH_INCHES, _ROW_INCHES * sum(heights) + 0.6), layout="constrained"
        )
        figure.suptitle("  ".join(report.heading), fontsize=10)
        axes = figure.subplots(len(report.maps), 1, squeeze=False, height_ratios=heights)[:, 0]
        for heat_map, axis in zip(report.maps, axes, strict=True):
            image = _draw_map(heat_map, axis, colours, limits, report.is_difference)
        label = "bits more" if report.is_difference else "bits"
        figure.colorbar(image, ax=list(axes), label=label, shrink=0.9)
        metadata = {"Date": None} if file_format == "svg" else {"Software": "amaqctl"}
        figure.savefig(path, format=file_format, dpi=150, metadata=metadata)


def _draw_map(
    heat_map: HeatMap, axis: Any, colours: Any, limits: tuple[float, float], is_difference: bool
) -> Any:
    """One map into matplotlib's axes; the mean of a row stands behind its name."""
    values_RC = np.stack([row.values_C for row in heat_map.rows])
    image = axis.imshow(
        values_RC,
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
    )
    sign = "+" if is_difference else ""
    labels = [f"{row.label.strip()}  {row.present.mean():{sign}.2f}" for row in heat_map.rows]
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_title(heat_map.title, fontsize=9)
    first, last = heat_map.ends
    axis.set_xlabel(heat_map.columns if first.endswith(" 0") else f"{first}, fewest to {last}")
    return image
