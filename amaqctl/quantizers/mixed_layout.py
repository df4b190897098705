"""What a message of the mixed-width grid must hold, checked before it is decoded.

Broadcasting would take a range of the wrong shape and make garbage of it without a word.

Legend: B batch, T tokens, C channels, K columns of the packed matrix (C, or T for positions), Z
channels of no bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from amaqctl.bits import PackedCodes
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import DTYPES, QuantizedTensor, ScaleDtype
from amaqctl.quantizers.hidden_shape import as_shape_BTC
from amaqctl.quantizers.outlier_tokens import OUTLIER_ROW

_MAX_BITS = 8


def checked(
    quantized: QuantizedTensor,
    axis: Literal["channel", "position"],
    scale: Literal["channel", "token", "channel-token"],
    center: bool,
    scale_dtype: ScaleDtype,
    outlier_tokens: bool,
) -> PackedCodes:
    """The codes of a message whose layout is that of the options.

    Args:
        axis, scale, center, scale_dtype, outlier_tokens: of the grid.

    Raises:
        QuantizationError: the codes do not fit the shape, or a side tensor is missing, too much,
            or of another shape or dtype.
    """
    codes = quantized.codes
    if codes is None or not quantized.shape:
        raise _refused("no codes, or a shape without channels")
    batch, tokens, channels = as_shape_BTC(quantized.shape)
    by_channel = axis == "channel"
    layout = (batch * tokens, channels) if by_channel else (batch * channels, tokens)
    found = (codes.num_rows, codes.allocation.num_columns)
    if found != layout or codes.allocation.axis != axis:
        raise _refused(
            f"codes of {found[0]} rows and {found[1]} columns ({codes.allocation.axis}) for the "
            f"shape {tuple(quantized.shape)}; expected {layout[0]} and {layout[1]} ({axis})"
        )
    widths_K = codes.allocation.widths_C
    if widths_K.numel() and int(widths_K.max()) > _MAX_BITS:
        raise _refused(f"codes of {int(widths_K.max())} bits; the grid has at most {_MAX_BITS}")
    num_empty = int((widths_K == 0).sum()) if by_channel else 0
    needed = dict(_ranges(scale, (batch, tokens), channels - num_empty))
    if center or num_empty:
        needed["mean"] = (channels if center else num_empty,)
    optional: dict[str, tuple[int, ...]] = {}
    if outlier_tokens:
        # Those of a prompt stand here for its generated tokens too, outliers or not.
        optional = {f"outlier_{name}": shape for name, shape in needed.items()}
        if OUTLIER_ROW in quantized.side:
            needed |= optional
    _check_side(quantized, needed, optional, DTYPES[scale_dtype])
    return codes


def _ranges(
    scale: Literal["channel", "token", "channel-token"], by_token: tuple[int, int], num_sent: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    if scale == "token":
        yield "token_range", by_token
        return
    yield "range", (num_sent,)
    if scale == "channel-token":
        yield "token_share", by_token


def _check_side(
    quantized: QuantizedTensor,
    needed: dict[str, tuple[int, ...]],
    optional: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
) -> None:
    side = dict(quantized.side)
    rows = side.pop(OUTLIER_ROW, None) if optional else None
    if rows is not None and (rows.dtype != torch.int32 or rows.dim() != 1 or not rows.numel()):
        raise _refused(f"'{OUTLIER_ROW}' is not a list of int32")
    if missing := sorted(needed.keys() - side.keys()):
        raise _refused(f"no side tensor '{missing[0]}'")
    known = {**optional, **needed}
    for name, tensor in side.items():
        if name not in known:
            raise _refused(f"a side tensor '{name}', which these options do not have")
        if tuple(tensor.shape) != known[name] or tensor.dtype != dtype:
            raise _refused(
                f"side tensor '{name}' is {tensor.dtype} of shape {tuple(tensor.shape)}; expected "
                f"{dtype} of shape {known[name]}"
            )


def _refused(fault: str) -> QuantizationError:
    return QuantizationError(
        f"a message of another layout: {fault}",
        hint="sender and receiver need the same options of `amaq`",
    )
