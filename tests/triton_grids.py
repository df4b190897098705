"""The grid and its bytes once more, from the formulas alone: what the Triton kernels must give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, Grid


def grid_of(widths_C: Tensor, *tables: Any, **more: Any) -> Grid:
    """A grid of these widths; tables as in `amaqctl.bits.Grid`."""
    return Grid(BitAllocation(widths_C, "channel"), *tables, **more)


def moved(grid: Grid, device: torch.device | str) -> Grid:
    """The tables on a device; the widths stay on the CPU."""
    names = ("scale", "zero_point", "offset", "row_kind")
    tables = {name: getattr(grid, name) for name in names}
    there = {name: table.to(device) for name, table in tables.items() if table is not None}
    return replace(grid, **there)


def _per_row(table: Tensor, grid: Grid, num_rows: int) -> Tensor:
    """A table's columns for each row of values: (R, G)."""
    rows = torch.zeros(num_rows, dtype=torch.int64, device=table.device)
    if table.shape[0] > 1 and grid.row_kind is not None:
        rows = torch.where(grid.row_kind == 255, 0, grid.row_kind.to(torch.int64))
    elif table.shape[0] > 1:
        rows = torch.arange(num_rows, device=table.device)
    return table[rows]


def _per_value(table: Tensor, grid: Grid, num_rows: int) -> Tensor:
    """A scale or zero point for each value: (R, C)."""
    columns = torch.arange(grid.widths_C.numel(), device=table.device) // grid.group_size
    return _per_row(table, grid, num_rows)[:, columns]


def expected_codes(values_RC: Tensor, grid: Grid, noise: Tensor | None = None) -> Tensor:
    """Codes (R, C), int64."""
    num_rows = values_RC.shape[0]
    bits_C = grid.widths_C.to(values_RC.device, torch.int64)
    v = values_RC.to(torch.float32)
    if grid.offset is not None:
        v = v - _per_row(grid.offset, grid, num_rows)
    if grid.row_kind is not None:
        v = torch.where((grid.row_kind == 255).unsqueeze(1), 0.0, v)
    scale = _per_value(grid.scale, grid, num_rows)
    t, s = torch.where(scale < 0, -v, v), scale.abs()
    q = t / torch.where(s > 0, s, torch.inf)
    q = q.round() if noise is None else (q + noise).floor()
    half = ((1 << bits_C) >> 1).to(torch.float32)
    top = (half - 1).clamp(min=0)
    if grid.zero_point is not None:
        q = q + _per_value(grid.zero_point, grid, num_rows)
    is_whole = grid.zero_point is not None or grid.all_codes
    code = q.clamp(-half if is_whole else -top, top)
    code = torch.where(bits_C == 1, -(t < 0).to(torch.float32), code)
    return torch.where(bits_C == 0, 0, code.to(torch.int64))


def expected_bytes(codes_RC: Tensor, widths_C: Tensor) -> Tensor:
    """The packed layout of codes, uint8."""
    num_rows, num_columns = codes_RC.shape
    bits_C = widths_C.to(codes_RC.device, torch.int64)
    num_k = -(-num_rows // 8)
    padded = codes_RC.new_zeros((num_k * 8, num_columns))
    padded[:num_rows] = codes_RC
    word_KC = codes_RC.new_zeros((num_k, num_columns))
    for i, row_KC in enumerate(padded.reshape(num_k, 8, num_columns).unbind(1)):
        word_KC |= (row_KC & ((1 << bits_C) - 1)) << (bits_C * i)
    bytes_KC8 = torch.stack([(word_KC >> (8 * j)) & 255 for j in range(8)], dim=2)
    is_sent_C8 = torch.arange(8, device=codes_RC.device) < bits_C.unsqueeze(1)
    return bytes_KC8[:, is_sent_C8].reshape(-1).to(torch.uint8)


def expected_values(codes_RC: Tensor, grid: Grid) -> Tensor:
    """What codes decode to, float32 (R, C)."""
    num_rows = codes_RC.shape[0]
    bits_C = grid.widths_C.to(codes_RC.device)
    f = codes_RC.to(torch.float32)
    if grid.zero_point is not None:
        f = f - _per_value(grid.zero_point, grid, num_rows)
    f = torch.where(bits_C == 1, 1.0 + 2.0 * codes_RC.to(torch.float32), f)
    y = f * _per_value(grid.scale, grid, num_rows)
    y = torch.where(bits_C == 0, 0.0, y)
    return y if grid.offset is None else y + _per_row(grid.offset, grid, num_rows)


def cast(values_RC: Tensor, dtype: torch.dtype) -> Tensor:
    """To a dtype, half to even, held in the range of float16."""
    return (values_RC.clamp(-65504.0, 65504.0) if dtype == torch.float16 else values_RC).to(dtype)


def mixed_widths(num_columns: int, least: int = 0, most: int = 8, seed: int = 0) -> Tensor:
    """Random widths, uint8 (C,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(least, most + 1, (num_columns,), generator=generator).to(torch.uint8)
