"""The mixed-width grid of `amaq` where a column is a channel with a range of its own (ours).

A tensor is shaped once into rows, its rows are told apart once (usual tokens, outlier tokens,
padding), and each kind is sampled once; one pass then quantizes and packs. The receiver needs
nothing but the message.

Legend: B batch, T tokens, C channels, R rows of the packed matrix, B·T.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from amaqctl.bits import PADDING, BitAllocation, Grid, passes, step_size
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import QuantizedTensor, ScaleDtype, side_values
from amaqctl.quantizers.column_sample import SHARES, ColumnSample
from amaqctl.quantizers.mixed_layout import MixedLayout
from amaqctl.quantizers.outlier_tokens import (
    OUTLIER,
    OUTLIER_MEAN,
    OUTLIER_RANGE,
    OUTLIER_ROW,
    USUAL,
    kinds_of,
    kinds_of_rows,
    limit_of,
)

_HALF_A_STEP = 0.501
"""In steps, and a little for what float32 loses."""


@dataclass(frozen=True)
class ChannelGrid:
    """How values are centred and scaled before they are rounded to mixed widths.

    Args:
        center: subtract the mean of each channel (over real tokens; a token of exact zeros is
            padding). A channel of no bits has its mean sent in any case, and nothing else.
        clip: limit a channel's range to this many times its mean magnitude; ``search`` for the
            range with the least squared error; None for no clip.
        scale_dtype: in which ranges and means travel.
        spare_code: of the 2^b codes a symmetric grid leaves one unused; use it for the longer side
            of each channel. A negative range says that this is the positive side.
        outlier_tokens: tokens of massive activations (Sun et al., arXiv 2402.17762; often the
            first) have ranges of their own, and do not widen those of all others.
        widths: legal bit-widths.
    """

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
            "channel", "channel", self.center, self.scale_dtype, self.outlier_tokens, self.widths
        )

    def measure(self, x: Tensor, limit: Tensor | None = None) -> Tokens:
        """Shape ``x`` (…, T, C) into rows, and tell these apart.

        Args:
            limit: magnitude above which a token is an outlier; that of ``x`` itself by default.

        Raises:
            QuantizationError: a value is not finite.
        """
        values_RC = x.detach().contiguous().reshape(-1, x.shape[-1])
        peak_R = passes.row_peaks(values_RC)
        if not bool(peak_R.isfinite().all()):
            raise QuantizationError("a value is not finite", hint="look for a diverging run")
        if not self.outlier_tokens:
            limit = None
        elif limit is None:
            limit = limit_of(peak_R)
        return Tokens(tuple(x.shape), values_RC, kinds_of(peak_R, limit), limit)

    def encode(
        self,
        measured: Tokens,
        allocation: BitAllocation,
        known: Mapping[str, Tensor] | None = None,
    ) -> QuantizedTensor:
        """Quantize in the given widths.

        Args:
            known: means and ranges that the receiver has from an earlier message of the same
                widths; they are used, and not sent again.
        """
        side = dict(known or {}) or self._side_of(measured.usual, allocation)
        is_outlier_R = measured.kind_R == OUTLIER
        if bool(is_outlier_R.any()):
            side[OUTLIER_ROW] = is_outlier_R.nonzero().squeeze(1).to(torch.int32)
            if OUTLIER_RANGE not in side:
                sample = ColumnSample.of(measured.values_RC, measured.kind_R, OUTLIER)
                own = self._side_of(sample, allocation)
                side |= {f"outlier_{name}": tensor for name, tensor in own.items()}
        codes = self._grid(side, allocation, measured.kind_R).encode(measured.values_RC)
        sent = {name: tensor for name, tensor in side.items() if name not in (known or {})}
        return QuantizedTensor(measured.shape, measured.values_RC.dtype, codes, sent)

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
        grid = self._told_grid(quantized)
        return grid.decode(codes, quantized.dtype).reshape(quantized.shape)

    def rounding_residual(self, measured: Tokens, quantized: QuantizedTensor) -> Tensor:
        """x - x̂ where a value was rounded, 0 where it was clipped; float32 in the shape of x.

        A value was clipped where its error is more than half a step. Below two bits there is no
        grid that could clip.

        Args:
            quantized: what `encode` made of it, with its side tensors.
        """
        assert quantized.codes is not None
        grid = self._told_grid(quantized)
        is_token_R1 = (measured.kind_R != PADDING).unsqueeze(1)
        residual_RC = (measured.values_RC - grid.decode(quantized.codes)) * is_token_R1
        step_RC = grid.scale.abs()
        if grid.row_kind is not None:
            step_RC = step_RC[grid.row_kind.to(torch.int64)]
        has_grid_C = (grid.widths_C >= 2).to(step_RC.device)
        is_clipped_RC = (residual_RC.abs() > _HALF_A_STEP * step_RC) & has_grid_C
        return (residual_RC * ~is_clipped_RC).reshape(measured.shape)

    def error_curves(self, measured: Tokens, widths: Iterable[int]) -> tuple[Tensor, Tensor]:
        """What each channel would lose if all channels had the same width.

        Returns:
            Mean squared error (W, C) of usual tokens, a row a width, and the range (C,) of the
            last width, float32.
        """
        sample = measured.usual
        centred = sample.less(self._sent(sample.mean_C()).to(torch.float32))
        errors = {0: centred.mean_square_C()}
        values = centred if self.center else sample
        magnitude_C = values.mean_magnitude_C()
        sent_C = self._sent(magnitude_C).to(torch.float32)
        errors[1] = values.mean_square_C() + sent_C * (sent_C - 2 * magnitude_C)
        wide = [bits for bits in widths if bits >= 2]
        widths_WC = torch.tensor(wide, dtype=torch.uint8).unsqueeze(1).expand(-1, len(magnitude_C))
        tried_HC = self._tried(values)
        range_WC, error_WC = values.best_ranges(tried_HC, widths_WC, spare_code=self.spare_code)
        errors |= dict(zip(wide, error_WC.to(torch.float32), strict=True))
        return torch.stack([errors[bits] for bits in widths]), range_WC[-1]

    def _side_of(self, sample: ColumnSample, allocation: BitAllocation) -> dict[str, Tensor]:
        """Means and ranges of tokens of one kind, as they are sent."""
        side = {}
        widths_C = allocation.widths_C.to(sample.peak_C.device)
        is_empty_C = widths_C == 0
        if self.center:
            side["mean"] = self._sent(sample.mean_C())
            sample = sample.less(side["mean"].to(torch.float32))
        elif bool(is_empty_C.any()):
            side["mean"] = self._sent(sample.of_columns(is_empty_C).mean_C())
        tried_HC = self._tried(sample)
        range_C = tried_HC[0].clone()
        if len(tried_HC) > 1:
            chosen_1C = allocation.widths_C.unsqueeze(0)
            range_C = sample.best_ranges(tried_HC, chosen_1C, spare_code=self.spare_code)[0][0]
        if self.spare_code:
            range_C = range_C * sample.side_C
        is_sign_C = widths_C == 1
        if bool(is_sign_C.any()):
            range_C[is_sign_C] = sample.of_columns(is_sign_C).mean_magnitude_C()
        side["range"] = self._sent(range_C[~is_empty_C])
        return side

    def _tried(self, sample: ColumnSample) -> Tensor:
        """Ranges to choose from (H, C), as they would be sent."""
        tried_HC = sample.peak_C.unsqueeze(0)
        if self.clip == "search":
            tried_HC = tried_HC * tried_HC.new_tensor(SHARES).unsqueeze(1)
        elif self.clip is not None:
            tried_HC = torch.minimum(tried_HC, self.clip * sample.mean_magnitude_C())
        return self._sent(tried_HC).to(torch.float32)

    def _told_grid(self, quantized: QuantizedTensor) -> Grid:
        """The grid as a message tells it.

        Raises:
            QuantizationError: an outlier token that there is not.
        """
        assert quantized.codes is not None
        kind_R = None
        if OUTLIER_ROW in quantized.side:
            kind_R = kinds_of_rows(quantized.side[OUTLIER_ROW], quantized.codes.num_rows)
        return self._grid(quantized.side, quantized.codes.allocation, kind_R)

    def _grid(
        self, side: Mapping[str, Tensor], allocation: BitAllocation, kind_R: Tensor | None
    ) -> Grid:
        ranges, means = [side["range"]], [side.get("mean")]
        if OUTLIER_ROW in side:
            ranges.append(side[OUTLIER_RANGE])
            means.append(side.get(OUTLIER_MEAN))
        is_empty_C = (allocation.widths_C == 0).to(ranges[0].device)
        range_KC = torch.stack([_spread(range_, ~is_empty_C) for range_ in ranges])
        has_mean_C = torch.ones_like(is_empty_C) if self.center else is_empty_C
        offset = None
        if "mean" in side:
            offset = torch.stack([_spread(mean, has_mean_C) for mean in means if mean is not None])
        return Grid(
            allocation,
            step_size(range_KC, allocation),
            offset=offset,
            row_kind=kind_R,
            all_codes=self.spare_code,
        )

    def _sent(self, values: Tensor) -> Tensor:
        return side_values(values, self.scale_dtype)


@dataclass(frozen=True)
class Tokens:
    """A tensor on its way, shaped and told apart once.

    Args:
        shape: of the tensor.
        values_RC: its rows, in its own type.
        kind_R: their kinds, uint8.
        limit: magnitude above which a token is an outlier; None where there are none.
    """

    shape: tuple[int, ...]
    values_RC: Tensor
    kind_R: Tensor
    limit: Tensor | None

    @cached_property
    def usual(self) -> ColumnSample:
        """What is measured of usual tokens."""
        return ColumnSample.of(self.values_RC, self.kind_R, USUAL)


def _spread(values: Tensor, is_there_C: Tensor) -> Tensor:
    """Values of some channels (C,) in float32, zero for the others."""
    full_C = torch.zeros(len(is_there_C), device=values.device)
    full_C[is_there_C] = values.to(torch.float32)
    return full_C
