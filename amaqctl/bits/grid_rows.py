"""A grid in plain torch, a few rows at a time: the reference, and what runs without a compiler.

A chunk of rows is small enough to stay in the processor's cache, and bounds the memory that a
pass takes besides what it reads and writes: about eight chunks of float32.

Legend: R rows, C columns; r rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from amaqctl.bits.grid_tables import PADDING, GridTables
from amaqctl.bits.packing import half_range, num_blocks, pack_fitting, unpack
from amaqctl.bits.words import BLOCK_ROWS

_CHUNK_VALUES = 2**18


def encode(values_RC: Tensor, grid: GridTables, noise: Tensor | None) -> Tensor:
    """Bytes of `Grid.encode`: uint8, (ceil(R/8) · sum of widths,)."""
    num_rows, num_columns = values_RC.shape
    block_bytes = int(grid.widths_C.sum(dtype=torch.int64))
    data = torch.empty(
        num_blocks(num_rows) * block_bytes, dtype=torch.uint8, device=values_RC.device
    )
    for rows in chunks(num_rows, num_columns):
        codes = _codes(values_RC, grid, rows, None if noise is None else noise[rows])
        first = rows.start // BLOCK_ROWS * block_bytes
        packed = pack_fitting(codes, grid.widths_C)
        data[first : first + len(packed)] = packed
    return data


def decode(data: Tensor, num_rows: int, grid: GridTables, dtype: torch.dtype) -> Tensor:
    """Values of `Grid.decode`, (R, C)."""
    num_columns = grid.widths_C.numel()
    block_bytes = int(grid.widths_C.sum(dtype=torch.int64))
    values_RC = torch.empty((num_rows, num_columns), dtype=dtype, device=data.device)
    for rows in chunks(num_rows, num_columns):
        num_k = num_blocks(rows.stop - rows.start)
        first = rows.start // BLOCK_ROWS * block_bytes
        codes = unpack(
            data[first : first + num_k * block_bytes], rows.stop - rows.start, grid.widths_C
        )
        values_rC = values_of(codes, grid, rows)
        if dtype == torch.float16:
            largest = torch.finfo(torch.float16).max
            values_rC = values_rC.clamp(-largest, largest)
        values_RC[rows] = values_rC
    return values_RC


def values_of(codes_rC: Tensor, grid: GridTables, rows: slice) -> Tensor:
    """x̂ of the codes of some rows: float32, (r, C)."""
    values_rC = codes_rC.to(torch.float32)
    if grid.zero_point is not None:
        values_rC = values_rC - _by_column(grid, _of_rows(grid.zero_point, grid, rows))
    widths_C = grid.widths_C.to(codes_rC.device)
    low, high = _range_of(grid.widths_C)
    if low <= 1 <= high:
        values_rC = torch.where(widths_C == 1, 1.0 + 2.0 * values_rC, values_rC)
    values_rC = values_rC * _by_column(grid, _of_rows(grid.scale, grid, rows))
    if not low:
        values_rC = torch.where(widths_C == 0, 0.0, values_rC)
    return values_rC if grid.offset is None else values_rC + _of_rows(grid.offset, grid, rows)


def _codes(values_RC: Tensor, grid: GridTables, rows: slice, noise: Tensor | None) -> Tensor:
    """Codes of some rows: int8, (r, C)."""
    values_rC = values_RC[rows].to(torch.float32)
    if grid.offset is not None:
        values_rC = values_rC - _of_rows(grid.offset, grid, rows)
    if grid.row_kind is not None:
        is_padding_r1 = (grid.row_kind[rows] == PADDING).unsqueeze(1)
        values_rC = values_rC.masked_fill(is_padding_r1, 0.0)
    scale = _by_column(grid, _of_rows(grid.scale, grid, rows))
    steps_rC = values_rC / torch.where(scale == 0, torch.inf, scale)
    steps_rC = steps_rC.round_() if noise is None else steps_rC.add_(noise).floor_()
    half_C = half_range(grid.widths_C).to(values_rC.device, torch.float32)
    top_C = (half_C - 1).clamp(min=0)
    if grid.zero_point is not None:
        steps_rC += _by_column(grid, _of_rows(grid.zero_point, grid, rows))
    has_all = grid.all_codes or grid.zero_point is not None
    codes_rC = steps_rC.clamp_(-half_C if has_all else -top_C, top_C).to(torch.int8)
    low, high = _range_of(grid.widths_C)
    if not low <= 1 <= high:
        return codes_rC
    is_sign_C = (grid.widths_C == 1).to(values_rC.device)
    is_negative_rC = torch.where(scale < 0, -values_rC, values_rC) < 0
    return torch.where(is_sign_C, -is_negative_rC.to(torch.int8), codes_rC)


def _of_rows(table: Tensor, grid: GridTables, rows: slice) -> Tensor:
    """The rows of a table that some rows of the matrix mean."""
    if table.shape[0] == 1:
        return table
    if grid.row_kind is None:
        return table[rows]
    kind_r = grid.row_kind[rows].to(torch.int64)
    return table[torch.where(kind_r == PADDING, 0, kind_r)]


def _by_column(grid: GridTables, of_groups: Tensor) -> Tensor:
    """A value for each column, out of one for each group of them."""
    num_columns = grid.widths_C.numel()
    if grid.group_size == 1 or of_groups.shape[1] == 1:
        return of_groups
    return of_groups.repeat_interleave(grid.group_size, dim=1)[:, :num_columns]


def _range_of(widths_C: Tensor) -> tuple[int, int]:
    """Least and largest width."""
    if not widths_C.numel():
        return 8, 8
    low, high = widths_C.aminmax()
    return int(low), int(high)


def chunks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Whole blocks of rows, some `_CHUNK_VALUES` values each."""
    step = max(_CHUNK_VALUES // max(num_columns, 1) // BLOCK_ROWS, 1) * BLOCK_ROWS
    for first in range(0, num_rows, step):
        yield slice(first, min(first + step, num_rows))
