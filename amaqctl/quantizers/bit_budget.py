"""Solving for widths: the exact budget projection and reverse water-filling (both ours).

Pure functions of small vectors, in float64, so that equal inputs give the same integers everywhere.

Legend: C columns (channels or positions), W legal widths.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_Floats = npt.NDArray[np.float64]

_MOST_STEPS = 200
_SHARE_SLACK = 1e-14
"""Of the mean share and of the shift; doubles hold no more."""
_BUDGET_SLACK = 1e-6
"""Bits; a mean such as 3.18 has no exact product with a number of columns."""


def shift_to_mean(logits_C: Tensor, low: float, high: float, mean_bits: float) -> float:
    """The shift λ for which the mean of low + (high - low)·σ(logits + λ) is ``mean_bits``.

    Args:
        logits_C: gate logits α·q.
        low, high: smallest and largest width in bits.
        mean_bits: in [low, high]; the ends give a shift that saturates every gate.
    """
    logit_C = logits_C.detach().double().cpu().numpy()
    share = (mean_bits - low) / (high - low)
    spread = float(np.abs(logit_C).max()) + 40.0  # σ(±40) is 0 or 1 to double precision
    left, right = -spread, spread
    shift = 0.0
    for _ in range(_MOST_STEPS):
        shares_C = 1.0 / (1.0 + np.exp(-(logit_C + shift)))
        miss = float(shares_C.mean()) - share
        if miss > 0:
            right = shift
        else:
            left = shift
        if abs(miss) < _SHARE_SLACK or right - left < _SHARE_SLACK:
            break
        slope = float((shares_C * (1.0 - shares_C)).mean())
        newton = shift - miss / slope if slope > 0 else left
        shift = newton if left < newton < right else (left + right) / 2
    return shift


def round_to_mean(bits_C: Tensor, low: int, high: int, mean_bits: float) -> Tensor:
    """Integer widths (uint8) whose sum is round(C · mean_bits), by largest remainder.

    Args:
        bits_C: fractional widths within [low, high]; ties go to the lower index.
    """
    bits_C = bits_C.detach().double().cpu().clamp(low, high)
    floor_C = bits_C.floor()
    missing = round(bits_C.numel() * mean_bits) - int(floor_C.sum())
    step = 1 if missing > 0 else -1
    # Most deserving first: the largest remainder for an extra bit, the smallest for one less.
    order = (bits_C - floor_C).argsort(descending=step > 0, stable=True)
    while missing:
        room = floor_C[order] < high if step > 0 else floor_C[order] > low
        chosen = order[room][: abs(missing)]
        if not chosen.numel():
            break  # everything is at its bound: the budget lies outside [low, high]
        floor_C[chosen] += step
        missing -= step * chosen.numel()
    return floor_C.to(torch.uint8)


def water_filling(harm_WC: Tensor, low: int, mean_bits: float) -> Tensor:
    """Reverse water-filling over measured curves: the widths with the least total harm.

    Where harm falls as S_c · 4^(-b) this is the classical b_c = b̄ + ½·log2(S_c / geometric mean
    of S), cut to the legal widths. Real grids are worse than that at one and two bits, so the
    curves are measured, and bits are given where they take off most on their lower convex hulls,
    an edge at a time, until the mean is met.

    Args:
        harm_WC: harm of column c at width low + w.
        low: the smallest width in bits.
        mean_bits: mean width to stay at or just below, by less than the next column would take;
            of columns that are alike the first get it.

    Returns:
        Integer widths as float64, shape (C,).
    """
    # More bits never do more harm; what measured otherwise is noise.
    falling_WC: _Floats = np.minimum.accumulate(harm_WC.detach().double().cpu().numpy(), axis=0)
    num_columns = falling_WC.shape[1]
    size_WC, gain_WC = _hull_edges(falling_WC)
    # Stable: of edges that are alike, those of the first columns win.
    order = np.argsort(-gain_WC, axis=None, kind="stable")
    order = order[: int((gain_WC > 0).sum())]
    room = math.floor((mean_bits - low) * num_columns + _BUDGET_SLACK)
    taken = order[size_WC.reshape(-1)[order].cumsum() <= room]
    bits_C = np.bincount(taken % num_columns, size_WC.reshape(-1)[taken], num_columns)
    return torch.from_numpy(low + bits_C.astype(np.float64))


def _hull_edges(harm_WC: _Floats) -> tuple[npt.NDArray[np.int64], _Floats]:
    """The edges of each column's lower convex hull, at their upper ends: (W, C) each.

    Returns:
        Their lengths in bits, and what each of their bits takes off the harm; both are 0 where no
        edge ends. Along a column the gains fall, so the largest are the first ones.
    """
    num_widths = len(harm_WC)
    is_corner_WC = np.ones(harm_WC.shape, dtype=bool)
    for inner in range(1, num_widths - 1):
        below, above = np.arange(inner), np.arange(inner + 1, num_widths)
        share = (inner - below)[:, None] / (above - below[:, None])
        line_ABC = harm_WC[below][:, None] * (1 - share)[..., None]
        line_ABC = line_ABC + harm_WC[above] * share[..., None]
        is_corner_WC[inner] = harm_WC[inner] <= line_ABC.min((0, 1))
    width_W1 = np.arange(num_widths)[:, None]
    corner_WC = np.maximum.accumulate(np.where(is_corner_WC, width_W1, 0), axis=0)
    before_WC = np.vstack([corner_WC[:1], corner_WC[:-1]])
    size_WC = np.where(is_corner_WC, width_W1 - before_WC, 0)
    fall_WC = np.take_along_axis(harm_WC, before_WC, 0) - harm_WC
    return size_WC, np.where(size_WC > 0, fall_WC / np.maximum(size_WC, 1), 0.0)
