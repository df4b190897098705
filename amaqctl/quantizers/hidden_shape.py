"""Hidden states of any leading shape as batch, tokens, channels (B, T, C)."""

from __future__ import annotations

import torch
from torch import Tensor


def as_shape_BTC(shape: tuple[int, ...] | torch.Size) -> tuple[int, int, int]:
    """Any leading shape as (B, T, C): one batch row when there is no batch dimension."""
    channels, tokens = shape[-1], shape[-2] if len(shape) > 1 else 1
    return (torch.Size(shape[:-2]).numel(), tokens, channels)


def as_BTC(x: Tensor) -> Tensor:
    """Float32 in the shape (B, T, C)."""
    # Contiguous: the order in which sums are taken, hence their last bit, follows memory.
    return x.to(torch.float32).contiguous().reshape(as_shape_BTC(x.shape))


def amax(values: Tensor, dim: int) -> Tensor:
    """Largest magnitude along a dimension; 0 where there is nothing."""
    return values.amax(dim) if values.numel() else values.sum(dim)
