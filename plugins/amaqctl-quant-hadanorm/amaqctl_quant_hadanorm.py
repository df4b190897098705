"""`hadanorm`: make channels alike, mix them by a Hadamard rotation, round uniformly.

HadaNorm (arXiv 2506.09932) centres each channel dynamically, scales it statically and rotates the
channels, because mixing brings them close to a normal distribution the faster the more alike they
are. For a tensor x of tokens by channels:

    y = H · (x - μ) / (σ · m)     code = clamp(round(y / s), -n, n),   n = 2^(bits-1) - 1
    x̂ = σ · H (code · s) + μ      μ, s of each message; σ once

Differences from the paper, whose subject is weights and activations of diffusion transformers:
- σ has no weight to fold into here, so both ends need it. It is taken from the first training
  message, travels in it, and is frozen in the state of both ends. An evaluation before that
  carries its own.
- σ_c is proportional to √(mean |x_c - μ_c|), the largest being 1. With noise spread evenly by H,
  the squared error is that of Σσ² · Σ(v/σ²) for channel variances v: least for σ² ~ √v.
- μ is the mean over the tokens of a message; a token of zeros is padding and does not count.
- H is block-diagonal where C is no power of two, in blocks of the largest one that divides C.

H has entries ±1 and H⁻¹ = H / m for blocks of m, a power of two: rotating adds and subtracts
only, and dividing by m is exact, so the same codes decode to the same bits on any machine.

Legend: R tokens, C channels, G groups of neighbouring (rotated) channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from amaqctl.bits import BitAllocation, decode, encode, step_size
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import (
    DTYPES,
    BitReport,
    CodesLayout,
    Layout,
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    ScaleDtype,
    SideLayout,
    Site,
    TensorContext,
    num_rows,
    restored,
    rows_of,
    side_values,
)

_LEAST_SHARE = 1 / 64


class HadaNormQuantizer(Quantizer):
    """Uniform quantization of centred, scaled and rotated channels."""

    option_sets = (
        {},
        {"bits": 2, "scale": "group", "group_size": 5},
        {"bits": 8, "scale": "group", "scale_dtype": "float32", "normalize": False},
        {"center": False, "scale_dtype": "float16"},
        {"center": False, "normalize": False, "hadamard": False},
    )

    class Config(QuantizerConfig):
        """Options of `hadanorm`; centring, scaling and the rotation can each be switched off."""

        bits: int = Field(4, ge=2, le=8, description="bit-width")
        scale: Literal["token", "group"] = Field("token", description="what shares one scale")
        group_size: int = Field(
            64, ge=1, description="rotated channels that share a scale, with scale: group"
        )
        center: bool = Field(True, description="subtract the mean of each channel")
        normalize: bool = Field(True, description="divide by a channel scale, frozen once known")
        hadamard: bool = Field(True, description="rotate the channels")
        scale_dtype: ScaleDtype = Field(
            "bfloat16", description="dtype in which means, channel scales and ranges are sent"
        )

    sigma_C: Tensor
    is_frozen: Tensor

    def __init__(self, config: HadaNormQuantizer.Config, site: Site) -> None:
        super().__init__(config, site)
        self.register_buffer("sigma_C", torch.ones(site.num_channels))
        self.register_buffer("is_frozen", torch.tensor(False))

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Codes (R, C), ranges (R, G), and where they are due means and channel scales (C,)."""
        values_RC = rows_of(x)
        side: dict[str, Tensor] = {}
        is_token_R1 = (values_RC != 0).any(1, keepdim=True)
        num_tokens = int(is_token_R1.sum())
        if self.config.center and num_tokens > 1:  # the mean of one token is the token
            side["mean"] = self._sent(values_RC.sum(0) / num_tokens)
            values_RC = (values_RC - side["mean"].float()) * is_token_R1
        if self.config.normalize and not self.is_frozen:
            side["sigma"] = self._sent(_channel_scale(values_RC, num_tokens))
        rotated_RC = self._rotate(values_RC / self._sigma(side, context))
        rotated_RC = rotated_RC / float(self._block_size(rotated_RC))
        side["range"] = self._sent(self._group_peaks(rotated_RC))
        allocation = BitAllocation.uniform(self.config.bits, rotated_RC.shape[1])
        codes = encode(rotated_RC, self._steps(side["range"], allocation), allocation)
        return QuantizedTensor(tuple(x.shape), x.dtype, codes, side)

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """x̂ = σ · H (code · s) + μ.

        Raises:
            QuantizationError: no message so far has carried the channel scales.
        """
        assert quantized.codes is not None
        sigma_C = self._sigma(quantized.side, context)
        steps_RC = self._steps(quantized.side["range"], quantized.codes.allocation)
        rotated_RC = decode(quantized.codes, steps_RC)
        values_RC = self._rotate(rotated_RC) * sigma_C
        if "mean" in quantized.side:
            values_RC = values_RC + quantized.side["mean"].float()
        return restored(values_RC, quantized)

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout:
        """Codes (R, C), ranges (R, G), and means and channel scales (C,) where they are due."""
        rows, channels = num_rows(shape), shape[-1]
        sent = DTYPES[self.config.scale_dtype]
        num_groups = -(-channels // self._group_size(channels))
        side = {"range": SideLayout(sent, (rows, num_groups))}
        if self.config.center:
            side["mean"] = SideLayout(sent, (channels,), optional=True)
        if self.config.normalize:
            side["sigma"] = SideLayout(sent, (channels,), optional=True)
        return Layout(CodesLayout(rows, channels, "tensor", (self.config.bits,)), side)

    def report(self) -> BitReport:
        """Columns are mixtures of channels where they are rotated."""
        return BitReport(column="rotated channel" if self.config.hadamard else None)

    def _sigma(self, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        """σ (C,) of this message; the first training message freezes it, at both ends alike."""
        if not self.config.normalize:
            return self.sigma_C  # ones
        if "sigma" not in side:
            if not self.is_frozen:
                raise QuantizationError(
                    "the message that carried the channel scales was never received",
                    where=f"link {context.link} {context.role} step {context.step}",
                    hint="start both ends from the same checkpoint",
                )
            return self.sigma_C
        sigma_C = side["sigma"].float()
        if context.training:
            self.once_accepted(lambda: self._freeze(sigma_C))
        return sigma_C

    def _freeze(self, sigma_C: Tensor) -> None:
        self.sigma_C.copy_(sigma_C)
        self.is_frozen.fill_(True)

    def _rotate(self, values_RC: Tensor) -> Tensor:
        """H · values in blocks, by log2(m) rounds of sums and differences."""
        num_rows, num_channels = values_RC.shape
        block, half = self._block_size(values_RC), 1
        while half < block:
            pairs = values_RC.reshape(num_rows, num_channels // (2 * half), 2, half)
            first, second = pairs.unbind(2)
            mixed = torch.stack((first + second, first - second), dim=2)
            values_RC = mixed.reshape(num_rows, num_channels)
            half *= 2
        return values_RC

    def _block_size(self, values_RC: Tensor) -> int:
        """m, the largest power of two that divides C."""
        num_channels = values_RC.shape[1]
        return num_channels & -num_channels if self.config.hadamard else 1

    def _group_peaks(self, rotated_RC: Tensor) -> Tensor:
        """Largest magnitude (R, G) of each group; one group a token with scale: token."""
        size = self._group_size(rotated_RC.shape[1])
        padded = functional.pad(rotated_RC.abs(), (0, -rotated_RC.shape[1] % size))
        return padded.reshape(len(padded), padded.shape[1] // size, size).amax(-1)

    def _group_size(self, num_channels: int) -> int:
        is_token = self.config.scale == "token"
        return num_channels if is_token else min(self.config.group_size, num_channels)

    def _steps(self, range_RG: Tensor, allocation: BitAllocation) -> Tensor:
        """Step sizes that broadcast to (R, C)."""
        num_channels = allocation.num_columns
        range_RC = range_RG.float().repeat_interleave(self._group_size(num_channels), dim=1)
        return step_size(range_RC[:, :num_channels], allocation)

    def _sent(self, values: Tensor) -> Tensor:
        return side_values(values, self.config.scale_dtype)


def _channel_scale(values_RC: Tensor, num_tokens: int) -> Tensor:
    """σ ~ √(mean |x_c|), from 1/64 to 1: a channel that is quiet now may speak up later."""
    sigma_C = (values_RC.abs().sum(0) / max(num_tokens, 1)).sqrt()
    largest = sigma_C.max()
    share_C = sigma_C / largest if largest > 0 else torch.ones_like(sigma_C)
    return share_C.clamp(min=_LEAST_SHARE)
