"""Outlier tokens: the few whose activations are massive (ours).

In language models some tokens, often the first, have a few activations that are hundreds of times
the usual (Sun et al., "Massive Activations in Large Language Models", arXiv 2402.17762). A range a
channel that must reach so far leaves nothing of all other tokens. So they have means and ranges of
their own; which they are travels as a list of rows.

Legend: B batch, T tokens, C channels, R rows of the packed matrix, B·T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.errors import QuantizationError

OUTLIER_ROW, OUTLIER_MEAN, OUTLIER_RANGE = "outlier_row", "outlier_mean", "outlier_range"
"""Side tensors: rows of the matrix that are outlier tokens (int32), and their means and ranges."""

_TIMES_THE_MEDIAN = 6.0
"""Largest magnitude of an outlier token, in medians of all tokens. SmolLM2-135M has tokens below 2
and from 12 to 380 after blocks 12 to 29, and below 2 and from 14 to 22 after block 5."""


def limit_of(values_BTC: Tensor, is_token_BT1: Tensor) -> Tensor:
    """Magnitude, a scalar, above which a token is far larger than most tokens of a message."""
    if not bool(is_token_BT1.any()):
        return values_BTC.new_full((), torch.inf)
    return _TIMES_THE_MEDIAN * values_BTC.abs().amax(-1, keepdim=True)[is_token_BT1].median()


def is_outlier(values_BTC: Tensor, is_token_BT1: Tensor, limit: Tensor) -> Tensor:
    """Which tokens have a value of a magnitude above ``limit``; (B, T, 1)."""
    if not values_BTC.numel():
        return torch.zeros_like(is_token_BT1)
    return is_token_BT1 & (values_BTC.abs().amax(-1, keepdim=True) > limit)


def by_row(
    usual: Tensor, own_C: Tensor, rows: Tensor, shape_BTC: tuple[int, ...] | torch.Size
) -> Tensor:
    """A matrix (R, C) that is ``own_C`` in some rows.

    Raises:
        QuantizationError: a row that there is not.
    """
    num_rows = torch.Size(shape_BTC[:2]).numel()
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
        raise QuantizationError(f"an outlier token outside the {num_rows} rows of the message")
    matrix_RC = usual.expand(num_rows, -1).clone()
    matrix_RC[rows.long()] = own_C
    return matrix_RC
