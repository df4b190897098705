"""What may have happened to a message on its way, or at a peer that means ill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.quantizer import QuantizedTensor


def damaged(quantized: QuantizedTensor) -> Iterator[tuple[str, QuantizedTensor]]:
    """Messages that are well formed and not what the quantizer made, each with its name."""
    yield from _damaged_codes(quantized)
    yield from _damaged_sides(quantized)
    yield (
        "of another shape",
        replace(
            quantized, shape=(*quantized.shape[:-2], 2 * quantized.shape[-2], quantized.shape[-1])
        ),
    )
    other = torch.float32 if quantized.dtype != torch.float32 else torch.bfloat16
    yield f"of {other}", replace(quantized, dtype=other)


def _damaged_codes(quantized: QuantizedTensor) -> Iterator[tuple[str, QuantizedTensor]]:
    codes = quantized.codes
    if codes is None:
        some = _zeros(4, BitAllocation.uniform(4, quantized.shape[-1]))
        yield "with codes", replace(quantized, codes=some)
        return
    num_rows, allocation = codes.num_rows, codes.allocation
    yield "without codes", replace(quantized, codes=None)
    yield "with a row more", replace(quantized, codes=_zeros(num_rows + 1, allocation))
    yield "with no rows", replace(quantized, codes=_zeros(0, allocation))
    fewer = BitAllocation(allocation.widths_C[:-1], allocation.axis)
    yield "with a column less", replace(quantized, codes=_zeros(num_rows, fewer))
    for bits in (0, 1, 16):
        widths_C = torch.full_like(allocation.widths_C, bits)
        other = BitAllocation(widths_C, allocation.axis)
        yield f"with codes of {bits} bits", replace(quantized, codes=_zeros(num_rows, other))
    turned = BitAllocation(allocation.widths_C.flip(0), allocation.axis)
    yield "with the widths turned round", replace(quantized, codes=_zeros(num_rows, turned))


def _zeros(num_rows: int, allocation: BitAllocation) -> PackedCodes:
    dtype = torch.int16 if int(allocation.widths_C.max()) > 8 else torch.int8
    columns = allocation.widths_C.numel()
    return PackedCodes.pack(torch.zeros(num_rows, columns, dtype=dtype), allocation)


def _damaged_sides(quantized: QuantizedTensor) -> Iterator[tuple[str, QuantizedTensor]]:
    yield "with a side tensor more", _with(quantized, "no_such_tensor", torch.zeros(1))
    for name, tensor in quantized.side.items():
        rest = {key: value for key, value in quantized.side.items() if key != name}
        yield f"without '{name}'", replace(quantized, side=rest)
        yield f"'{name}' with a dimension more", _with(quantized, name, tensor.unsqueeze(0))
        yield f"'{name}' twice as long", _with(quantized, name, torch.cat([tensor, tensor]))
        yield f"half of '{name}'", _with(quantized, name, tensor[: len(tensor) // 2])
        yield f"'{name}' empty", _with(quantized, name, tensor[:0])
        other = torch.int32 if tensor.is_floating_point() else torch.float32
        yield f"'{name}' of {other}", _with(quantized, name, torch.zeros_like(tensor, dtype=other))
        yield f"'{name}' all zero", _with(quantized, name, torch.zeros_like(tensor))
        if tensor.is_floating_point():
            for value in (float("nan"), float("inf"), -1.0, torch.finfo(tensor.dtype).max):
                filled = torch.full_like(tensor, value)
                yield f"'{name}' all {value:.3g}", _with(quantized, name, filled)
        elif tensor.dtype != torch.bool:
            limits = torch.iinfo(tensor.dtype)
            for most in (limits.min, limits.max):
                yield f"'{name}' all {most}", _with(quantized, name, torch.full_like(tensor, most))


def _with(quantized: QuantizedTensor, name: str, tensor: Tensor) -> QuantizedTensor:
    return replace(quantized, side={**quantized.side, name: tensor})
