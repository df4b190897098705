"""Channel means of the mixed-width grid: who has one, and how it is taken off and put back (ours).

All channels have one with `center`, else those of no bits, which send nothing else. Outlier tokens
have means of their own.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.quantizer import ScaleDtype, side_values
from amaqctl.quantizers.outlier_tokens import OUTLIER_MEAN, OUTLIER_ROW, by_row


@dataclass(frozen=True)
class ChannelMeans:
    """The means of one grid.

    Args:
        axis: what a column of the grid is; positions of no bits have no mean.
        center: every channel has a mean.
        scale_dtype: in which means travel.
    """

    axis: Literal["channel", "position"]
    center: bool
    scale_dtype: ScaleDtype

    def of(self, x_BTC: Tensor, is_token: Tensor, allocation: BitAllocation) -> dict[str, Tensor]:
        """The side tensor `mean` over the real tokens, or nothing where no channel has one."""
        is_empty_C = allocation.widths_C == 0
        if not self.center and (self.axis == "position" or not bool(is_empty_C.any())):
            return {}
        mean_C = x_BTC.sum((0, 1)) / is_token.sum().clamp(min=1)
        if not self.center:
            mean_C = mean_C[is_empty_C.to(mean_C.device)]
        return {"mean": side_values(mean_C, self.scale_dtype)}

    def centred(
        self,
        values_BTC: Tensor,
        is_token: Tensor,
        side: Mapping[str, Tensor],
        allocation: BitAllocation,
    ) -> Tensor:
        """Values less their channels' means; padding stays zero."""
        if "mean" not in side:
            return values_BTC
        return (values_BTC - self._matrix(side, allocation, values_BTC.shape)) * is_token

    def put_back(
        self, values_BTC: Tensor, side: Mapping[str, Tensor], allocation: BitAllocation
    ) -> Tensor:
        """Decoded values with their channels' means."""
        if "mean" not in side:
            return values_BTC
        return values_BTC + self._matrix(side, allocation, values_BTC.shape)

    def _matrix(
        self, side: Mapping[str, Tensor], allocation: BitAllocation, shape_BTC: torch.Size
    ) -> Tensor:
        """Means, broadcastable to (B, T, C)."""
        mean_C = self._spread(side["mean"], allocation)
        if OUTLIER_ROW not in side:
            return mean_C
        own_C = self._spread(side[OUTLIER_MEAN], allocation)
        return by_row(mean_C, own_C, side[OUTLIER_ROW], shape_BTC).reshape(shape_BTC)

    def _spread(self, mean: Tensor, allocation: BitAllocation) -> Tensor:
        """Means (C,) in float32, zero for channels that have none."""
        if self.center:
            return mean.to(torch.float32)
        mean_C = torch.zeros(allocation.num_columns, device=mean.device)
        mean_C[(allocation.widths_C == 0).to(mean.device)] = mean.to(torch.float32)
        return mean_C
