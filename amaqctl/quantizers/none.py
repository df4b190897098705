"""`none`: the identity. The baseline, and what records a raw trace.

The values travel bit for bit as 16-bit words (width 16): one column a channel for bfloat16 and
float16, two for float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.quantizer import QuantizedTensor, Quantizer, QuantizerConfig, TensorContext


class NoneQuantizer(Quantizer):
    """Sends every value as it is: lossless."""

    class Config(QuantizerConfig):
        """`none` has no options."""

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """16 bits a value for bfloat16 and float16, 32 for float32."""
        words = x.reshape(-1, x.shape[-1]).contiguous().view(torch.int16)
        allocation = BitAllocation.uniform(16, words.shape[1], "channel")
        return QuantizedTensor(tuple(x.shape), x.dtype, PackedCodes.pack(words, allocation))

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """The very bits that were sent."""
        assert quantized.codes is not None
        words = quantized.codes.unpack()
        return words.contiguous().view(quantized.dtype).reshape(quantized.shape)
