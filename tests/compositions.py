"""Wrappers as an author would write them: a rotation, a memory, an error feedback.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from amaqctl.quantizer import SampleMemory, Site, TensorContext, Wrapper


def hadamard(values: Tensor) -> Tensor:
    """An orthonormal rotation, in blocks of the largest power of two that divides C."""
    *leading, num_channels = values.shape
    block, half = num_channels & -num_channels, 1
    mixed = values
    while half < block:
        first, second = mixed.reshape(*leading, num_channels // (2 * half), 2, half).unbind(-2)
        mixed = torch.stack((first + second, first - second), -2)
        half *= 2
    return mixed.reshape(values.shape) / block**0.5


class Hadamard(Wrapper):
    """A rotation in front of any quantizer."""

    column = "rotated channel"

    def transform(self, x: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        return hadamard(x)

    def inverse(self, y: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        return hadamard(y)


class _Remembering(Wrapper):
    """Keeps one tensor a sample."""

    def __init__(self, config: Wrapper.Config, site: Site) -> None:
        super().__init__(config, site)
        self.memory = SampleMemory(
            site.num_samples, site.max_positions, site.num_channels, torch.bfloat16, 64
        )

    def kept(self, x: Tensor, context: TensorContext) -> Tensor:
        if not context.training:
            return torch.zeros_like(x)
        rows = [self.memory.recall(i, x.shape[1]) for i in context.sample_ids]
        return torch.stack(rows).to(x.device) if rows else torch.zeros_like(x)

    def keep(self, values: Tensor, context: TensorContext) -> None:
        if context.training:
            for sample, row in zip(context.sample_ids, values, strict=True):
                self.memory.store(sample, self.memory.rounded(sample, row))


class Delta(_Remembering):
    """What changed since the sample was last sent."""

    def transform(self, x: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        return x - self.kept(x, context)

    def inverse(self, y: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        return y + self.kept(y, context)

    def remember(self, decoded: Tensor, context: TensorContext, x: Tensor | None) -> None:
        self.keep(decoded, context)


class ErrorFeedback(_Remembering):
    """What was lost of the sample last time is sent with it the next time; only a sender keeps."""

    def transform(self, x: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        return x + self.kept(x, context)

    def inverse(self, y: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        return y

    def remember(self, decoded: Tensor, context: TensorContext, x: Tensor | None) -> None:
        if x is not None:
            self.keep(x + self.kept(x, context) - decoded, context)
