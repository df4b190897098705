"""Passes over a matrix that choosing a grid needs: peaks, bounds, and errors of candidate grids.

Largest and least values do not depend on an order, and errors are added up as whole numbers, so
every implementation, on any device and in any number of threads, gives the same bits.

Legend: R rows, C columns, S rows of a sample, N candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import library, native
from amaqctl.bits.grid_rows import chunks

MAX_SAMPLE_ROWS = 512
"""More would not fit the sums of `candidate_errors`."""
UNITS_A_SQUARED_STEP = 2048.0
_MOST_UNITS = 2.0**21
_WORTH_A_PASS = 4096
"""Values; for fewer torch's own two passes are quicker than a call."""


def row_peaks(values_RC: Tensor) -> Tensor:
    """Largest magnitude of each row: float32, (R,); 0 where there are no columns, NaN for NaN."""
    if native.takes_values(values_RC):
        return native.row_peaks(values_RC)
    if values_RC.device.type == "cuda" and library.has_triton():
        from amaqctl.bits import triton_stats

        peak_R = triton_stats.row_peak(values_RC)  # a maximum on a GPU passes NaN over
        return torch.where(values_RC.isnan().any(1), torch.nan, peak_R)
    if not values_RC.numel():
        return torch.zeros(values_RC.shape[0], device=values_RC.device)
    # Of zeros the maximum may be -0, whose bytes are others.
    return torch.maximum(values_RC.amax(1), -values_RC.amin(1)).abs().to(torch.float32)


def all_finite(values: Tensor) -> bool:
    """Whether a tensor of any shape holds neither NaN nor infinity."""
    if values.numel() >= _WORTH_A_PASS and native.takes_values(values):
        rows_RC = values.reshape(-1, values.shape[-1])
        return bool(native.row_peaks(rows_RC).isfinite().all())
    return bool(values.isfinite().all())


def column_bounds(values_RC: Tensor, row_kind: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and largest value of each column over the rows of kind 0, float32, (C,) each.

    Where there is no such row they are +inf and -inf, where there is a NaN they are NaN.
    """
    if native.takes_values(values_RC):
        return native.column_bounds(values_RC, row_kind)
    num_rows, num_columns = values_RC.shape
    if values_RC.device.type == "cuda" and library.has_triton():
        from amaqctl.bits import triton_stats

        if row_kind is None:
            row_kind = torch.zeros(num_rows, dtype=torch.uint8, device=values_RC.device)
        low_C, high_C = triton_stats.column_bounds(values_RC, row_kind)
        is_nan_C = values_RC.isnan().any(0)  # a maximum on a GPU passes NaN over
        return low_C.masked_fill(is_nan_C, torch.nan), high_C.masked_fill(is_nan_C, torch.nan)
    low_C = torch.full((num_columns,), torch.inf, device=values_RC.device)
    high_C = -low_C
    for rows in chunks(num_rows, num_columns):
        values_rC = values_RC[rows]
        if row_kind is not None:
            values_rC = values_rC[row_kind[rows] == 0]
        if len(values_rC):
            low_C = torch.minimum(low_C, values_rC.amin(0).to(torch.float32))
            high_C = torch.maximum(high_C, values_rC.amax(0).to(torch.float32))
    return low_C, high_C


def candidate_errors(values_SC: Tensor, step_NC: Tensor, low_NC: Tensor, high_NC: Tensor) -> Tensor:
    """Squared error of each candidate grid of a column, summed over the rows, in squared steps.

    Each square counts in whole 2048ths up to 1024, and what it has beyond that in whole numbers,
    up to 2^21 of them, which only a value clipped by 1,448 steps would exceed.

    Args:
        values_SC: float32, at most `MAX_SAMPLE_ROWS` rows.
        step_NC: float32 step sizes; negative turns the column's sign.
        low_NC, high_NC: the least and the largest code, float32.

    Returns:
        Whole 2048ths, int64, (N, C).
    """
    if native.takes_values(values_SC):
        return native.candidate_errors(values_SC, step_NC, low_NC, high_NC)
    sums = []
    for step_C, low_C, high_C in zip(step_NC, low_NC, high_NC, strict=True):
        steps_SC = values_SC / torch.where(step_C == 0, torch.inf, step_C)
        miss_SC = steps_SC - steps_SC.round().clamp_(low_C, high_C)
        square_SC = miss_SC.square_().mul_(UNITS_A_SQUARED_STEP)
        fine_SC = square_SC.clamp(max=_MOST_UNITS)
        coarse_SC = (square_SC - fine_SC).div_(UNITS_A_SQUARED_STEP).clamp_(max=_MOST_UNITS)
        fine_C, coarse_C = (t.round_().sum(0, dtype=torch.float64) for t in (fine_SC, coarse_SC))
        sums.append((fine_C + coarse_C * UNITS_A_SQUARED_STEP).to(torch.int64))
    return torch.stack(sums) if sums else torch.zeros_like(step_NC, dtype=torch.int64)
