"""Solving for widths: the exact budget projection and reverse water-filling (both ours).

Pure functions of small vectors, in float64 so that every machine gets the same integers.

Legend: C columns (channels or positions).
"""

from __future__ import annotations

import torch
from torch import Tensor

_BISECTIONS = 80


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


def water_filling(sensitivity_C: Tensor, low: float, high: float, mean_bits: float) -> Tensor:
    """Reverse water-filling: the widths that minimise the loss for a mean width.

    With a column's harm S_c · 4^(-b_c), where S_c = E[g_c²] · r_c² (gradient energy times squared
    range), the optimum is b_c = b̄ + ½·log2(S_c / geometric mean of S), cut to [low, high] with
    b̄ raised or lowered until the mean is ``mean_bits``.

    Returns:
        Fractional widths, float64, shape (C,).
    """
    sensitivity_C = sensitivity_C.detach().double().cpu()
    smallest = torch.finfo(torch.float32).tiny  # a column without gradient gets the least
    ideal_C = 0.5 * sensitivity_C.clamp(min=smallest).log2()
    left, right = low - float(ideal_C.max()), high - float(ideal_C.min())
    for _ in range(_BISECTIONS):
        middle = (left + right) / 2
        if float((ideal_C + middle).clamp(low, high).mean()) < mean_bits:
            left = middle
        else:
            right = middle
    return (ideal_C + (left + right) / 2).clamp(low, high)
