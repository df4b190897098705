"""Peaks of rows and bounds of columns on an NVIDIA GPU, each in one pass over the values.

Legend: R rows, C columns.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from amaqctl.bits.triton_codec import current

PEAK_TILE = 1024
BOUNDS_TILE = 512
# Rows of one program: enough programs for a GPU, and few bounds left to compare in the end.
BOUNDS_ROWS = 64


def row_peak(values_RC: Tensor) -> Tensor:
    """max |x| of each row, 0 for rows of no columns.

    Args:
        values_RC: float32, bfloat16 or float16, no NaN, shape (R, C), on a CUDA device.

    Returns:
        float32, shape (R,).
    """
    num_rows, num_columns = values_RC.shape
    if values_RC.numel() == 0:
        return torch.zeros(num_rows, dtype=torch.float32, device=values_RC.device)
    peak_R = torch.empty(num_rows, dtype=torch.float32, device=values_RC.device)
    tile = min(PEAK_TILE, max(128, triton.next_power_of_2(num_columns)))
    with current(values_RC.device):
        _peak_kernel[(num_rows,)](
            values_RC.contiguous(), peak_R, num_columns,
            TURNS=triton.cdiv(num_columns, tile), TILE=tile,
        )  # fmt: skip
    return peak_R


def column_bounds(values_RC: Tensor, row_kind: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each column over the rows of kind 0, or all for None.

    Args:
        values_RC: float32, bfloat16 or float16, no NaN, shape (R, C), on a CUDA device.
        row_kind: uint8, shape (R,), on the same device.

    Returns:
        Two float32 vectors, shape (C,): +inf and -inf where no row is of kind 0.
    """
    num_rows, num_columns = values_RC.shape
    device = values_RC.device
    if values_RC.numel() == 0:
        low_C = torch.full((num_columns,), torch.inf, dtype=torch.float32, device=device)
        return low_C, -low_C
    num_parts, num_tiles = triton.cdiv(num_rows, BOUNDS_ROWS), triton.cdiv(num_columns, BOUNDS_TILE)
    low_PC = torch.empty((num_parts, num_columns), dtype=torch.float32, device=device)
    high_PC = torch.empty_like(low_PC)
    kind = None if row_kind is None else row_kind.contiguous()
    with current(device):
        _bounds_kernel[(num_tiles * num_parts,)](
            values_RC.contiguous(), kind, low_PC, high_PC, num_rows, num_columns,
            ROWS=BOUNDS_ROWS, TILE=BOUNDS_TILE,
        )  # fmt: skip
    return low_PC.amin(dim=0), high_PC.amax(dim=0)


@triton.jit
def _peak_kernel(values_ptr, peak_ptr, C, TURNS: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0)
    row_ptr = values_ptr + tl.cast(row, tl.int64) * C
    columns = tl.arange(0, TILE)
    peaks = tl.zeros(columns.shape, tl.float32)
    for turn in tl.range(TURNS):
        at = turn * TILE + columns
        values = tl.load(row_ptr + at, mask=at < C, other=0).to(tl.float32)
        peaks = tl.maximum(peaks, tl.abs(values))
    tl.store(peak_ptr + row, tl.max(peaks, axis=0))


@triton.jit
def _bounds_kernel(
    values_ptr, kind_ptr, low_ptr, high_ptr, R, C, ROWS: tl.constexpr, TILE: tl.constexpr
):
    num_tiles = tl.cdiv(C, TILE)
    part = tl.program_id(0) // num_tiles
    columns = (tl.program_id(0) % num_tiles) * TILE + tl.arange(0, TILE)
    inside = columns < C
    low = tl.full(columns.shape, float("inf"), tl.float32)
    high = tl.full(columns.shape, float("-inf"), tl.float32)
    for turn in tl.range(ROWS // 8):
        for step in tl.static_range(8):  # eight loads on their way at once
            row = part * ROWS + turn * 8 + step
            counts = row < R
            if kind_ptr is not None:
                counts = counts & (tl.load(kind_ptr + row, mask=row < R, other=255) == 0)
            row_ptr = values_ptr + tl.cast(row, tl.int64) * C
            values = tl.load(row_ptr + columns, mask=inside & counts, other=0).to(tl.float32)
            low = tl.minimum(low, tl.where(counts, values, float("inf")))
            high = tl.maximum(high, tl.where(counts, values, float("-inf")))
    bounds = tl.cast(part, tl.int64) * C + columns
    tl.store(low_ptr + bounds, low, mask=inside)
    tl.store(high_ptr + bounds, high, mask=inside)
