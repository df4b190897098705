"""Tensors like those that cross a cut: seeded, heavy-tailed, with massive first tokens.

Hidden states of language models have channels of very uneven size and, mostly in the first token,
a few channels that are hundreds of times larger than all else (Sun et al., arXiv 2402.17762).

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

SEED = 20240
_MASSIVE_CHANNELS = 3
_MASSIVE = 300.0
_CHANGE = 0.05
"""How far a tensor moves from one visit to the next, in parts of itself."""


@dataclass(frozen=True)
class Shape:
    """A named shape (B, T, C)."""

    name: str
    sizes: tuple[int, int, int]

    @property
    def num_values(self) -> int:
        """B · T · C."""
        return torch.Size(self.sizes).numel()


LARGE = Shape("4x512x4096", (4, 512, 4096))
SMALL = Shape("1x512x576", (1, 512, 576))
BATCH = Shape("4x128x576", (4, 128, 576))
TINY = Shape("2x16x32", (2, 16, 32))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@cache
def hidden_states(shape: Shape, dtype: torch.dtype, visit: int, device: str = "cpu") -> Tensor:
    """A tensor (B, T, C) as it is at one of its visits; 0 and 1 differ a little."""
    draw = torch.Generator().manual_seed(SEED)
    num_batch, num_tokens, num_channels = shape.sizes
    scale_C = torch.exp(torch.randn(num_channels, generator=draw))
    scale_BT1 = torch.exp(0.3 * torch.randn((num_batch, num_tokens, 1), generator=draw))
    x_BTC = torch.randn(shape.sizes, generator=draw) * scale_C * scale_BT1
    chosen = torch.randperm(num_channels, generator=draw)[:_MASSIVE_CHANNELS]
    x_BTC[:, 0, chosen] = _MASSIVE * scale_C.median() * torch.randn(len(chosen), generator=draw)
    draw.manual_seed(SEED + 1 + visit)
    x_BTC *= 1 + _CHANGE * torch.randn(shape.sizes, generator=draw)
    return x_BTC.to(dtype).to(device)


@cache
def gradients(shape: Shape, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """A loss gradient (B, T, C): nearly Gaussian, of uneven tokens and channels."""
    draw = torch.Generator().manual_seed(SEED + 7)
    num_batch, num_tokens, num_channels = shape.sizes
    scale_BT1 = torch.exp(torch.randn((num_batch, num_tokens, 1), generator=draw))
    scale_C = torch.exp(0.3 * torch.randn(num_channels, generator=draw))
    g_BTC = 1e-3 * torch.randn(shape.sizes, generator=draw) * scale_BT1 * scale_C
    return g_BTC.to(dtype).to(device)
