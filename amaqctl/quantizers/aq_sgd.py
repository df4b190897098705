"""`aq-sgd`: send the change of each sample's activation since its last visit (arXiv 2206.01299).

For a sample ξ with activation a, and a memory m(ξ) at both ends:

    first visit:   send a in full,           m(ξ) = a
    later visits:  send d = Q(a - m(ξ)),     m(ξ) = m(ξ) + d
    the receiver computes on m(ξ); gradients are quantized directly.

Q is a uniform quantizer. The theory wants it unbiased; the authors' code rounds to nearest with
one scale a channel, which is the default here, and keeps float16 memories, as here. The paper's
code leaves the whole first epoch in full, which is the same thing as each first visit.

Ours: sample ids travel in the header; memories are bounded, memory-mapped and checkpointed; each
message tells how often each sample was sent before, and a receiver that disagrees refuses it
instead of drifting. Evaluation tensors are quantized directly and touch no memory.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes, Rounding, decode, encode, step_size
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import (
    DTYPES,
    CodesLayout,
    Layout,
    Length,
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    SampleMemory,
    ScaleDtype,
    SideLayout,
    Site,
    TensorContext,
    num_rows,
    restored,
    rounding_noise,
    rows_of,
    side_values,
)


class AqSgdQuantizer(Quantizer):
    """Delta quantization against a memory of each sample."""

    option_sets = (
        {},
        {"bits": 2, "scale": "token", "memory_dtype": "bfloat16"},
        {"bits": 8, "rounding": "stochastic", "scale_dtype": "float32"},
    )

    class Config(QuantizerConfig):
        """Options of `aq-sgd`."""

        bits: int = Field(4, ge=2, le=8, description="bit-width of the change")
        scale: Literal["token", "channel"] = Field("channel", description="what shares one scale")
        rounding: Rounding = Field("nearest", description="nearest or stochastic")
        memory_dtype: Literal["float16", "bfloat16"] = Field(
            "float16", description="dtype of the memories"
        )
        memory_limit_mib: int = Field(
            65536, ge=1, description="refuse memories of more MiB an end than this"
        )
        scale_dtype: ScaleDtype = Field("bfloat16", description="dtype in which ranges are sent")

    def __init__(self, config: AqSgdQuantizer.Config, site: Site) -> None:
        super().__init__(config, site)
        self.memory = SampleMemory(
            site.num_samples if site.role == "activation" else 0,
            site.max_positions,
            site.num_channels,
            DTYPES[config.memory_dtype],
            config.memory_limit_mib,
        )

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Codes of the changes, full values (and a visit count a sample) where they are due.

        Raises:
            QuantizationError: a training activation without one sample id for each batch row.
        """
        if not self._remembers(context):
            direct, value_range = self._encode(rows_of(x), context)
            return QuantizedTensor(tuple(x.shape), x.dtype, direct, {"range": value_range})
        self._check_ids(context, x.shape)
        visits_B = [self.memory.visits(i) for i in context.sample_ids]
        changes = [
            x_TC.to(torch.float32) - self.memory.recall(sample, x.shape[1]).to(x.device)
            for sample, seen, x_TC in zip(context.sample_ids, visits_B, x, strict=True)
            if seen
        ]
        full = [x_TC for seen, x_TC in zip(visits_B, x, strict=True) if not seen]
        side = {"visits": torch.tensor(visits_B, dtype=torch.int32, device=x.device)}
        codes: PackedCodes | None = None
        if full:
            side["full"] = torch.stack(full)
        if changes:
            codes, side["range"] = self._encode(torch.cat(changes), context)
        quantized = QuantizedTensor(tuple(x.shape), x.dtype, codes, side)
        self._remember(quantized, context)  # the sender mirrors what the receiver will do
        return quantized

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """The memories after this message; for evaluation and gradients the direct values.

        Raises:
            QuantizationError: a sample was sent more or less often than it was received. Let the
                sender `forget` it, and it comes in full.
        """
        if not self._remembers(context):
            return restored(self._decode(quantized), quantized)
        self._check_ids(context, quantized.shape)
        return restored(self._remember(quantized, context), quantized)

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout:
        """Codes and ranges of the changes; visit counts and full values where memories are used."""
        rows, channels = num_rows(shape), shape[-1]
        legal_rows: Length = rows
        remembers = self._remembers(context)
        if remembers:
            tokens = shape[-2] if len(shape) > 1 else 1
            legal_rows = range(tokens, rows + 1, tokens) if tokens else 0
        by_channel = self.config.scale == "channel"
        range_shape: tuple[Length, ...] = (1, channels) if by_channel else (legal_rows, 1)
        side = {}
        if allocation is not None:  # a range belongs to codes
            side["range"] = SideLayout(DTYPES[self.config.scale_dtype], range_shape)
        codes = CodesLayout(legal_rows, channels, "tensor", (self.config.bits,), remembers)
        if remembers:
            batch = shape[0]
            side["visits"] = SideLayout(torch.int32, (batch,))
            full_shape: tuple[Length, ...] = (range(1, batch + 1), *shape[1:])
            side["full"] = SideLayout(dtype, full_shape, optional=True)
        return Layout(codes, side)

    def forget(self, sample_ids: tuple[int, ...]) -> None:
        """Send these samples in full at their next visit (both ends must be told)."""
        for sample_id in sample_ids:
            self.memory.forget(sample_id)

    def _remembers(self, context: TensorContext) -> bool:
        return context.role == "activation" and context.training

    def _check_ids(self, context: TensorContext, shape: torch.Size | tuple[int, ...]) -> None:
        num_ids = len(context.sample_ids)
        if len(shape) != 3 or not num_ids == len(set(context.sample_ids)) == shape[0]:
            raise QuantizationError(
                f"aq-sgd needs a different sample id for each of the {shape[0]} rows of a "
                f"(batch, tokens, channels) tensor, got the ids {list(context.sample_ids)}"
            )

    def _remember(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """Update the memories from one message, all of them or, with an error, none.

        Returns:
            The new memories (B, T, C), float32.
        """
        num_positions, num_channels = quantized.shape[1:]
        visits_B = quantized.side["visits"].tolist()
        for sample, sent in zip(context.sample_ids, visits_B, strict=True):
            received = self.memory.visits(sample)
            # A sender that starts over (0) is always understood.
            if sent and received != sent:
                raise QuantizationError(
                    f"sample {sample} was sent {sent} times but received {received} times",
                    where=f"link {context.link} step {context.step}",
                    hint="let the sender forget the sample, so that it comes in full",
                )
        full = quantized.side.get("full", torch.empty((0, num_positions, num_channels)))
        changes = torch.empty((0, num_positions, num_channels))
        if quantized.codes is not None:
            changes = self._decode(quantized).reshape(-1, num_positions, num_channels)
        num_first = visits_B.count(0)
        due = (num_first, num_positions, num_channels)
        if tuple(full.shape) != due or len(changes) != len(visits_B) - num_first:
            raise QuantizationError(
                f"full samples of shape {tuple(full.shape)} and {len(changes)} changes, where "
                f"{due} and {len(visits_B) - num_first} are due",
                where=f"link {context.link} step {context.step}",
            )
        next_full, next_change = iter(full), iter(changes)
        new = [
            self.memory.rounded(
                sample,
                self.memory.recall(sample, num_positions).to(changes.device) + next(next_change)
                if sent
                else next(next_full).to(torch.float32),
            )
            for sample, sent in zip(context.sample_ids, visits_B, strict=True)
        ]
        self.once_accepted(lambda: self._store(context.sample_ids, visits_B, new))
        return torch.stack(new).to(torch.float32) if new else torch.zeros(quantized.shape)

    def _store(self, sample_ids: tuple[int, ...], visits_B: list[int], new: list[Tensor]) -> None:
        for sample, sent, value_TC in zip(sample_ids, visits_B, new, strict=True):
            if not sent:
                self.memory.forget(sample)
            self.memory.store(sample, value_TC)

    def decoded(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """The memories, which this sender has moved on already, or the direct values."""
        if not self._remembers(context) or not context.sample_ids:
            return self.dequantize(quantized, context)
        num_positions = quantized.shape[1]
        kept = [self.memory.recall(i, num_positions) for i in context.sample_ids]
        device = quantized.side["visits"].device
        return restored(torch.stack(kept).to(device), quantized)

    def _encode(self, values_RC: Tensor, context: TensorContext) -> tuple[PackedCodes, Tensor]:
        allocation = BitAllocation.uniform(self.config.bits, values_RC.shape[1])
        dim = 0 if self.config.scale == "channel" else 1
        magnitude = (
            values_RC.abs().amax(dim, keepdim=True)
            if len(values_RC)
            else values_RC.sum(dim, keepdim=True)
        )
        value_range = side_values(magnitude, self.config.scale_dtype)
        noise = rounding_noise(self.config.rounding, values_RC, self.site, context)
        scale = step_size(value_range.float(), allocation)
        return encode(values_RC, scale, allocation, noise=noise), value_range

    def _decode(self, quantized: QuantizedTensor) -> Tensor:
        assert quantized.codes is not None
        return decode(
            quantized.codes,
            step_size(quantized.side["range"].float(), quantized.codes.allocation),
        )
