"""Grids and the passes of their statistics through the compiled codec, `amaqctl.bits.library`.

Legend: R rows, C columns; P, Q rows of the tables of a grid, G its groups of columns.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from amaqctl.bits import library
from amaqctl.bits.grid_tables import PADDING, GridTables
from amaqctl.bits.packing import num_blocks

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_MOST_BITS = 8
_LARGEST_ZERO_POINT = 2.0**20
"""Beyond it a zero point less a code is not exact in float32; no code is near it."""


class _Grid(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("num_rows", "num_columns", "block_bytes")),
        *((name, ctypes.c_void_p) for name in ("widths", "scale", "zero_point", "offset")),
        *((name, ctypes.c_void_p) for name in ("noise", "row_kind")),
        *((name, ctypes.c_int64) for name in ("group_size", "num_groups")),
        *((name, ctypes.c_int64) for name in ("scale_rows", "offset_rows")),
        *((name, ctypes.c_int32) for name in ("all_codes", "dtype")),
    ]


class _Candidates(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("num_rows", "num_columns", "num_candidates")),
        *((name, ctypes.c_void_p) for name in ("values", "step", "low", "high", "error")),
    ]


def takes_values(values: Tensor) -> bool:
    """Whether there is a compiled codec, and it takes values of this type and device."""
    return library.loaded() is not None and library.is_on_cpu(values) and values.dtype in _DTYPES


def takes(values: Tensor, grid: GridTables) -> bool:
    """Whether values of this type and device can go through the compiled codec with this grid."""
    if not takes_values(values) or (
        grid.widths_C.numel() and int(grid.widths_C.max()) > _MOST_BITS
    ):
        return False
    if grid.scale.device.type != "cpu" or grid.scale.dtype != torch.float32:
        return False
    zero = grid.zero_point
    return zero is None or not zero.numel() or float(zero.abs().max()) <= _LARGEST_ZERO_POINT


def encode(values_RC: Tensor, grid: GridTables, noise: Tensor | None) -> Tensor:
    """Bytes of `Grid.encode`: uint8, (ceil(R/8) · sum of widths,)."""
    values_RC = values_RC.contiguous()
    kept, described = _described(values_RC.shape[0], values_RC.dtype, grid, noise)
    num_k = num_blocks(values_RC.shape[0])
    data = torch.empty(num_k * described.block_bytes, dtype=torch.uint8)
    call = library.required().amaqctl_encode
    arguments = (ctypes.addressof(described), _at(values_RC), _at(data))
    library.in_threads(lambda first, last: call(*arguments, first, last), num_k, values_RC.numel())
    del kept
    return data


def decode(data: Tensor, num_rows: int, grid: GridTables, dtype: torch.dtype) -> Tensor:
    """Values of `Grid.decode`, (R, C)."""
    data = data.contiguous()
    kept, described = _described(num_rows, dtype, grid, None)
    values_RC = torch.empty((num_rows, described.num_columns), dtype=dtype)
    call = library.required().amaqctl_decode
    arguments = (ctypes.addressof(described), _at(data), _at(values_RC))
    library.in_threads(
        lambda first, last: call(*arguments, first, last), num_blocks(num_rows), values_RC.numel()
    )
    del kept
    return values_RC


def row_peaks(values_RC: Tensor) -> Tensor:
    """As `amaqctl.bits.passes.row_peaks`."""
    values_RC = values_RC.contiguous()
    peak_R = torch.empty(values_RC.shape[0])
    matrix = _matrix(values_RC)
    call = library.required().amaqctl_row_peaks

    def work(first: int, last: int) -> None:
        call(ctypes.addressof(matrix), _at(values_RC), first, last, _at(peak_R))

    library.in_threads(work, values_RC.shape[0], values_RC.numel())
    return peak_R


def column_bounds(values_RC: Tensor, row_kind: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `amaqctl.bits.passes.column_bounds`."""
    values_RC = values_RC.contiguous()
    low_C = torch.full((values_RC.shape[1],), torch.inf)
    high_C = -low_C
    matrix = _matrix(values_RC)
    if row_kind is not None:
        row_kind = row_kind.contiguous()
        assert row_kind.shape == values_RC.shape[:1]
        matrix.row_kind = _at(row_kind)
    library.required().amaqctl_column_bounds(
        ctypes.addressof(matrix), _at(values_RC), _at(low_C), _at(high_C)
    )
    return low_C, high_C


def candidate_errors(values_SC: Tensor, step_NC: Tensor, low_NC: Tensor, high_NC: Tensor) -> Tensor:
    """As `amaqctl.bits.passes.candidate_errors`."""
    tensors = [t.to(torch.float32).contiguous() for t in (values_SC, step_NC, low_NC, high_NC)]
    assert low_NC.shape == high_NC.shape == step_NC.shape
    assert step_NC.shape[1] == values_SC.shape[1]
    error_NC = torch.empty(step_NC.shape, dtype=torch.int64)
    described = _Candidates(
        *values_SC.shape, step_NC.shape[0], *(_at(t) for t in (*tensors, error_NC))
    )
    library.required().amaqctl_candidate_errors(ctypes.addressof(described))
    return error_NC


def _matrix(values_RC: Tensor) -> _Grid:
    num_rows, num_columns = values_RC.shape
    return _Grid(num_rows=num_rows, num_columns=num_columns, dtype=_DTYPES[values_RC.dtype])


def _described(
    num_rows: int, dtype: torch.dtype, grid: GridTables, noise: Tensor | None
) -> tuple[list[Tensor], _Grid]:
    """The grid for C, and the tensors that it points into, which must outlive it."""
    widths_C = grid.widths_C.contiguous()
    tables = [
        None if table is None else table.to(torch.float32).contiguous()
        for table in (grid.scale, grid.zero_point, grid.offset, noise)
    ]
    kind = None if grid.row_kind is None else grid.row_kind.contiguous()
    scale, offset = tables[0], tables[2]
    assert scale is not None
    _check_tables(num_rows, grid)
    described = _Grid(
        num_rows,
        widths_C.numel(),
        int(widths_C.sum(dtype=torch.int64)),
        *(None if t is None else _at(t) for t in (widths_C, *tables, kind)),
        grid.group_size,
        scale.shape[1],
        scale.shape[0],
        0 if offset is None else offset.shape[0],
        int(grid.all_codes),
        _DTYPES[dtype],
    )
    return [t for t in (widths_C, *tables, kind) if t is not None], described


def _check_tables(num_rows: int, grid: GridTables) -> None:
    """No table is read beyond its end, whatever a caller made of it."""
    num_columns = grid.widths_C.numel()
    kind = grid.row_kind
    assert kind is None or kind.shape == (num_rows,)
    due = num_rows
    if kind is not None and kind.numel():
        is_real = kind != PADDING
        due = int(kind[is_real].max()) + 1 if bool(is_real.any()) else 1
    num_groups = -(-num_columns // grid.group_size)
    for table, width in (
        (grid.scale, num_groups),
        (grid.zero_point, num_groups),
        (grid.offset, num_columns),
    ):
        assert table is None or table.shape[1] == width, (table.shape, width)
        assert table is None or table.shape[0] == 1 or table.shape[0] >= due, (table.shape, due)
    assert grid.zero_point is None or grid.zero_point.shape == grid.scale.shape


def _at(tensor: Tensor) -> int:
    return tensor.data_ptr()
