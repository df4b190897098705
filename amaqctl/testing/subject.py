"""`Subject`: one quantizer with options in one role, and what the clauses do with it.

Everything that passes between two ends passes as the bytes of a message, and every instance is
built from options that have been through JSON, like a peer's.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amaqctl import registry
from amaqctl.bits import BitAllocation
from amaqctl.errors import PluginError
from amaqctl.quantizer import (
    End,
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    QuantizerEnd,
    Role,
    Site,
    TensorContext,
)
from amaqctl.registry import Offer
from amaqctl.wire import Message

NUM_CHANNELS = 32
NUM_POSITIONS = 48
NUM_SAMPLES = 6
TOTAL_STEPS = 128
_SEED = 17
_LEARNING_RATE = 0.05
_BATCH_SIZE, _NUM_MICRO_BATCHES = 4, 2


@dataclass(frozen=True)
class Subject:
    """What a clause looks at.

    Args:
        name: the registered name.
        cls: what it stands for.
        options: as a profile would give them.
        role: the direction in which it is used.
    """

    name: str
    cls: type[Quantizer]
    options: Mapping[str, Any]
    role: Role

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}-{self.role}" + (f"-{options}" if options else "")

    def config(self) -> QuantizerConfig:
        """The validated options."""
        return self.cls.Config(**self.options)

    def sender(self, num_channels: int = NUM_CHANNELS) -> Quantizer:
        """A fresh instance at the sending end; it shares nothing with any other."""
        return self._built("sender", num_channels)

    def receiver(self, num_channels: int = NUM_CHANNELS) -> Quantizer:
        """A fresh instance at the receiving end; it shares nothing with any other."""
        return self._built("receiver", num_channels)

    def site(self, end: End, num_channels: int = NUM_CHANNELS) -> Site:
        """Where an instance stands."""
        return Site(
            0,
            self.role,
            num_channels,
            NUM_POSITIONS,
            NUM_SAMPLES,
            _SEED,
            end=end,
            batch_size=_BATCH_SIZE,
            num_micro_batches=_NUM_MICRO_BATCHES,
        )

    def _built(self, end: End, num_channels: int) -> Quantizer:
        config = self.cls.Config.model_validate_json(self.config().model_dump_json())
        return self.cls(config, self.site(end, num_channels))

    def context(
        self, x: Tensor, step: int = 0, *, micro_batch: int = 0, training: bool = True
    ) -> TensorContext:
        """What would be known about ``x`` in a run: samples come back every few steps."""
        first = 2 * step + 3 * micro_batch
        num_rows = x.shape[0] if x.dim() == 3 and training else 0
        allocation = None
        if self.role == "gradient":
            widths_C = torch.arange(x.shape[-1]).remainder(7).to(torch.uint8) + 2
            allocation = BitAllocation(widths_C, "channel")
        return TensorContext(
            self.role,
            0,
            step,
            TOTAL_STEPS,
            micro_batch=micro_batch,
            sample_ids=tuple((first + row) % NUM_SAMPLES for row in range(num_rows)),
            training=training,
            allocation=allocation,
        )

    @property
    def offer(self) -> Offer:
        """Who is to be blamed; a class that nobody offers stands for itself."""
        try:
            return registry.find(registry.QUANTIZERS, self.name)
        except PluginError:
            target = f"{self.cls.__module__}:{self.cls.__qualname__}"
            return Offer(registry.QUANTIZERS, self.name, target, self.cls.__module__, "0")

    def end(self, quantizer: Quantizer) -> QuantizerEnd:
        """An instance as a channel calls it."""
        return QuantizerEnd(self.offer, quantizer)

    def quantize(self, sender: Quantizer, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """As a channel does it: without gradient."""
        return self.end(sender).quantize(x.detach(), context)

    def send(self, sender: Quantizer, x: Tensor, context: TensorContext) -> bytes:
        """The whole message for ``x``."""
        return Message(self.name, context, self.quantize(sender, x, context)).to_bytes()

    def receive(self, receiver: Quantizer, data: bytes) -> Tensor:
        """Decode from the bytes alone."""
        message = Message.from_bytes(data)
        return self.end(receiver).dequantize(message.quantized, message.context)

    def train(self, sender: Quantizer, x: Tensor, context: TensorContext) -> bytes:
        """One step at the sender: send, a gradient through the surrogate, a plain update."""
        data = self.send(sender, x, context)
        if self.role == "activation":
            self.backward(sender, x, context)
            with torch.no_grad():
                for parameter in sender.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(_LEARNING_RATE * parameter.grad)
                        parameter.grad = None
        return data

    def backward(self, sender: Quantizer, x: Tensor, context: TensorContext) -> Tensor:
        """Pull a random gradient through surrogate and penalty; what reaches ``x``."""
        leaf = x.detach().clone().requires_grad_()
        outputs = [sender.surrogate(leaf, context)]
        gradients: list[Tensor | None] = [gradient_like(x)]
        penalty = sender.penalty(context)
        if penalty is not None and penalty.requires_grad:
            outputs.append(penalty)
            gradients.append(None)
        torch.autograd.backward(outputs, gradients)
        return torch.zeros_like(x) if leaf.grad is None else leaf.grad


def hidden_like(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """float32 like a hidden state: an outlier channel, a constant offset, some exact zeros."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[x.abs() < 0.1] = 0.0
    x[..., 0] *= 40.0
    x[..., -1] += 9.0
    return x


def plain(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """float32, standard normal, nothing special about any channel."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient_like(x: Tensor) -> Tensor:
    """Standard normal in the shape and dtype of ``x``, always the same."""
    return plain(tuple(x.shape), 5).to(x.dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal shape, dtype and bits: -0.0 is not 0.0, and a NaN is itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )
