"""Traces put together by hand from tensors, and the messages of real channels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from amaqctl import registry
from amaqctl.quantizer import DTYPE_NAMES, Role, Site, TensorContext
from amaqctl.trace.layout import SiteFacts, TraceHeader
from amaqctl.trace.reader import Trace
from amaqctl.trace.writer import TraceWriter
from amaqctl.wire import Message

CHANNELS = 24
Sent = tuple[TensorContext, Tensor]


def site_of(link: int, role: Role, num_channels: int = CHANNELS) -> Site:
    return Site(link, role, num_channels, max_positions=64, num_samples=64, seed=17)


def context_of(
    step: int, role: Role, *, micro_batch: int = 0, link: int = 0, **more
) -> TensorContext:
    return TensorContext(
        role=role, link=link, step=step, total_steps=9, micro_batch=micro_batch, **more
    )


def spread_tensor(seed: int, shape: tuple[int, ...] = (2, 8, CHANNELS)) -> Tensor:
    """Normal values whose channels differ in spread and mean."""
    generator = torch.Generator().manual_seed(seed)
    spread_C = 2.0 ** torch.linspace(-3, 3, shape[-1])
    return torch.randn(shape, generator=generator) * spread_C + spread_C.flip(0)


def steps_of(num_steps: int, *, samples: tuple[int, ...] = (3, 5), link: int = 0) -> list[Sent]:
    """An activation and its gradient for each step, of the same two samples."""
    sent: list[Sent] = []
    for step in range(num_steps):
        for role in ("activation", "gradient"):
            context = context_of(step, role, sample_ids=samples, link=link)
            sent.append((context, spread_tensor(100 * step + (role == "gradient"))))
    return sent


def write_trace(path: Path, sent: Iterable[Sent], quantizer_lr: float = 0.1) -> Trace:
    """A raw trace of these tensors."""
    sent = list(sent)
    places = list(dict.fromkeys((c.link, c.role) for c, _ in sent))
    header = TraceHeader(
        model="by hand",
        dtype=DTYPE_NAMES[sent[0][1].dtype],  # type: ignore[arg-type]
        profile="tests",
        recorded_by="tests",
        first_step=sent[0][0].step,
        num_steps=len({c.step for c, _ in sent}),
        total_steps=9,
        quantizer_lr=quantizer_lr,
        sites=tuple(
            SiteFacts.of(site_of(link, role, sent[0][1].shape[-1])) for link, role in places
        ),
    )
    cls = registry.load(registry.QUANTIZERS, "none")
    with path.open("wb") as file:
        writer = TraceWriter(file, header)
        for context, x in sent:
            lossless = cls(cls.Config(), site_of(context.link, context.role, x.shape[-1]))
            writer.append(Message("none", context, lossless.quantize(x, context)).to_bytes())
        writer.end()
    return Trace(path)
