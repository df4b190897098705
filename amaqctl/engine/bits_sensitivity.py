"""Does the width follow the sensitivity? What a quantizer measured of each column, and how its
widths relate to it.

Reverse water-filling gives a column b = const + 1/2 log2(e · r²) bits, where e is the energy of
the gradient and r the range (Cover and Thomas, Elements of Information Theory, 10.3; a uniform
quantizer of b bits makes an error of about r² 4^-b, which the loss feels e-fold). A quantizer that
measures both says so in its report, which a run keeps. Needs numpy only. Legend: K columns of a
site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amaqctl.engine.bits_history import SiteWidths
from amaqctl.engine.bits_report import SiteReport

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sensitivity:
    """What one sender measured; NaN in columns that it never saw or that carry nothing.

    Args:
        range_K: root mean square of the column's range.
        gradient_energy_K: mean square of the loss gradient by one value of the column.
    """

    range_K: Floats
    gradient_energy_K: Floats

    @property
    def log_sensitivity_K(self) -> Floats:
        """1/2 log2(e · r²), in bits up to a constant."""
        log_K: Floats = 0.5 * np.log2(self.gradient_energy_K) + np.log2(self.range_K)
        return log_K

    def asked_bits_K(self, widths_K: NDArray[np.uint8]) -> Floats:
        """Widths that the sensitivity asks for at the mean that was given, without limits."""
        log_K = self.log_sensitivity_K
        measured = np.isfinite(log_K)
        if not measured.any():
            return np.full(widths_K.shape, np.nan)
        asked_K: Floats = log_K - log_K[measured].mean() + widths_K[measured].mean()
        return asked_K

    def correlations(self, widths_K: NDArray[np.uint8]) -> tuple[float | None, float | None]:
        """Spearman's and Pearson's, of width and 1/2 log2(e · r²); None where one is constant."""
        log_K = self.log_sensitivity_K
        measured = np.isfinite(log_K)
        x_K, y_K = widths_K[measured].astype(np.float64), log_K[measured]
        return pearson(ranks(x_K), ranks(y_K)), pearson(x_K, y_K)


def ranks(values_K: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, where, counts = np.unique(values_K, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    shared: Floats = (last - (counts - 1) / 2)[where]
    return shared


def pearson(x_K: Floats, y_K: Floats) -> float | None:
    """The correlation coefficient; None for fewer than two values or a constant."""
    if x_K.size < 2 or np.ptp(x_K) == 0 or np.ptp(y_K) == 0:
        return None
    return float(np.corrcoef(x_K, y_K)[0, 1])


def of_site(report: SiteReport | None, site: SiteWidths) -> Sensitivity | None:
    """What a sender measured of a site; None when nothing, or not of its number of columns.

    A site by positions may be shorter than what was measured: its first positions count.
    """
    if report is None or report.range_K is None or report.gradient_energy_K is None:
        return None
    size = site.widths_C.size
    num_measured = report.range_K.size
    if num_measured < size or (num_measured > size and site.axis != "position"):
        return None
    if report.gradient_energy_K.size != num_measured:
        return None
    range_K = report.range_K[:size].astype(np.float64)
    energy_K = report.gradient_energy_K[:size].astype(np.float64)
    is_measured_K = (energy_K > 0) & (range_K > 0)
    if not is_measured_K.any():
        return None
    return Sensitivity(
        np.where(is_measured_K, range_K, np.nan), np.where(is_measured_K, energy_K, np.nan)
    )
