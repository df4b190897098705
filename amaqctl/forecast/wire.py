"""Bytes of a whole run, forecast from messages that were really encoded.

Every step's batch is known beforehand (`data_order`): its padded length, and how many of its
samples come for the first time, which decides what a quantizer with a memory sends. What a value
costs is measured
at a few dozen steps spread over the run: the quantizers, as the real first steps left them, are
told the late step's number and samples and encode the tensors of an early one. In between, the
cost is interpolated, apart for first and for later visits. Learned widths move meanwhile by their
own penalty alone; what the loss would teach them is not foreseen.

Legend: B batch rows, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.build import Built
from amaqctl.engine.link import Channel
from amaqctl.engine.stage import Stage
from amaqctl.forecast.data_order import Array, DataOrder, spread
from amaqctl.forecast.rehearsal import Rehearsal, batch_of
from amaqctl.quantizer import TensorContext
from amaqctl.tasks.batch import Batch, split_batch
from amaqctl.wire import Message

_NUM_SAMPLED = 24
_MOST_MOVES = 500
"""Of learned widths between two sampled steps; a run of 5,000 steps has no more there."""


@dataclass(frozen=True)
class ChannelForecast:
    """One direction of one link.

    Args:
        link, role: which.
        first_step_bytes, first_step_values: counted, of step 0.
        run_bytes: forecast, of all steps. run_values: of all steps, known as far as the data are
            counted.
        last_step_bits: forecast, real bits a value of the last step.
    """

    link: int
    role: str
    first_step_bytes: int
    first_step_values: int
    run_bytes: int
    run_values: int
    last_step_bits: float

    @property
    def first_step_bits(self) -> float:
        """Real bits a value of step 0."""
        return 8 * self.first_step_bytes / self.first_step_values


@dataclass(frozen=True)
class _Cost:
    """Measured bits a value at one step; ``first_visits`` as in `DataOrder`."""

    step: int
    first_visits: float
    bits: float


def forecast_channels(
    built: Built, rehearsal: Rehearsal, order: DataOrder
) -> list[ChannelForecast]:
    """Every channel's bytes over the run; the quantizers of ``built`` are used up by it."""
    costs: dict[Any, list[_Cost]] = {}
    for step, result in enumerate(rehearsal.steps):
        for address, channel in result.traffic:
            cost = _Cost(step, float(order.first_visits_S[step]), channel.bits_a_value)
            costs.setdefault(address, []).append(cost)
    if rehearsal.tensors:
        _sample(built, rehearsal, order, costs)
    forecasts = []
    for address, first in rehearsal.steps[0].traffic:
        values_S = first.values / order.positions_S[0] * order.positions_S
        bits_S = _interpolated(costs[address], order)
        bytes_S = bits_S * values_S / 8
        for step, result in enumerate(rehearsal.steps):
            bytes_S[step] = result.traffic.channels[address].total_bytes
        forecasts.append(
            ChannelForecast(
                address.link,
                address.role,
                first.total_bytes,
                first.values,
                round(order.total(bytes_S)),
                round(order.total(values_S)),
                float(8 * bytes_S[-1] / values_S[-1]),
            )
        )
    return forecasts


def sampled_steps(order: DataOrder, first: int) -> list[int]:
    """Steps worth measuring from ``first`` on: dense at the start, evenly to the last one, and
    where first visits end and later ones begin."""
    last = order.num_steps - 1
    even = np.linspace(first, last, _NUM_SAMPLED // 2)
    dense = first + np.geomspace(1, max(last - first, 1), _NUM_SAMPLED // 2) - 1
    of_first, of_later = (
        order.steps_S[(order.first_visits_S == share) & (order.steps_S >= first)]
        for share in (1.0, 0.0)
    )
    return sorted({round(float(s)) for s in (*even, *dense, *of_first[-1:], *of_later[:1])})


def _interpolated(costs: Sequence[_Cost], order: DataOrder) -> Array:
    """Bits a value of the steps looked at: between its neighbours of the same kind of visit."""
    curves = []
    for share in (0.0, 1.0):
        alike = [c for c in costs if c.first_visits == share] or costs
        curves.append(np.interp(order.steps_S, [c.step for c in alike], [c.bits for c in alike]))
    later_S, first_S = curves
    return np.asarray(order.first_visits_S * first_S + (1 - order.first_visits_S) * later_S)


def _sample(
    built: Built, rehearsal: Rehearsal, order: DataOrder, costs: dict[Any, list[_Cost]]
) -> None:
    """Add measured costs of later steps, in the order of steps: state never goes back."""
    stages = [stage for stage in built.engine.stages.values() if stage.outgoing is not None]
    total_steps = order.num_steps
    num_parts = built.loaded.profile.train.micro_batches
    now = rehearsal.num_trained
    # The step over lossless messages is none that these quantizers have sent.
    real = range(len(rehearsal.steps))
    sent = {sample for step in real for sample in batch_of(built, step).sample_ids}
    for step in sampled_steps(order, len(rehearsal.steps)):
        _move_widths(stages, spread(now, step - now, _MOST_MOVES), total_steps)
        now = max(now, step)
        part = split_batch(batch_of(built, step), num_parts)[0]
        is_old = [order.is_old(sample, step) for sample in part.sample_ids]
        # Seen by then, but not by these quantizers: sent once before what is measured.
        missed = [
            o and sample not in sent for o, sample in zip(is_old, part.sample_ids, strict=True)
        ]
        sent.update(part.sample_ids)
        probe = _Probe(part, missed, step, total_steps, step * num_parts, rehearsal.tensors)
        for stage in stages:
            for address, bits in _measure(stage, probe):
                costs[address].append(_Cost(step, 1 - sum(is_old) / len(is_old), bits))


@dataclass(frozen=True)
class _Probe:
    """What to encode: the micro-batch of a step, and the tensors that stand for its own."""

    part: Batch
    missed: Sequence[bool]
    step: int
    total_steps: int
    sequence: int
    tensors: Mapping[Any, Tensor]


@torch.no_grad()
def _measure(stage: Stage, probe: _Probe) -> Iterator[tuple[Any, float]]:
    """Channel and real bits a value of both directions behind a stage."""
    assert stage.outgoing is not None
    allocation: BitAllocation | None = None
    for channel in (stage.outgoing.activations, stage.outgoing.gradients):
        x = _of_shape(probe.tensors[channel.address], probe.part.input_ids_BT.shape)
        context = TensorContext(
            role=channel.quantizers.sender.site.role,
            link=channel.address.link,
            step=probe.step,
            total_steps=probe.total_steps,
            sample_ids=probe.part.sample_ids,
            lengths=probe.part.lengths,
            allocation=allocation,
        )
        _catch_up(channel, x, context, probe.missed)
        pair = channel.quantizers
        quantized = pair.sender.quantize(x, context)
        message = Message(pair.name, context, quantized, sequence=probe.sequence)
        yield channel.address, 8 * len(message.to_bytes()) / quantized.num_values
        allocation = None if quantized.codes is None else quantized.codes.allocation


def _catch_up(channel: Channel, x: Tensor, context: TensorContext, missed: Sequence[bool]) -> None:
    """Send the samples that earlier steps of the run will have sent."""
    sender = channel.quantizers.sender
    rows = [row for row, is_missed in enumerate(missed) if is_missed]
    if not rows or not sender.state_dict():
        return
    samples = tuple(context.sample_ids[row] for row in rows)
    lengths = tuple(context.lengths[row] for row in rows)
    sender.quantize(x[rows], replace(context, sample_ids=samples, lengths=lengths))


def _of_shape(x: Tensor, shape: torch.Size) -> Tensor:
    """``x`` (B', T', C) as (B, T, C): rows and positions cut off or gone round again."""
    rows, positions = (
        torch.arange(length, device=x.device) % x.shape[dim] for dim, length in enumerate(shape)
    )
    return x[rows][:, positions].contiguous()


def _move_widths(stages: Sequence[Stage], steps: Array, total_steps: int) -> None:
    """Let learned widths follow their own penalty at some steps, with the run's optimizer."""
    for step in map(int, steps):
        moved = False
        for stage in stages:
            assert stage.outgoing is not None
            channel = stage.outgoing.activations
            context = TensorContext("activation", channel.address.link, step, total_steps)
            penalty = channel.penalty(context)
            if penalty is None or not penalty.requires_grad or stage.optimizer is None:
                continue
            penalty.backward()
            stage.optimizer.step()
            stage.optimizer.zero_grad(set_to_none=True)
            moved = True
        if not moved:
            return
