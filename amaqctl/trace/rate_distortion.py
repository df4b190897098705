"""The least error that any code can have at a given rate, for a Gaussian model of a trace.

Model: each value is drawn on its own from a Gaussian of its channel's mean and variance. For
K channels of variance v_k and a rate of R bits a value, reverse water-filling (Cover and Thomas,
*Elements of Information Theory*, section 10.3.3) gives

    D_k = min(θ, v_k),   mean over k of ½ · log2(v_k / D_k) = R,   D = mean over k of D_k

A code that knows means and variances of the channels, and uses nothing else, is not below D. One
that uses what the model leaves out (tokens that resemble each other, a sample's last visit, tails
that are not Gaussian) may be.

Legend: K channels of all links together, C channels of one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class ChannelMoments:
    """Running mean and variance of each channel over rows, in float64.

    Args:
        num_channels: C.
    """

    def __init__(self, num_channels: int) -> None:
        self.num_rows = 0
        self._mean_C = torch.zeros(num_channels, dtype=torch.float64)
        self._squares_C = torch.zeros(num_channels, dtype=torch.float64)

    def add(self, rows_RC: Tensor) -> None:
        """Take in rows (R, C) of any float dtype; parts are combined as Chan et al. (1979) do."""
        rows_RC = rows_RC.double()
        num_new = rows_RC.shape[0]
        if not num_new:
            return
        mean_C = rows_RC.mean(0)
        total = self.num_rows + num_new
        difference_C = mean_C - self._mean_C
        self._squares_C += (rows_RC - mean_C).square().sum(0)
        self._squares_C += difference_C.square() * (self.num_rows * num_new / total)
        self._mean_C += difference_C * (num_new / total)
        self.num_rows = total

    @property
    def variances_C(self) -> Tensor:
        """Variance around the channel's mean (divisor: number of rows), float64."""
        return self._squares_C / max(self.num_rows, 1)


def least_distortion(variances_K: Tensor, bits: float) -> float:
    """D at ``bits`` a value: mean squared error of the best code for the Gaussian model.

    Args:
        variances_K: float64, >= 0.
        bits: R, >= 0.
    """
    num_channels = variances_K.numel()
    sorted_K = variances_K[variances_K > 0].sort(descending=True).values
    if not sorted_K.numel():
        return 0.0
    counts_K = torch.arange(1, sorted_K.numel() + 1, dtype=torch.float64)
    # The water level if just the m channels of most variance were above it.
    levels_K = (sorted_K.log2().cumsum(0) - 2 * num_channels * bits) / counts_K
    above = int((sorted_K.log2() > levels_K).sum())
    if not above:  # no rate, nothing above the water
        return float(sorted_K.sum()) / num_channels
    level = math.exp2(float(levels_K[above - 1]))
    return (level * above + float(sorted_K[above:].sum())) / num_channels


def decibels_above(mean_squared_error: float, variances_K: Tensor, bits: float) -> float | None:
    """10 · log10(error / D); None where either is zero and there is nothing to compare."""
    limit = least_distortion(variances_K, bits)
    if mean_squared_error <= 0 or limit <= 0:
        return None
    return 10 * math.log10(mean_squared_error / limit)
