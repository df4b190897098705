"""The mixed-width grid of `amaq` where a column is a position, or tokens have scales (ours).

A column is a channel, or a position of the sequence. Each direction is one pure function of a
tensor and its widths, so the receiver needs nothing but the message. Channels with one range each
have a grid of their own, `amaqctl.quantizers.channel_grid`.

Legend: B batch, T tokens, C channels; the packed matrix has R rows and K columns: (B·T, C) for
the channel axis, (B·C, T) for the position axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amaqctl.bits import (
    BitAllocation,
    decode,
    encode,
    step_size,
)
from amaqctl.quantizer import QuantizedTensor, ScaleDtype, restored, side_values
from amaqctl.quantizers.hidden_shape import amax, as_BTC, as_shape_BTC
from amaqctl.quantizers.mixed_layout import MixedLayout

_HALF_A_STEP = 0.501
"""In steps, and a little for what float32 loses."""


@dataclass(frozen=True)
class HiddenStates:
    """A tensor on its way.

    Args:
        shape, dtype: of the tensor.
        values_BTC: it, float32.
        is_token_BT1: which tokens are no padding, exact zeros.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    values_BTC: Tensor
    is_token_BT1: Tensor
    limit: None = None


@dataclass(frozen=True)
class MixedGrid:
    """How values are centred and scaled before they are rounded to mixed widths.

    Args:
        axis: what a column is.
        scale: what shares one range: a channel (or position), a token, or their product.
        center: subtract the mean of each channel (over real tokens).
        clip: limit a channel's range to this many times its mean magnitude; None for no clip.
        scale_dtype: in which ranges and means travel.
        widths: legal bit-widths, none below 2.
    """

    axis: Literal["channel", "position"]
    scale: Literal["channel", "token", "channel-token"]
    center: bool
    clip: float | None
    scale_dtype: ScaleDtype
    widths: range = range(2, 9)

    @property
    def layout(self) -> MixedLayout:
        """What its messages hold."""
        return MixedLayout(self.axis, self.scale, self.center, self.scale_dtype, False, self.widths)

    def measure(self, x: Tensor, limit: Tensor | None = None) -> HiddenStates:
        """Shape ``x`` (…, T, C) and find its padding; no token is an outlier here."""
        del limit
        values_BTC = as_BTC(x.detach())
        is_token_BT1 = (values_BTC != 0).any(-1, keepdim=True)
        return HiddenStates(tuple(x.shape), x.dtype, values_BTC, is_token_BT1)

    def encode(
        self,
        measured: HiddenStates,
        allocation: BitAllocation,
        known: Mapping[str, Tensor] | None = None,
    ) -> QuantizedTensor:
        """Quantize in the given widths; every message has its own ranges and means."""
        del known
        side, matrix_RK, scale_RK = self._scaled(measured, allocation)
        codes = encode(matrix_RK, scale_RK, allocation)
        return QuantizedTensor(measured.shape, measured.dtype, codes, side)

    def decode(self, quantized: QuantizedTensor) -> Tensor:
        """x̂ in the shape and dtype of the tensor that was quantized.

        Raises:
            QuantizationError: the message has another layout than these options make.
        """
        codes, side = quantized.codes, quantized.side
        allocation = None if codes is None else codes.allocation
        self.layout.whole(quantized.shape, allocation, has_outliers=False).check(quantized)
        assert codes is not None
        shape_BTC = as_shape_BTC(quantized.shape)
        scale_RK = step_size(self._range_matrix(side, shape_BTC), codes.allocation)
        values_BTC = self._from_matrix(decode(codes, scale_RK), shape_BTC)
        if self.center:
            values_BTC = values_BTC + side["mean"].to(torch.float32)
        return restored(values_BTC, quantized)

    def rounding_residual(self, measured: HiddenStates, quantized: QuantizedTensor) -> Tensor:
        """x - x̂ where a value was rounded, 0 where it was clipped; float32 in the shape of x.

        A value was clipped where its error is more than half a step.

        Args:
            quantized: what `encode` made of it.
        """
        assert quantized.codes is not None
        _, matrix_RK, scale_RK = self._scaled(measured, quantized.codes.allocation)
        residual_RK = matrix_RK - decode(quantized.codes, scale_RK)
        is_clipped_RK = residual_RK.abs() > _HALF_A_STEP * scale_RK
        shape_BTC = measured.values_BTC.shape
        return self._from_matrix(residual_RK * ~is_clipped_RK, shape_BTC).reshape(measured.shape)

    def error_curves(self, measured: HiddenStates, widths: Iterable[int]) -> tuple[Tensor, Tensor]:
        """What each column would lose if all columns had the same width.

        Returns:
            Mean squared error (W, K) of real tokens, a row a width, and the largest range (K,),
            float32.
        """
        is_token_RK = self._to_matrix(measured.is_token_BT1.expand(measured.values_BTC.shape))
        num_tokens_K = is_token_RK.sum(0).clamp(min=1)
        num_columns = is_token_RK.shape[1]
        curves, largest_K = [], torch.zeros(num_columns)
        for bits in widths:
            allocation = BitAllocation.uniform(bits, num_columns, self.axis)
            side, matrix_RK, scale_RK = self._scaled(measured, allocation)
            error_RK = decode(encode(matrix_RK, scale_RK, allocation), scale_RK) - matrix_RK
            curves.append((error_RK.square_() * is_token_RK).sum(0) / num_tokens_K)
            range_RK = self._range_matrix(side, measured.values_BTC.shape)
            largest_K = amax(range_RK.expand(-1, num_columns), 0)
        return torch.stack(curves), largest_K

    def _scaled(
        self, measured: HiddenStates, allocation: BitAllocation
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Side tensors, the centred matrix (R, K), and step sizes that broadcast to it."""
        side, values_BTC = {}, measured.values_BTC
        if self.center:
            num_tokens = measured.is_token_BT1.sum().clamp(min=1)
            side["mean"] = self._sent(values_BTC.sum((0, 1)) / num_tokens)
            values_BTC = (values_BTC - side["mean"].to(torch.float32)) * measured.is_token_BT1
        side |= self._ranges(values_BTC, measured.is_token_BT1)
        scale_RK = step_size(self._range_matrix(side, values_BTC.shape), allocation)
        return side, self._to_matrix(values_BTC).contiguous(), scale_RK

    def _ranges(self, values_BTC: Tensor, is_token_BT1: Tensor) -> dict[str, Tensor]:
        magnitude_BTC = values_BTC.abs()
        if self.scale == "token":
            return {"token_range": self._sent(amax(magnitude_BTC, -1))}
        peak_C = amax(magnitude_BTC.flatten(0, 1), 0)
        if self.clip is not None:
            mean_C = magnitude_BTC.sum((0, 1)) / is_token_BT1.sum().clamp(min=1)
            peak_C = torch.minimum(peak_C, self.clip * mean_C)
        range_C = self._sent(peak_C)
        if self.scale == "channel":
            return {"range": range_C}
        full_C = range_C.to(torch.float32)
        # A range that was rounded to zero says nothing about its token; above 1 would unclip.
        share_BT = amax(magnitude_BTC / torch.where(full_C > 0, full_C, torch.inf), -1)
        return {"range": range_C, "token_share": self._sent(share_BT.clamp(max=1.0))}

    def _sent(self, values: Tensor) -> Tensor:
        return side_values(values, self.scale_dtype)

    def _range_matrix(
        self, side: Mapping[str, Tensor], shape_BTC: tuple[int, ...] | torch.Size
    ) -> Tensor:
        """Ranges in a shape that broadcasts to the packed matrix (R, K)."""
        if self.scale == "token":
            range_BTC = side["token_range"].to(torch.float32).unsqueeze(-1)
        else:
            range_BTC = side["range"].to(torch.float32).reshape(1, 1, -1)
            if self.scale == "channel-token":
                range_BTC = range_BTC * side["token_share"].to(torch.float32).unsqueeze(-1)
        if self.axis == "position":
            return self._to_matrix(range_BTC.expand(shape_BTC))
        return range_BTC.reshape(-1, range_BTC.shape[-1])

    def _to_matrix(self, values_BTC: Tensor) -> Tensor:
        if self.axis == "channel":
            return values_BTC.reshape(-1, values_BTC.shape[-1])
        return values_BTC.transpose(1, 2).reshape(-1, values_BTC.shape[1])

    def _from_matrix(self, matrix_RK: Tensor, shape_BTC: tuple[int, ...] | torch.Size) -> Tensor:
        if self.axis == "channel":
            return matrix_RK.reshape(shape_BTC)
        num_batch, num_tokens, num_channels = shape_BTC
        return matrix_RK.reshape(num_batch, num_channels, num_tokens).transpose(1, 2)
