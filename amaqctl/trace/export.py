"""A report as a file: CSV of its rows, JSON of everything, PNG of rate and distortion."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any

import torch

from amaqctl.errors import UsageError
from amaqctl.extras import plotting
from amaqctl.trace.measure import Summary, as_record
from amaqctl.trace.rate_distortion import least_distortion
from amaqctl.trace.report import Report

SCHEMA = "amaqctl.compress-trace/1"
_MARKERS = "osD^vP*X"


def exporter(suffix: str) -> Callable[[Report], bytes]:
    """What makes a file with the ending ``suffix``.

    Raises:
        UsageError: an ending that is not known.
        InputError: matplotlib is needed and not installed.
    """
    found = {".csv": csv_bytes, ".json": json_bytes, ".png": png_bytes}.get(suffix.lower())
    if found is None:
        raise UsageError(
            f"--export cannot write '{suffix or 'a file without an ending'}'",
            hint="name a file that ends in .csv, .json or .png",
        )
    if found is png_bytes:
        _matplotlib("figure")
    return found


def csv_bytes(report: Report) -> bytes:
    """One line a row of the report, UTF-8; what does not exist is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Summary.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_record(row) for row in report.rows)
    return text.getvalue().encode()


def json_bytes(report: Report) -> bytes:
    """The whole report, single messages too; what is not finite is null."""
    document = {"schema": SCHEMA, "ok": True, "data": _finite(report.document()), "warnings": []}
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def png_bytes(report: Report) -> bytes:
    """Relative error over bits a value, one panel a role, with the limit as a line."""
    figure = _matplotlib("figure").Figure(figsize=(6.4 * len(report.variances), 4.8), dpi=150)
    panels = figure.subplots(1, len(report.variances), squeeze=False)[0]
    for axes, (role, variances_K) in zip(panels, report.variances.items(), strict=True):
        rows = [r for r in report.rows if r.role == role and r.part == "all"]
        shown = [r for r in rows if 0 < r.relative_error < math.inf]
        for index, row in enumerate(shown):
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot(row.bits, row.relative_error, marker, alpha=0.6, label=row.quantizer)
        scale = _mean_square(report, role)
        if shown and scale > 0:
            bits = torch.linspace(0.5, max(r.bits for r in shown) + 0.5, 100).tolist()
            limit = [math.sqrt(least_distortion(variances_K, b) / scale) for b in bits]
            axes.plot(bits, limit, "-", color="grey", linewidth=1, label="limit (Gaussian)")
            axes.set_yscale("log")
            axes.set_ylim(bottom=min(r.relative_error for r in shown) / 10)
        axes.set(title=role, xlabel="bits a value, all bytes", ylabel="relative error")
        if shown:
            axes.legend(fontsize="small")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _mean_square(report: Report, role: str) -> float:
    """Mean square of the recorded values."""
    for replay in report.replays:
        measured = [m for m in replay.measured if m.role == role]
        if measured:
            values = sum(m.num_real_values for m in measured)
            return sum(m.squared_norm for m in measured) / max(values, 1)
    return 0.0


def _matplotlib(module: str) -> Any:
    return plotting(f"matplotlib.{module}", "--export", ".csv or .json")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
