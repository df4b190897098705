"""`ternary`: every value becomes -s, 0 or s, with one s a token (arXiv 1605.04711).

Ternary Weight Networks do this to weights; here it is done to activations and gradients.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.quantizer import (
    CodesLayout,
    Layout,
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    SideLayout,
    TensorContext,
    num_rows,
    restored,
    rows_of,
    side_values,
)


class TernaryQuantizer(Quantizer):
    """Two bits a value and 16 a token."""

    option_sets = ({}, {"threshold": 0.0})

    class Config(QuantizerConfig):
        """Options of `ternary`."""

        threshold: float = Field(
            0.7, ge=0, lt=1, description="values below this share of the token's mean |x| become 0"
        )

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Codes -1, 0 and 1, and as scale the mean magnitude of what is not zero."""
        rows_RC = rows_of(x)
        magnitude_RC = rows_RC.abs()
        is_kept_RC = magnitude_RC > self.config.threshold * magnitude_RC.mean(1, keepdim=True)
        num_kept_R1 = is_kept_RC.sum(1, keepdim=True).clamp(min=1)
        scale_R1 = (magnitude_RC * is_kept_RC).sum(1, keepdim=True) / num_kept_R1
        codes_RC = (rows_RC.sign() * is_kept_RC).to(torch.int8)
        codes = PackedCodes.pack(codes_RC, BitAllocation.uniform(2, rows_RC.shape[1]))
        side = {"scale": side_values(scale_R1, "bfloat16")}
        return QuantizedTensor(tuple(x.shape), x.dtype, codes, side)

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """x̂ = code · s."""
        assert quantized.codes is not None
        values_RC = quantized.codes.unpack().float() * quantized.side["scale"].float()
        return restored(values_RC, quantized)

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout:
        """Two bits a value, and a scale a row."""
        rows, channels = num_rows(shape), shape[-1]
        codes = CodesLayout(rows, channels, "tensor", (2,))
        return Layout(codes, {"scale": SideLayout(torch.bfloat16, (rows, 1))})
