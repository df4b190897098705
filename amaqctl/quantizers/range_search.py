"""The range with the least squared error, column by column (ours).

A range below the largest magnitude clips a few values and makes the grid finer for all others.
At 2 and 3 bits this decides: for a Gaussian column and 3 bits, the range of the largest of 512
values has 2.1 times the squared error of the best one (2.5 times with the spare code). Outliers
survive: where clipping them costs more than it gains, the largest magnitude wins.

Legend: R rows, C columns of one width each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, largest_code, step_size

SHARES = (1.0, 0.8, 0.64, 0.5, 0.36, 0.25)
"""Ranges that are tried, as shares of the largest magnitude. Twelve gave no less error."""


def least_error_range(values_RC: Tensor, allocation: BitAllocation, spare_code: bool) -> Tensor:
    """The best of the tried ranges for each column, float32, shape (C,).

    Args:
        values_RC: float32.
        allocation: C widths; for widths below 2, which have no grid, the result means nothing.
        spare_code: count with a code -2^(b-1) on the side of the largest magnitude.
    """
    if not len(values_RC):
        return values_RC.sum(0)
    peak_C = values_RC.abs().amax(0)
    top_C = largest_code(allocation.widths_C.to(peak_C.device))
    bottom_C = top_C + 1 if spare_code else top_C
    values_RC = values_RC * spare_side(values_RC) if spare_code else values_RC
    best_C = peak_C
    least_C = torch.full_like(peak_C, torch.inf)
    for share in SHARES:
        step_C = step_size(share * peak_C, allocation)
        codes_RC = (values_RC / torch.where(step_C > 0, step_C, torch.inf)).round_()
        error_RC = codes_RC.clamp_(-bottom_C, top_C).mul_(step_C).sub_(values_RC)
        error_C = error_RC.square_().sum(0)
        is_less_C = error_C < least_C
        least_C = torch.where(is_less_C, error_C, least_C)
        best_C = torch.where(is_less_C, share * peak_C, best_C)
    return best_C


def spare_side(values_RC: Tensor) -> Tensor:
    """-1 for columns whose largest magnitude is positive, else 1, float32, shape (C,).

    Times this, a column has its longer side where the code -2^(b-1) is.
    """
    if not len(values_RC):
        return torch.ones_like(values_RC.sum(0))
    low_C, high_C = values_RC.aminmax(dim=0)
    return torch.where(high_C > -low_C, -1.0, 1.0)
