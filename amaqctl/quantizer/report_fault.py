"""Whether a quantizer's report can be shown and kept."""

from __future__ import annotations

import math

from torch import Tensor

from amaqctl.quantizer.contract import BitReport

MAX_COLUMN_NAME = 40
_MAX_REPORTED = 2**20  # columns


def report_fault(report: BitReport) -> str | None:
    """What of a report no reader could show; None where all is well."""
    target, column = report.target_bits, report.column
    if target is not None and not (
        isinstance(target, int | float) and math.isfinite(target) and target >= 0
    ):
        return "no finite target_bits"
    if column is not None and not (
        isinstance(column, str) and column.isprintable() and 0 < len(column) <= MAX_COLUMN_NAME
    ):
        return "no column of one short line"
    vectors = {"range_K": report.range_K, "gradient_energy_K": report.gradient_energy_K}
    for name, values in vectors.items():
        if values is not None and not _is_finite_vector(values):
            return f"no {name} that is a finite vector"
    sizes = {values.numel() for values in vectors.values() if values is not None}
    return "range_K and gradient_energy_K of different lengths" if len(sizes) > 1 else None


def _is_finite_vector(values: object) -> bool:
    return (
        isinstance(values, Tensor)
        and values.dim() == 1
        and values.is_floating_point()
        and 0 < values.numel() <= _MAX_REPORTED
        and bool((values.isfinite() & (values >= 0)).all())
    )
