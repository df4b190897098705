"""The grid that all built-ins share: symmetric, with an exact zero (our choice).

For a width b of two bits or more, with step size s (the *scale*):

    n = 2^(b-1) - 1,   code = clamp(round(x / s), -n, n),   x̂ = code · s

rounding half to even. b = 1 sends the sign, x̂ = ±s; b = 0 sends nothing, x̂ = 0. With a zero
point z, an integer, the grid is asymmetric and still has an exact zero:

    code = clamp(round(x / s) + z, -2^(b-1), 2^(b-1) - 1),   x̂ = (code - z) · s

All arithmetic is float32 and no product feeds an addition, so no compiler can fuse the two, and
every implementation of this grid gives the same bytes.

`Grid` says all of it for a matrix, with an offset that is subtracted first where there is one;
quantizing and packing, and unpacking and dequantizing, are then one pass each: compiled
(`amaqctl.bits.native`), or in plain torch, a few rows at a time.

Legend: R rows, C columns of one width each. A scale is any shape that broadcasts to (R, C).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from amaqctl.bits import grid_rows, library, native
from amaqctl.bits.allocation import BitAllocation
from amaqctl.bits.codes import PackedCodes
from amaqctl.bits.grid_tables import GridTables
from amaqctl.bits.packing import half_range
from amaqctl.errors import QuantizationError

Rounding = Literal["nearest", "stochastic"]


class Grid(GridTables):
    """A grid, and the two ways through it; see `GridTables` for its parts."""

    def encode(self, values_RC: Tensor, noise: Tensor | None = None) -> PackedCodes:
        """Quantize and pack.

        Args:
            values_RC: finite, of any float type.
            noise: float32 in [0, 1), (R, C): stochastic rounding floor(x/s + noise); None rounds
                to nearest.
        """
        data = _implementation(values_RC, self).encode(values_RC, self, noise)
        return PackedCodes(data, values_RC.shape[0], self.allocation)

    def decode(self, packed: PackedCodes, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unpack and dequantize: (R, C), rounded to ``dtype``; float16 holds at most ±65504."""
        like = torch.empty((0, 0), dtype=dtype, device=packed.data.device)
        values_RC: Tensor = _implementation(like, self).decode(
            packed.data, packed.num_rows, self, dtype
        )
        return values_RC


def _implementation(values: Tensor, grid: GridTables) -> Any:
    """The module that encodes and decodes values of this type and device."""
    if native.takes(values, grid):
        return native
    if values.device.type == "cuda" and library.has_triton() and 16 not in grid.widths_C:
        from amaqctl.bits import triton_codec

        return triton_codec
    return grid_rows


def largest_code(widths: Tensor) -> Tensor:
    """n = 2^(b-1) - 1 of each width, float32; 1 for widths 0 and 1, whose scale is the value."""
    return (half_range(widths) - 1).clamp(min=1).to(torch.float32)


def step_size(value_range: Tensor, allocation: BitAllocation) -> Tensor:
    """s = r / n(b), float32, for a range r that broadcasts to (R, C)."""
    return value_range / largest_code(allocation.widths_C.to(value_range.device))


def encode(
    values_RC: Tensor,
    scale: Tensor,
    allocation: BitAllocation,
    *,
    zero_point: Tensor | None = None,
    noise: Tensor | None = None,
) -> PackedCodes:
    """Quantize to the grid and pack.

    Args:
        values_RC: float32, finite.
        scale: float32 step sizes >= 0, broadcastable to (R, C). A zero scale gives code 0.
        allocation: C bit-widths of 0–8.
        zero_point: integers as float32, broadcastable, for the asymmetric grid (widths >= 2).
        noise: float32 in [0, 1), shape (R, C): stochastic rounding floor(x/s + noise); None
            rounds to nearest.
    """
    return _grid_of(values_RC.shape[0], scale, allocation, zero_point).encode(values_RC, noise)


def nearest_codes(
    values_RC: Tensor,
    scale: Tensor,
    allocation: BitAllocation,
    *,
    zero_point: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """The int8 codes (R, C) that `encode` packs."""
    return encode(values_RC, scale, allocation, zero_point=zero_point, noise=noise).unpack()


def decode(
    packed: PackedCodes,
    scale: Tensor,
    *,
    zero_point: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Unpack and dequantize: ``dtype``, shape (R, C). Other arguments as in `encode`.

    Raises:
        QuantizationError: a scale or zero point that does not broadcast to (R, C).
    """
    return _grid_of(packed.num_rows, scale, packed.allocation, zero_point).decode(packed, dtype)


def values_of_codes(
    codes_RC: Tensor,
    scale: Tensor,
    allocation: BitAllocation,
    *,
    zero_point: Tensor | None = None,
) -> Tensor:
    """x̂ of the codes that `nearest_codes` gives: float32, shape (R, C)."""
    grid = _grid_of(codes_RC.shape[0], scale, allocation, zero_point)
    return grid_rows.values_of(codes_RC, grid, slice(0, codes_RC.shape[0]))


def _grid_of(
    num_rows: int, scale: Tensor, allocation: BitAllocation, zero_point: Tensor | None
) -> Grid:
    """The grid of tables that broadcast to (R, C).

    Raises:
        QuantizationError: one does not.
    """
    shape = (num_rows, allocation.num_columns)
    for name, tensor in (("scale", scale), ("zero point", zero_point)):
        if tensor is not None and not _broadcasts(tensor.shape, shape):
            raise QuantizationError(f"a {name} of shape {tuple(tensor.shape)} for codes of {shape}")
    if zero_point is not None:
        scale, zero_point = torch.broadcast_tensors(scale, zero_point)
        zero_point = zero_point.reshape(_padded(zero_point.shape))
    scale = scale.reshape(_padded(scale.shape))
    group_size = 1 if scale.shape[1] == shape[1] else max(shape[1], 1)
    return Grid(allocation, scale, group_size, zero_point)


def _broadcasts(shape: torch.Size, target: tuple[int, int]) -> bool:
    """Whether ``shape`` broadcasts to ``target`` without enlarging it."""
    padded = _padded(shape)
    return len(padded) == 2 and all(a in (1, b) for a, b in zip(padded, target, strict=True))


def _padded(shape: torch.Size) -> tuple[int, ...]:
    return (1,) * (2 - len(shape)) + tuple(shape)
