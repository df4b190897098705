"""What `amaq` asks of a grid of mixed widths, and which one its options mean.

Legend: T tokens, C channels, K columns (channels or positions), W widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.quantizer import QuantizedTensor
from amaqctl.quantizers.amaq_config import AmaqConfig
from amaqctl.quantizers.channel_grid import ChannelGrid
from amaqctl.quantizers.mixed_grid import MixedGrid
from amaqctl.quantizers.mixed_layout import MixedLayout


class ColumnGrid(Protocol):
    """A grid; what `measure` returns is handed on to the others."""

    @property
    def layout(self) -> MixedLayout:
        """What its messages hold."""

    def measure(self, x: Tensor, limit: Tensor | None = None) -> Any:
        """Shape ``x`` (…, T, C) and tell its tokens apart; has the ``limit`` of outliers."""

    def encode(
        self, measured: Any, allocation: BitAllocation, known: Mapping[str, Tensor] | None = None
    ) -> QuantizedTensor:
        """Quantize in the given widths."""

    def decode(self, quantized: QuantizedTensor) -> Tensor:
        """x̂ in the shape and dtype of the tensor that was quantized."""

    def rounding_residual(self, measured: Any, quantized: QuantizedTensor) -> Tensor:
        """x - x̂ where a value was rounded, 0 where it was clipped."""

    def error_curves(self, measured: Any, widths: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Mean squared error (W, K) at each width, and the largest range (K,)."""


def grid_of(config: AmaqConfig, widths: range) -> ColumnGrid:
    """The grid of these options."""
    if config.axis == "channel" and config.scale == "channel":
        return ChannelGrid(
            center=config.center,
            clip=config.clip,
            scale_dtype=config.scale_dtype,
            spare_code=config.spare_code,
            outlier_tokens=config.outlier_tokens,
            widths=widths,
        )
    assert config.clip != "search", "the options see to it"
    return MixedGrid(
        axis=config.axis,
        scale=config.scale,
        center=config.center,
        clip=config.clip,
        scale_dtype=config.scale_dtype,
        widths=widths,
    )
