"""The grid that all built-ins share: symmetric, with an exact zero (our choice).

For a width b of two bits or more, with step size s (the *scale*):

    n = 2^(b-1) - 1,   code = clamp(round(x / s), -n, n),   x̂ = code · s

rounding half to even. b = 1 sends the sign, x̂ = ±s; b = 0 sends nothing, x̂ = 0. With a zero
point z, an integer, the grid is asymmetric and still has an exact zero:

    code = clamp(round(x / s) + z, -2^(b-1), 2^(b-1) - 1),   x̂ = (code - z) · s

All arithmetic is float32 and no product feeds an addition, so no compiler can fuse the two, and
every implementation of this grid gives the same bytes.

Legend: R rows, C columns of one width each. A scale is any shape that broadcasts to (R, C).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amaqctl.bits.allocation import BitAllocation
from amaqctl.bits.codes import PackedCodes
from amaqctl.bits.packing import half_range
from amaqctl.errors import QuantizationError

Rounding = Literal["nearest", "stochastic"]


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
    codes = nearest_codes(values_RC, scale, allocation, zero_point=zero_point, noise=noise)
    return PackedCodes.pack(codes, allocation)


def nearest_codes(
    values_RC: Tensor,
    scale: Tensor,
    allocation: BitAllocation,
    *,
    zero_point: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """The int8 codes (R, C) that `encode` packs."""
    widths_C = allocation.widths_C.to(values_RC.device)
    steps_RC = values_RC / torch.where(scale > 0, scale, torch.inf)
    steps_RC = steps_RC.round() if noise is None else (steps_RC + noise).floor()
    half_C = half_range(widths_C).to(torch.float32)
    top_C = (half_C - 1).clamp(min=0)
    if zero_point is None:
        codes_RC = steps_RC.clamp(-top_C, top_C).to(torch.int8)
    else:
        codes_RC = (steps_RC + zero_point).clamp(-half_C, top_C).to(torch.int8)
    is_sign_C = widths_C == 1
    if bool(is_sign_C.any()):
        codes_RC = torch.where(is_sign_C, -(values_RC < 0).to(torch.int8), codes_RC)
    return codes_RC


def decode(packed: PackedCodes, scale: Tensor, *, zero_point: Tensor | None = None) -> Tensor:
    """Unpack and dequantize: float32, shape (R, C). Arguments as in `encode`.

    Raises:
        QuantizationError: a scale or zero point that does not broadcast to (R, C).
    """
    shape = (packed.num_rows, packed.allocation.num_columns)
    for name, tensor in (("scale", scale), ("zero point", zero_point)):
        if tensor is not None and not _broadcasts(tensor.shape, shape):
            raise QuantizationError(f"a {name} of shape {tuple(tensor.shape)} for codes of {shape}")
    return values_of_codes(packed.unpack(), scale, packed.allocation, zero_point=zero_point)


def values_of_codes(
    codes_RC: Tensor,
    scale: Tensor,
    allocation: BitAllocation,
    *,
    zero_point: Tensor | None = None,
) -> Tensor:
    """x̂ of the codes that `nearest_codes` gives: float32, shape (R, C)."""
    codes_RC = codes_RC.to(torch.float32)
    if zero_point is not None:
        codes_RC = codes_RC - zero_point
    widths_C = allocation.widths_C.to(codes_RC.device)
    is_sign_C = widths_C == 1
    if bool(is_sign_C.any()):
        codes_RC = torch.where(is_sign_C, 1.0 + 2.0 * codes_RC, codes_RC)
    values_RC = codes_RC * scale
    is_absent_C = widths_C == 0
    return torch.where(is_absent_C, 0.0, values_RC) if bool(is_absent_C.any()) else values_RC


def _broadcasts(shape: torch.Size, target: tuple[int, int]) -> bool:
    """Whether ``shape`` broadcasts to ``target`` without enlarging it."""
    padded = (1,) * (2 - len(shape)) + tuple(shape)
    return len(padded) == 2 and all(a in (1, b) for a, b in zip(padded, target, strict=True))
