"""What is measured of columns before they are quantized: bounds, means, clip, errors (ours).

Bounds are those of all rows. Everything else comes from at most 512 rows, evenly spaced: a range or
a width that is as good as any needs no more, and the time that an encoder takes is spent here. A
column's least and largest value count as two rows more, so an outlier that no sampled row holds is
never clipped unseen.

A range below the largest magnitude clips a few values and makes the grid finer for all others. At
2 and 3 bits this decides: for a Gaussian column and 3 bits, the range of the largest of 512 values
has 2.1 times the squared error of the best one (2.5 times with the spare code). Outliers survive:
where clipping them costs more than it gains, the largest magnitude wins.

All sums are of whole numbers, so they do not depend on an order, a device or an implementation.

Legend: R rows, C columns, S sampled rows, W widths, N candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amaqctl.bits import largest_code, passes

SHARES = (1.0, 0.8, 0.64, 0.5, 0.36, 0.25)
"""Ranges that are tried, as shares of the largest magnitude. Twelve gave no less error."""

SAMPLE_ROWS = passes.MAX_SAMPLE_ROWS
_FINE, _COARSE = 40, 20
"""Values are counted in whole parts of the power of two above their column's largest magnitude,
2^-40 for means and 2^-20 for mean squares: float64 adds up 2^13 of them without rounding."""


@dataclass(frozen=True)
class ColumnSample:
    """Columns of the rows of one kind.

    Args:
        values_SC: float32, the sampled rows.
        low_C, high_C: bounds over all rows.
        rows_each: how many rows a sampled one stands for.
    """

    values_SC: Tensor
    low_C: Tensor
    high_C: Tensor
    rows_each: int

    @classmethod
    def of(cls, values_RC: Tensor, kind_R: Tensor, kind: int) -> ColumnSample:
        """Of the rows of one kind, in their own type; bounds are 0 where there are none."""
        rows = (kind_R == kind).nonzero().squeeze(1)
        rows_each = max(-(-len(rows) // SAMPLE_ROWS), 1)
        sampled_SC = values_RC.index_select(0, rows[::rows_each]).to(torch.float32)
        if not len(rows):
            zero_C = torch.zeros(values_RC.shape[1], device=values_RC.device)
            return cls(sampled_SC, zero_C, zero_C, 1)
        if rows_each == 1:
            return cls(sampled_SC, sampled_SC.amin(0), sampled_SC.amax(0), 1)
        low_C, high_C = passes.column_bounds(values_RC, (kind_R != kind).to(torch.uint8))
        return cls(sampled_SC, low_C, high_C, rows_each)

    @property
    def peak_C(self) -> Tensor:
        """Largest magnitude."""
        return torch.maximum(self.high_C, -self.low_C)

    @property
    def side_C(self) -> Tensor:
        """-1 for columns whose largest magnitude is positive, else 1, float32.

        Times this, a column has its longer side where the code -2^(b-1) is.
        """
        return torch.where(self.high_C > -self.low_C, -1.0, 1.0)

    def less(self, mean_C: Tensor) -> ColumnSample:
        """The same columns with a mean subtracted."""
        low_C, high_C = self.low_C - mean_C, self.high_C - mean_C
        return ColumnSample(self.values_SC - mean_C, low_C, high_C, self.rows_each)

    def mean_C(self) -> Tensor:
        """Mean, float32."""
        return self._mean_of(self._parts(_FINE), _FINE)

    def mean_magnitude_C(self) -> Tensor:
        """Mean magnitude, float32."""
        return self._mean_of(self._parts(_FINE).abs_(), _FINE)

    def mean_square_C(self) -> Tensor:
        """Mean square, float32."""
        return self._mean_of(self._parts(_COARSE).square_(), _COARSE, 2)

    def of_columns(self, is_chosen_C: Tensor) -> ColumnSample:
        """Some of the columns, by a mask."""
        chosen = is_chosen_C.nonzero().squeeze(1)
        low_C, high_C = self.low_C[chosen], self.high_C[chosen]
        return ColumnSample(self.values_SC.index_select(1, chosen), low_C, high_C, self.rows_each)

    def best_ranges(
        self, range_HC: Tensor, widths_WC: Tensor, *, spare_code: bool
    ) -> tuple[Tensor, Tensor]:
        """Of some ranges the one with the least squared error, the first of those that are alike.

        Args:
            range_HC: to be tried, positive.
            widths_WC: uint8, on the CPU; for widths below 2, which have no grid, the result means
                nothing.
            spare_code: count with a code -2^(b-1) on the side of the largest magnitude.

        Returns:
            The ranges, float32, and their mean squared errors, float64, (W, C) each.
        """
        top_W1C = largest_code(widths_WC.to(self.peak_C.device)).unsqueeze(1)
        step_WHC = range_HC * self.side_C / top_W1C if spare_code else range_HC / top_W1C
        bottom_W1C = top_W1C + 1 if spare_code else top_W1C
        error_WHC = self._errors(step_WHC, -bottom_W1C, top_W1C)
        best_WC, least_WC = range_HC[0].expand(len(widths_WC), -1), error_WHC[:, 0]
        for range_C, error_WC in zip(range_HC[1:], error_WHC.unbind(1)[1:], strict=True):
            is_less_WC = error_WC < least_WC
            least_WC = torch.where(is_less_WC, error_WC, least_WC)
            best_WC = torch.where(is_less_WC, range_C, best_WC)
        return best_WC, least_WC

    def _errors(self, step_WHC: Tensor, low_W1C: Tensor, high_W1C: Tensor) -> Tensor:
        """Mean squared error of candidate grids, float64, (W, H, C)."""
        shape = step_WHC.shape
        grids = [t.expand(shape).flatten(0, 1) for t in (step_WHC, low_W1C, high_W1C)]
        units_NC = passes.candidate_errors(self.values_SC, *grids).to(torch.float64)
        squares_NC = units_NC * (self.rows_each / passes.UNITS_A_SQUARED_STEP)
        num_rows = len(self.values_SC) * self.rows_each
        if self.rows_each > 1:  # the bounds exactly: nothing that was not sampled is larger
            squares_NC = squares_NC + sum(
                _squared_steps(b, *grids) for b in (self.low_C, self.high_C)
            )
            num_rows += 2
        # Over a tensor: over a Python number CUDA multiplies by the reciprocal.
        count = squares_NC.new_tensor(max(num_rows, 1))
        return squares_NC.view(shape) * step_WHC.to(torch.float64).square() / count

    def _parts(self, bits: int) -> Tensor:
        """Values in whole parts, 2^-bits of the power of two above the peak, float64."""
        exponent_C = torch.frexp(self.peak_C).exponent
        return (self.values_SC.to(torch.float64) * _power_of_two(bits - exponent_C)).round_()

    def _mean_of(self, parts_SC: Tensor, bits: int, power: int = 1) -> Tensor:
        """Their mean, to a power of the values, from a sum that is exact, float32."""
        # Over a tensor: over a Python number CUDA multiplies by the reciprocal.
        mean_C = parts_SC.sum(0) / parts_SC.new_tensor(max(len(parts_SC), 1))
        exponent_C = torch.frexp(self.peak_C).exponent - bits
        return (mean_C * _power_of_two(power * exponent_C)).to(torch.float32)


def _power_of_two(exponent_C: Tensor) -> Tensor:
    """2^exponent in float64, by its bits: a power may be off by an ulp, and overflow float32."""
    return ((exponent_C.to(torch.int64) + 1023) << 52).view(torch.float64)


def _squared_steps(values_C: Tensor, step_NC: Tensor, low_NC: Tensor, high_NC: Tensor) -> Tensor:
    """Squared error of one value a column in squared steps, float64, (N, C)."""
    steps_NC = values_C / torch.where(step_NC == 0, torch.inf, step_NC)
    miss_NC = steps_NC - torch.minimum(torch.maximum(steps_NC.round(), low_NC), high_NC)
    return miss_NC.to(torch.float64).square()
