"""The mixed-width grid of `amaq`: centre, range, clip, outlier tokens, layout of columns (ours).

A column is a channel, or a position of the sequence. Each direction is one pure function of a
tensor and its widths, so the receiver needs nothing but the message.

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
    PackedCodes,
    decode,
    nearest_codes,
    step_size,
    values_of_codes,
)
from amaqctl.quantizer import QuantizedTensor, ScaleDtype, restored, side_values
from amaqctl.quantizers.channel_means import ChannelMeans
from amaqctl.quantizers.hidden_shape import amax, as_BTC, as_shape_BTC
from amaqctl.quantizers.mixed_layout import MixedLayout
from amaqctl.quantizers.outlier_tokens import (
    OUTLIER_RANGE,
    OUTLIER_ROW,
    by_row,
    is_outlier,
    limit_of,
)
from amaqctl.quantizers.range_search import least_error_range, spare_side

_HALF_A_STEP = 0.501
"""In steps, and a little for what float32 loses."""


@dataclass(frozen=True)
class MixedGrid:
    """How values are centred and scaled before they are rounded to mixed widths.

    Args:
        axis: what a column is.
        scale: what shares one range: a channel, a token, or their product.
        center: subtract the mean of each channel (over real tokens; a token of exact zeros is
            padding).
        clip: limit a channel's range to this many times its mean magnitude; ``search`` for the
            range with the least squared error; None for no clip.
        scale_dtype: in which ranges and means travel.
        spare_code: of the 2^b codes a symmetric grid leaves one unused; use it for the longer side
            of each channel. A negative range says that this is the positive side.
        outlier_tokens: tokens of massive activations (Sun et al., arXiv 2402.17762; often the
            first) have ranges of their own, and do not widen those of all others.
        widths: legal bit-widths.
    """

    axis: Literal["channel", "position"]
    scale: Literal["channel", "token", "channel-token"]
    center: bool
    clip: float | Literal["search"] | None
    scale_dtype: ScaleDtype
    spare_code: bool
    outlier_tokens: bool
    widths: range = range(9)

    @property
    def layout(self) -> MixedLayout:
        """What its messages hold."""
        return MixedLayout(
            self.axis, self.scale, self.center, self.scale_dtype, self.outlier_tokens, self.widths
        )

    @property
    def _means(self) -> ChannelMeans:
        return ChannelMeans(self.axis, self.center, self.scale_dtype)

    def encode(
        self,
        x: Tensor,
        allocation: BitAllocation,
        known: Mapping[str, Tensor] | None = None,
        limit: Tensor | None = None,
    ) -> QuantizedTensor:
        """Quantize ``x`` (…, T, C) in the given widths.

        Args:
            known: means and ranges that the receiver has from an earlier message of the same
                widths; they are used, and not sent again.
            limit: magnitude above which a token is an outlier; that of ``x`` itself by default.
        """
        values_BTC = as_BTC(x)
        is_token_BT1 = (values_BTC != 0).any(-1, keepdim=True)
        limit = limit_of(values_BTC, is_token_BT1) if limit is None else limit
        side = self._side(values_BTC, is_token_BT1, allocation, known or {}, limit)
        values_BTC = self._means.centred(values_BTC, is_token_BT1, side, allocation)
        range_RK = self._range_matrix(side, allocation, values_BTC.shape)
        codes_RK = self._codes(self._to_matrix(values_BTC), range_RK, allocation)
        codes = PackedCodes.pack(codes_RK, allocation)
        sent = {name: tensor for name, tensor in side.items() if name not in (known or {})}
        return QuantizedTensor(tuple(x.shape), x.dtype, codes, sent)

    def outlier_limit(self, x: Tensor) -> Tensor:
        """Magnitude above which a token of ``x`` is an outlier; a scalar."""
        values_BTC = as_BTC(x)
        return limit_of(values_BTC, (values_BTC != 0).any(-1, keepdim=True))

    def rounding_residual(self, x: Tensor, quantized: QuantizedTensor) -> Tensor:
        """x - x̂ where a value was rounded, 0 where it was clipped; float32 in the shape of ``x``.

        A value was clipped where its error is more than half a step. Below two bits there is no
        grid that could clip.

        Args:
            quantized: what `encode` made of ``x``, with its side tensors.
        """
        assert quantized.codes is not None
        allocation, values_BTC = quantized.codes.allocation, as_BTC(x)
        is_token_BT1 = (values_BTC != 0).any(-1, keepdim=True)
        values_BTC = self._means.centred(values_BTC, is_token_BT1, quantized.side, allocation)
        range_RK = self._range_matrix(quantized.side, allocation, values_BTC.shape)
        scale_RK = step_size(range_RK, allocation)
        residual_RK = self._to_matrix(values_BTC) - decode(quantized.codes, scale_RK)
        has_grid_K = (allocation.widths_C >= 2).to(scale_RK.device)
        is_clipped_RK = (residual_RK.abs() > _HALF_A_STEP * scale_RK.abs()) & has_grid_K
        return self._from_matrix(residual_RK * ~is_clipped_RK, values_BTC.shape).reshape(x.shape)

    def error_curves(self, x: Tensor, widths: Iterable[int]) -> tuple[Tensor, Tensor]:
        """What each column would lose if all columns had the same width.

        Returns:
            Mean squared error (W, K) of real tokens that are no outliers, a row a width, and the
            largest range (K,) of the last width, float32.
        """
        values_BTC = as_BTC(x)
        is_token_BT1 = (values_BTC != 0).any(-1, keepdim=True)
        if self.outlier_tokens:
            limit = limit_of(values_BTC, is_token_BT1)
            is_token_BT1 = is_token_BT1 & ~is_outlier(values_BTC, is_token_BT1, limit)
            values_BTC = values_BTC * is_token_BT1
        # A sign has no zero: padding would have an error at one bit.
        is_token_RK = self._to_matrix(is_token_BT1.expand(values_BTC.shape))
        num_tokens_K = is_token_RK.sum(0).clamp(min=1)
        num_columns = is_token_RK.shape[1]
        curves = []
        for bits in widths:
            allocation = BitAllocation.uniform(bits, num_columns, self.axis)
            side = self._side_of(values_BTC, is_token_BT1, allocation)
            matrix_RK = self._to_matrix(
                self._means.centred(values_BTC, is_token_BT1, side, allocation)
            )
            range_RK = self._range_matrix(side, allocation, values_BTC.shape)
            codes_RK = self._codes(matrix_RK, range_RK, allocation)
            scale_RK = step_size(range_RK, allocation)
            error_RK = values_of_codes(codes_RK, scale_RK, allocation) - matrix_RK
            curves.append((error_RK.square_() * is_token_RK).sum(0) / num_tokens_K)
        return torch.stack(curves), amax(range_RK.abs().expand(-1, num_columns), 0)

    def decode(self, quantized: QuantizedTensor) -> Tensor:
        """x̂ in the shape and dtype of the tensor that was quantized.

        Raises:
            QuantizationError: the message has another layout than these options make.
        """
        codes = quantized.codes
        allocation = None if codes is None else codes.allocation
        has_outliers = OUTLIER_ROW in quantized.side
        self.layout.whole(quantized.shape, allocation, has_outliers=has_outliers).check(quantized)
        assert codes is not None
        assert allocation is not None
        shape_BTC = as_shape_BTC(quantized.shape)
        range_RK = self._range_matrix(quantized.side, allocation, shape_BTC)
        matrix_RK = decode(codes, step_size(range_RK, allocation))
        values_BTC = self._from_matrix(matrix_RK, shape_BTC)
        return restored(self._means.put_back(values_BTC, quantized.side, allocation), quantized)

    def _codes(self, matrix_RK: Tensor, range_RK: Tensor, allocation: BitAllocation) -> Tensor:
        """Codes (R, K); with the spare code the step size has the sign of the range."""
        step_RK = step_size(range_RK, allocation)
        if not self.spare_code:
            return nearest_codes(matrix_RK, step_RK, allocation)
        turned_RK = torch.where(step_RK < 0, -matrix_RK, matrix_RK)
        no_shift = torch.zeros_like(step_RK)  # the grid that has a zero point has all codes
        return nearest_codes(turned_RK, step_RK.abs(), allocation, zero_point=no_shift)

    def _side(
        self,
        values_BTC: Tensor,
        is_token_BT1: Tensor,
        allocation: BitAllocation,
        known: Mapping[str, Tensor],
        limit: Tensor,
    ) -> dict[str, Tensor]:
        """Means and ranges, and which tokens are outliers; what is known is not made again."""
        is_outlier_BT1 = torch.zeros_like(is_token_BT1)
        if self.outlier_tokens:
            is_outlier_BT1 = is_outlier(values_BTC, is_token_BT1, limit)
        is_usual_BT1 = is_token_BT1 & ~is_outlier_BT1
        side = dict(known) or self._side_of(values_BTC * is_usual_BT1, is_usual_BT1, allocation)
        if not bool(is_outlier_BT1.any()):
            return side
        side[OUTLIER_ROW] = is_outlier_BT1.flatten().nonzero().flatten().to(torch.int32)
        if OUTLIER_RANGE not in side:
            own = self._side_of(values_BTC * is_outlier_BT1, is_outlier_BT1, allocation)
            side |= {f"outlier_{name}": tensor for name, tensor in own.items()}
        return side

    def _side_of(
        self, values_BTC: Tensor, is_token_BT1: Tensor, allocation: BitAllocation
    ) -> dict[str, Tensor]:
        """Means and ranges of tokens of one kind, as they are sent; all others are zeros."""
        side = self._means.of(values_BTC, is_token_BT1, allocation)
        values_BTC = self._means.centred(values_BTC, is_token_BT1, side, allocation)
        return {**side, **self._ranges(values_BTC, is_token_BT1, allocation)}

    def _ranges(
        self, values_BTC: Tensor, is_token: Tensor, allocation: BitAllocation
    ) -> dict[str, Tensor]:
        magnitude_BTC = values_BTC.abs()
        if self.scale == "token":
            return {"token_range": self._sent(amax(magnitude_BTC, -1))}
        mean_C = magnitude_BTC.sum((0, 1)) / is_token.sum().clamp(min=1)
        if self.clip == "search":
            peak_C = least_error_range(self._to_matrix(values_BTC), allocation, self.spare_code)
        else:
            peak_C = amax(magnitude_BTC.flatten(0, 1), 0)
        if isinstance(self.clip, float):
            peak_C = torch.minimum(peak_C, self.clip * mean_C)
        if self.axis == "channel":
            widths_C = allocation.widths_C.to(peak_C.device)
            if self.spare_code:
                peak_C = peak_C * spare_side(self._to_matrix(values_BTC))
            peak_C = torch.where(widths_C == 1, mean_C, peak_C)[widths_C > 0]
        range_C = self._sent(peak_C)
        if self.scale == "channel":
            return {"range": range_C}
        full_C = self._all_channels(range_C, allocation)
        # A range that was rounded to zero says nothing about its token; above 1 would unclip.
        share_BT = amax(magnitude_BTC / torch.where(full_C > 0, full_C, torch.inf), -1)
        return {"range": range_C, "token_share": self._sent(share_BT.clamp(max=1.0))}

    def _sent(self, values: Tensor) -> Tensor:
        return side_values(values, self.scale_dtype)

    def _all_channels(self, range_: Tensor, allocation: BitAllocation) -> Tensor:
        """Ranges (C,) float32; a channel of width 0 sends none and has 0."""
        if self.axis == "position":
            return range_.to(torch.float32)
        is_sent_C = (allocation.widths_C > 0).to(range_.device)
        full_C = torch.zeros(allocation.num_columns, device=range_.device)
        full_C[is_sent_C] = range_.to(torch.float32)
        return full_C

    def _range_matrix(
        self,
        side: Mapping[str, Tensor],
        allocation: BitAllocation,
        shape_BTC: tuple[int, ...] | torch.Size,
    ) -> Tensor:
        """Ranges in a shape that broadcasts to the packed matrix (R, K)."""
        if self.scale == "token":
            range_BTC = side["token_range"].to(torch.float32).unsqueeze(-1)
        else:
            range_BTC = self._all_channels(side["range"], allocation).reshape(1, 1, -1)
            if self.scale == "channel-token":
                range_BTC = range_BTC * side["token_share"].to(torch.float32).unsqueeze(-1)
        if self.axis == "position":
            return self._to_matrix(range_BTC.expand(shape_BTC))
        range_RC = range_BTC.reshape(-1, range_BTC.shape[-1])
        if OUTLIER_ROW not in side:
            return range_RC
        own_C = self._all_channels(side[OUTLIER_RANGE], allocation)
        return by_row(range_RC, own_C, side[OUTLIER_ROW], shape_BTC)

    def _to_matrix(self, values_BTC: Tensor) -> Tensor:
        if self.axis == "channel":
            return values_BTC.reshape(-1, values_BTC.shape[-1])
        return values_BTC.transpose(1, 2).reshape(-1, values_BTC.shape[1])

    def _from_matrix(self, matrix_RK: Tensor, shape_BTC: tuple[int, ...] | torch.Size) -> Tensor:
        if self.axis == "channel":
            return matrix_RK.reshape(shape_BTC)
        num_batch, num_tokens, num_channels = shape_BTC
        return matrix_RK.reshape(num_batch, num_channels, num_tokens).transpose(1, 2)
