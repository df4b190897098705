"""What a message of the mixed-width grid holds, by its options.

Legend: B batch, T tokens, C channels, K columns of the packed matrix (C, or T for positions).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch

from amaqctl.bits import BitAllocation
from amaqctl.quantizer import DTYPES, CodesLayout, Layout, ScaleDtype, SideLayout
from amaqctl.quantizers.hidden_shape import as_shape_BTC
from amaqctl.quantizers.outlier_tokens import OUTLIER_ROW


@dataclass(frozen=True)
class MixedLayout:
    """The layouts of one grid.

    Args:
        axis, scale, center, scale_dtype, outlier_tokens: of the grid.
        widths: legal bit-widths.
    """

    axis: Literal["channel", "position"]
    scale: Literal["channel", "token", "channel-token"]
    center: bool
    scale_dtype: ScaleDtype
    outlier_tokens: bool
    widths: Collection[int]

    def sent(
        self, shape: tuple[int, ...], allocation: BitAllocation | None, *, leaves_out: bool
    ) -> Layout:
        """The layout of a message as it travels.

        Args:
            shape: of the tensor. allocation: the message's widths.
            leaves_out: side tensors that an earlier message told may be missing.
        """
        needed, own = self._side(shape, allocation)
        side = {n: replace(s, optional=leaves_out) for n, s in needed.items()}
        side |= {n: replace(s, optional=True) for n, s in own.items()}
        together = [frozenset(needed)] if leaves_out else [frozenset(own)]
        return Layout(self._codes(shape), side, together)

    def whole(
        self, shape: tuple[int, ...], allocation: BitAllocation | None, *, has_outliers: bool
    ) -> Layout:
        """The layout of a message with all that it left out.

        Args:
            has_outliers: without them, side tensors of outliers may be those of an earlier message.
        """
        needed, own = self._side(shape, allocation)
        side = needed | {n: replace(s, optional=not has_outliers) for n, s in own.items()}
        return Layout(self._codes(shape), side)

    def _codes(self, shape: tuple[int, ...]) -> CodesLayout:
        batch, tokens, channels = as_shape_BTC(shape)
        if self.axis == "channel":
            return CodesLayout(batch * tokens, channels, self.axis, self.widths)
        return CodesLayout(batch * channels, tokens, self.axis, self.widths)

    def _side(
        self, shape: tuple[int, ...], allocation: BitAllocation | None
    ) -> tuple[dict[str, SideLayout], dict[str, SideLayout]]:
        """Ranges and means of all tokens, and of outlier tokens where they have their own."""
        batch, tokens, channels = as_shape_BTC(shape)
        num_empty = 0
        if self.axis == "channel" and allocation is not None:
            num_empty = int((allocation.widths_C == 0).sum())
        dtype, by_token = DTYPES[self.scale_dtype], (batch, tokens)
        needed: dict[str, SideLayout] = {}
        if self.scale == "token":
            needed["token_range"] = SideLayout(dtype, by_token)
        else:
            needed["range"] = SideLayout(dtype, (channels - num_empty,))
        if self.scale == "channel-token":
            needed["token_share"] = SideLayout(dtype, by_token)
        if self.center or num_empty:
            needed["mean"] = SideLayout(dtype, (channels if self.center else num_empty,))
        if not self.outlier_tokens:
            return needed, {}
        own = {f"outlier_{name}": layout for name, layout in needed.items()}
        own[OUTLIER_ROW] = SideLayout(torch.int32, (range(1, batch * tokens + 1),))
        return needed, own
