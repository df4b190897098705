"""Solving for widths: the exact budget projection and reverse water-filling (both ours).

Pure functions of small vectors, in float64, so that equal inputs give the same integers everywhere.

Legend: C columns (channels or positions), W legal widths.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BISECTIONS = 80
_BUDGET_SLACK = 1e-6
"""Bits; a mean such as 3.18 has no exact product with a number of columns."""


def shift_to_mean(logits_C: Tensor, low: float, high: float, mean_bits: float) -> float:
    """The shift λ for which the mean of low + (high - low)·σ(logits + λ) is ``mean_bits``.

    Args:
        logits_C: gate logits α·q.
        low, high: smallest and largest width in bits.
        mean_bits: in [low, high]; the ends give a shift that saturates every gate.
    """
    logits_C = logits_C.detach().double().cpu()
    share = (mean_bits - low) / (high - low)
    spread = float(logits_C.abs().max()) + 40.0  # σ(±40) is 0 or 1 to double precision
    left, right = -spread, spread
    for _ in range(_BISECTIONS):
        middle = (left + right) / 2
        if float(torch.sigmoid(logits_C + middle).mean()) < share:
            left = middle
        else:
            right = middle
    return (left + right) / 2


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
    curves are measured, and the widths of equal marginal harm are found on their lower convex
    hulls: minimise harm + μ · bits for each column, with μ bisected until the mean is met.

    Args:
        harm_WC: harm of column c at width low + w.
        low: the smallest width in bits.
        mean_bits: mean width to stay at or just below, by less than the next column would take;
            of columns that are alike the first get it.

    Returns:
        Integer widths as float64, shape (C,).
    """
    # More bits never do more harm; what measured otherwise is noise.
    harm_WC = harm_WC.detach().double().cpu().cummin(0).values
    bits_W1 = torch.arange(low, low + harm_WC.shape[0], dtype=torch.float64).unsqueeze(1)
    cheap, dear = 0.0, float(harm_WC.max()) + 1e-300  # μ that buys everything, and nothing
    for _ in range(_BISECTIONS):
        price = (cheap + dear) / 2
        widths_C = (harm_WC + price * bits_W1).argmin(0) + low
        if float(widths_C.double().mean()) > mean_bits:
            cheap = price
        else:
            dear = price
    widths_C = (harm_WC + dear * bits_W1).argmin(0) + low
    # Columns that are alike change width at the same price; the budget has room for some of them.
    wider_C = (harm_WC + cheap * bits_W1).argmin(0) + low - widths_C
    room = math.floor(mean_bits * widths_C.numel() + _BUDGET_SLACK) - int(widths_C.sum())
    widths_C += torch.where(wider_C.cumsum(0) <= room, wider_C, 0)
    return widths_C.double()
