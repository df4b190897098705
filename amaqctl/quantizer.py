"""The public contract of a quantizer. A third party needs this module and `amaqctl.bits` only.

A quantizer decides the grid: which width and which scale each part of a tensor gets. Packing,
framing, sending and reporting are done for it. It lives twice, once at the sender and once at the
receiver, in separate instances built from the same options; the receiver sees nothing but what
was in the bytes. The value comes from the bytes, the derivative from the surrogate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from amaqctl.bits import BitAllocation, PackedCodes, Rounding
from amaqctl.errors import QuantizationError

Role = Literal["activation", "gradient"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "int8": torch.int8,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

ScaleDtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Site:
    """Where a quantizer stands and what it will see, known before the first tensor.

    Args:
        link: index of the cut, from 0.
        role: which of the cut's two directions.
        num_channels: C, width of the hidden state.
        max_positions: longest sequence in tokens.
        num_samples: training samples, for memories bounded by it.
        seed: the run's seed.
    """

    link: int
    role: Role
    num_channels: int
    max_positions: int
    num_samples: int
    seed: int


@dataclass(frozen=True)
class TensorContext:
    """What is known about one tensor; rides in the message's header, except ``allocation``.

    Args:
        role, link: which channel it crosses.
        step: optimizer step, from 0. total_steps: of the run.
        micro_batch: index within the step, from 0.
        sample_ids: stable number of each sample of the batch, or () where there is none.
        lengths: tokens of each sample that are not padding, or () for no padding.
        left_padded: padding stands before the tokens (generation) instead of after.
        first_position: sequence position of the first token (cached generation), from 0.
        training: False in evaluation and generation, where no state may change.
        allocation: for a gradient, the widths of the activation message received on this link.
    """

    role: Role
    link: int
    step: int
    total_steps: int
    micro_batch: int = 0
    sample_ids: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    left_padded: bool = False
    first_position: int = 0
    training: bool = True
    allocation: BitAllocation | None = None


@dataclass(frozen=True)
class QuantizedTensor:
    """What a quantizer hands to the wire.

    Args:
        shape: of the tensor, to be restored.
        dtype: of the tensor, to be restored; float32, bfloat16 or float16.
        codes: packed codes, or None when everything is in ``side``.
        side: named side tensors (scales, means, …) of any dtype in `DTYPES`; every byte counts.

    Raises:
        QuantizationError: a dtype that the wire does not carry.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    codes: PackedCodes | None
    side: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype not in FLOAT_DTYPES:
            raise QuantizationError(f"tensors of {self.dtype} cannot be sent")
        for name, tensor in self.side.items():
            if tensor.dtype not in DTYPE_NAMES:
                raise QuantizationError(f"side tensor '{name}' has the dtype {tensor.dtype}")

    @property
    def num_values(self) -> int:
        """Values of the tensor."""
        return torch.Size(self.shape).numel()


class QuantizerConfig(BaseModel):
    """Base of each quantizer's options: frozen, unknown keys refused, every field described."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Quantizer(nn.Module, ABC):
    """One method of quantization. Subclass it, nest a ``Config``, write two methods.

    Args:
        config: the validated options.
        site: where it stands.
    """

    Config: ClassVar[type[QuantizerConfig]] = QuantizerConfig

    def __init__(self, config: Any, site: Site) -> None:
        super().__init__()
        self.config = config
        self.site = site

    @abstractmethod
    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Quantize at the sender. Called without gradient.

        Args:
            x: float32, bfloat16 or float16, finite, any leading shape, channels last.
        """

    @abstractmethod
    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """Restore shape and dtype at the receiver, from this message (and, if stateful, those
        before it) and never from the sender's object."""

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        """Differentiable stand-in for the decoded x at the sender, called after `quantize`.

        Its value is never used, only its derivative. The default is x itself: the
        straight-through estimator.
        """
        return x

    def penalty(self, context: TensorContext) -> Tensor | None:
        """Scalar to be added to the loss, already weighted, or None."""
        return None

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the learned parameters at the sender; they get `quantizer_lr`."""
        parameters = list(self.parameters())
        return [{"params": parameters}] if parameters else []

    def allocation(self) -> BitAllocation | None:
        """The widths in force at the sender, for inspection; None when there are none yet."""
        return None


def rows_of(x: Tensor) -> Tensor:
    """x as float32 rows (R, C): leading dimensions flattened, channels last.

    Contiguous, since the order in which sums are taken, hence their last bit, follows memory.
    """
    return x.reshape(-1, x.shape[-1]).to(torch.float32).contiguous()


def restored(values: Tensor, quantized: QuantizedTensor) -> Tensor:
    """Decoded float32 values in the shape and dtype of the tensor that was sent.

    Rounding can lift float16's largest values (65504) beyond what it holds; they stay there.
    """
    if quantized.dtype == torch.float16:
        largest = torch.finfo(torch.float16).max
        values = values.clamp(-largest, largest)
    return values.to(quantized.dtype).reshape(quantized.shape)


def side_values(values: Tensor, dtype: ScaleDtype) -> Tensor:
    """``values`` rounded to the dtype they travel in, so that both ends compute with the same.

    Raises:
        QuantizationError: a value is not finite, or overflows ``dtype``.
    """
    rounded = values.to(DTYPES[dtype])
    if not bool(rounded.isfinite().all()):
        if not bool(values.isfinite().all()):
            raise QuantizationError(
                "a scale is not finite",
                hint="values are too large to be added up: look for a diverging run",
            )
        raise QuantizationError(
            f"a scale overflows {dtype}", hint="bfloat16 and float32 reach as far as the values do"
        )
    return rounded


def rounding_noise(
    rounding: Rounding, like_RC: Tensor, site: Site, context: TensorContext
) -> Tensor | None:
    """Noise for stochastic rounding, a pure function of seed, place and step; None for nearest.

    Stateless, so a resumed run draws what the run that was never stopped would have drawn.
    """
    if rounding == "nearest":
        return None
    generator = torch.Generator().manual_seed(_mix(site, context))
    return torch.rand(like_RC.shape, generator=generator).to(like_RC.device)


def _mix(site: Site, context: TensorContext) -> int:
    parts: Iterator[int] = iter(
        (site.seed, context.link, context.role == "gradient", context.step, context.micro_batch)
    )
    state = 0
    for part in parts:
        state = (state * 1_000_003 + part + 1) % (1 << 61)
    return state
