"""The grids of `amaq` over plain tensors: measured, and then whatever a test asks of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.quantizer import QuantizedTensor
from amaqctl.quantizers.channel_grid import ChannelGrid
from amaqctl.quantizers.mixed_grid import MixedGrid

_OF_CHANNELS = ("spare_code", "outlier_tokens")


class GridOverTensors:
    """One of both grids, by its options."""

    def __init__(self, axis: str = "channel", scale: str = "channel", **options: Any) -> None:
        self.axis, self.scale = axis, scale
        self.inner: Any
        if axis == scale == "channel":
            self.inner = ChannelGrid(**options)
        else:
            for name in _OF_CHANNELS:
                assert not options.pop(name)
            self.inner = MixedGrid(axis=axis, scale=scale, **options)

    def encode(self, x: Tensor, allocation: BitAllocation) -> QuantizedTensor:
        return self.inner.encode(self.inner.measure(x), allocation)

    def decode(self, quantized: QuantizedTensor) -> Tensor:
        return self.inner.decode(quantized)

    def rounding_residual(self, x: Tensor, quantized: QuantizedTensor) -> Tensor:
        return self.inner.rounding_residual(self.inner.measure(x), quantized)

    def error_curves(self, x: Tensor, widths: Iterable[int]) -> tuple[Tensor, Tensor]:
        return self.inner.error_curves(self.inner.measure(x), widths)
