"""The grid and the packed layout on an NVIDIA GPU: one kernel to encode, one to decode.

Only a tensor on such a device leads here: triton is not needed elsewhere.

The bytes are those of `amaqctl.bits.packing`, and the arithmetic is the grid's, operation by
operation: float32, rounded to nearest, division included, and no product fused with a sum.

The kernels are bound by instructions rather than by memory, hence: a word of eight codes is held
in 32-bit halves, and in one half where every width is at most four; rounding and the way to an
integer are one addition; and where all columns share a width of 1, 2, 4 or 8 bits, a column's
bytes are one store.

Legend: R rows, C columns, K = ceil(R/8) blocks of S = sum(widths) bytes, G groups of columns,
P and Q rows of the grid's tables.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from amaqctl.bits.grid_tables import GridTables
from amaqctl.bits.packing import num_blocks, packed_bytes
from amaqctl.bits.triton_kernels import decode_kernel, encode_kernel
from amaqctl.bits.words import BLOCK_ROWS

# Columns of one program: four a thread, so that its values of a row are one load; two where bytes
# go one by one, as a thread's columns are apart then, and each needs registers of its own.
TILE_COLUMNS = 512
TILE_COLUMNS_BY_BYTES = 256
# Blocks that one program does in turn: what it knows of its columns is loaded once.
TILE_BLOCKS = 4


class _Columns(NamedTuple):
    bits_C: Tensor
    starts_C: Tensor
    least: int
    """No width is less, so that what widths of 0 and 1 need is left out where there are none."""
    most: int
    shared: int
    """The width in bits that all columns have, 0 where they differ."""


def encode(values_RC: Tensor, grid: GridTables, noise: Tensor | None = None) -> Tensor:
    """Quantize and pack.

    Args:
        values_RC: float32, bfloat16 or float16, finite, shape (R, C), on a CUDA device.
        grid: widths, step sizes and what else makes the grid.
        noise: float32 in [0, 1), shape (R, C): stochastic rounding floor(q + noise); None
            rounds to nearest.

    Returns:
        uint8, shape (ceil(R/8) · sum(widths),), on the device of the values.
    """
    num_rows, num_columns = values_RC.shape
    device = values_RC.device
    size = packed_bytes(num_rows, grid.widths_C)
    data = torch.empty(size, dtype=torch.uint8, device=device)
    if size == 0:
        return data
    values_RC = values_RC.contiguous()
    noise = None if noise is None else noise.contiguous()
    columns, launch, settings = _plan(num_rows, grid, device)
    with current(device):
        encode_kernel[launch](
            values_RC, noise, _as_words(data, columns.shared), *_tables(grid, columns),
            num_rows, num_columns, size // num_blocks(num_rows), grid.scale.shape[1],
            grid.group_size, **settings, ALL_CODES=grid.all_codes or grid.zero_point is not None,
        )  # fmt: skip
    return data


def decode(
    data: Tensor, num_rows: int, grid: GridTables, out_dtype: torch.dtype = torch.float32
) -> Tensor:
    """Unpack and dequantize.

    Args:
        data: uint8, shape (ceil(R/8) · sum(widths),), on a CUDA device.
        num_rows: R.
        grid: as in `encode`.
        out_dtype: float32, bfloat16 or float16, which is clamped to its range.

    Returns:
        Shape (R, C), ``out_dtype``, on the device of the data.
    """
    num_columns = grid.widths_C.numel()
    values_RC = torch.empty((num_rows, num_columns), dtype=out_dtype, device=data.device)
    if values_RC.numel() == 0:
        return values_RC
    columns, launch, settings = _plan(num_rows, grid, data.device)
    data = data.contiguous()
    if data.data_ptr() % 8:  # a slice of a message: whole words are read below
        data = data.clone()
    with current(data.device):
        decode_kernel[launch](
            _as_words(data, columns.shared), values_RC, *_tables(grid, columns),
            num_rows, num_columns, data.numel() // num_blocks(num_rows), grid.scale.shape[1],
            grid.group_size, **settings,
        )  # fmt: skip
    return values_RC


def _plan(
    num_rows: int, grid: GridTables, device: torch.device
) -> tuple[_Columns, tuple[int], dict[str, Any]]:
    """What is known of the columns, how many programs run, and the kernels' constants."""
    columns = _columns_on(grid.widths_C.numpy().tobytes(), device)
    num_columns = grid.widths_C.numel()
    most = TILE_COLUMNS if columns.shared in (1, 2, 4, 8) else TILE_COLUMNS_BY_BYTES
    tile = min(most, max(128, triton.next_power_of_2(num_columns)))
    blocks = min(TILE_BLOCKS, triton.next_power_of_2(num_blocks(num_rows)))
    num_programs = triton.cdiv(num_columns, tile) * triton.cdiv(num_blocks(num_rows), blocks)
    offset_rows = 1 if grid.offset is None else grid.offset.shape[0]
    settings = {
        "SCALE_ROW": _row_rule(grid.scale.shape[0], grid.row_kind),
        "OFFSET_ROW": _row_rule(offset_rows, grid.row_kind),
        "ONE_SCALE": grid.scale.shape[1] == 1,
        "LEAST": columns.least,
        "MOST": columns.most,
        "SHARED": columns.shared,
        "FULL": num_rows % (BLOCK_ROWS * blocks) == 0,
        "TILE": tile,
        "BLOCKS": blocks,
        "num_warps": 4,
        # A product fused with the sum after it would round once where the grid rounds twice.
        "enable_fp_fusion": False,
    }
    return columns, (num_programs,), settings


@lru_cache(maxsize=64)
def _columns_on(widths: bytes, device: torch.device) -> _Columns:
    bits_C = torch.tensor(list(widths), dtype=torch.int32)
    starts_C = (bits_C.cumsum(0) - bits_C).to(torch.int32)
    least, most = min(widths), max(widths)
    shared = most if least == most else 0
    # As few kernels as there are kinds: compiling one takes a second, and widths may change.
    if not shared:
        least, most = min(least, 2), 4 if most <= 4 else 8
    return _Columns(bits_C.to(device), starts_C.to(device), least, most, shared)


def _tables(grid: GridTables, columns: _Columns) -> tuple[Tensor | None, ...]:
    tables = (grid.scale, grid.zero_point, grid.offset, grid.row_kind)
    contiguous = (None if table is None else table.contiguous() for table in tables)
    return (columns.bits_C, columns.starts_C, *contiguous)


def _row_rule(table_rows: int, row_kind: Tensor | None) -> str:
    if table_rows == 1:
        return "first"
    return "same" if row_kind is None else "kind"


def _as_words(data: Tensor, shared: int) -> Tensor:
    """The bytes as words of a column where one width, a power of two, gives all one size."""
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return data.view(words[shared]) if shared in words else data


def current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which may be another GPU than the data's."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
