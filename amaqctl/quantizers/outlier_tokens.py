"""Outlier tokens: the few whose activations are massive (ours).

In language models some tokens, often the first, have a few activations that are hundreds of times
the usual (Sun et al., "Massive Activations in Large Language Models", arXiv 2402.17762). A range a
channel that must reach so far leaves nothing of all other tokens. So they have means and ranges of
their own; which they are travels as a list of rows.

Legend: R rows of the packed matrix, one a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import PADDING
from amaqctl.errors import QuantizationError

OUTLIER_ROW, OUTLIER_MEAN, OUTLIER_RANGE = "outlier_row", "outlier_mean", "outlier_range"
"""Side tensors: rows of the matrix that are outlier tokens (int32), and their means and ranges."""

USUAL, OUTLIER = 0, 1
"""Kinds of rows; a row of exact zeros is `amaqctl.bits.PADDING`."""

_TIMES_THE_MEDIAN = 6.0
"""Largest magnitude of an outlier token, in medians of all tokens. SmolLM2-135M has tokens below 2
and from 12 to 380 after blocks 12 to 29, and below 2 and from 14 to 22 after block 5."""


def limit_of(peak_R: Tensor) -> Tensor:
    """Magnitude, a scalar, above which a token is far larger than most tokens of a message.

    Args:
        peak_R: largest magnitude of each row.
    """
    real = peak_R[peak_R > 0]
    return _TIMES_THE_MEDIAN * real.median() if len(real) else peak_R.new_full((), torch.inf)


def kinds_of(peak_R: Tensor, limit: Tensor | None) -> Tensor:
    """The kind of each row, uint8.

    Args:
        limit: magnitude above which a token is an outlier; None where there are to be none.
    """
    kind_R = torch.zeros_like(peak_R, dtype=torch.uint8)
    if limit is not None:
        kind_R[peak_R > limit] = OUTLIER
    kind_R[peak_R == 0] = PADDING
    return kind_R


def kinds_of_rows(rows: Tensor, num_rows: int) -> Tensor:
    """The kinds that a message tells: `OUTLIER` for the rows it lists.

    Raises:
        QuantizationError: a row that there is not.
    """
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
        raise QuantizationError(f"an outlier token outside the {num_rows} rows of the message")
    kind_R = torch.zeros(num_rows, dtype=torch.uint8, device=rows.device)
    kind_R[rows.long()] = OUTLIER
    return kind_R
