"""`none`: the identity. The baseline, and what records a raw trace.

The values travel bit for bit as 16-bit words (width 16): one column a channel for bfloat16 and
float16, two for float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.quantizer import (
    CodesLayout,
    Layout,
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    TensorContext,
    num_rows,
)


class NoneQuantizer(Quantizer):
    """Sends every value as it is: lossless."""

    class Config(QuantizerConfig):
        """`none` has no options."""

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """16 bits a value for bfloat16 and float16, 32 for float32."""
        num_columns = x.shape[-1] * x.dtype.itemsize // 2
        words = x.contiguous().reshape(-1).view(torch.int16).reshape(-1, num_columns)
        allocation = BitAllocation.uniform(16, num_columns, "channel")
        return QuantizedTensor(tuple(x.shape), x.dtype, PackedCodes.pack(words, allocation))

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """The very bits that were sent."""
        assert quantized.codes is not None
        words = quantized.codes.unpack()
        return words.contiguous().view(-1).view(quantized.dtype).reshape(quantized.shape)

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout:
        """16-bit words, and nothing beside them."""
        num_columns = shape[-1] * dtype.itemsize // 2
        return Layout(CodesLayout(num_rows(shape), num_columns, "channel", (16,)))
