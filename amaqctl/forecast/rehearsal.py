"""The start of a run, really run on objects that are thrown away: nothing is written to a run.

What a run does first is done here in the same order, so the first step's messages are those of
the run to the byte (a sequence number in a header counts the evaluation's messages too). One more
step over lossless messages then gives the tensors that later steps are forecast from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from amaqctl.build import Built, resolve_parts
from amaqctl.engine.checkpoint import quantizer_state
from amaqctl.engine.engine import StepResult, message_address
from amaqctl.tasks.batch import Batch, batch_at
from amaqctl.wire import Message

_MOST_STEPS = 3
"""Enough to get past a first step's set-up, and past what methods send only at the start."""


@dataclass(frozen=True)
class Rehearsal:
    """What the first steps of a run did.

    Args:
        steps: results of the real steps, from step 0.
        seconds: of each.
        evaluation_seconds, evaluation_bytes: of one evaluation.
        loss: validation loss before training, in nats a token.
        state_bytes: of all quantizers' state, before the first step and after the last.
        tensors: by channel, what the first micro-batch of the step after them would send,
            (B, T, C); empty where the run has no further step.
    """

    steps: tuple[StepResult, ...]
    seconds: tuple[float, ...]
    evaluation_seconds: float
    evaluation_bytes: int
    loss: float
    state_bytes: tuple[int, int]
    tensors: dict[Any, Tensor]

    @property
    def num_trained(self) -> int:
        """Steps behind the weights, the one over lossless messages included."""
        return len(self.steps) + bool(self.tensors)


def rehearse(built: Built) -> Rehearsal:
    """Evaluate, train the first steps, and capture the tensors of one more.

    Raises:
        InputError, DivergedError, QuantizationError: as training would.
    """
    engine, max_steps = built.engine, built.loaded.profile.train.max_steps
    started = time.perf_counter()
    metrics = built.evaluator.evaluate(0, "quantized")
    evaluation_seconds = time.perf_counter() - started
    before = _state_bytes(built)
    steps, seconds = [], []
    for step in range(min(_MOST_STEPS, max_steps)):
        batch = batch_of(built, step)
        started = time.perf_counter()
        steps.append(engine.train_step(batch, step))
        seconds.append(time.perf_counter() - started)
    return Rehearsal(
        tuple(steps),
        tuple(seconds),
        evaluation_seconds,
        engine.evaluation_traffic.total_bytes,
        metrics["loss"],
        (before, _state_bytes(built)),
        _lossless_tensors(built, len(steps)) if len(steps) < max_steps else {},
    )


def batch_of(built: Built, step: int) -> Batch:
    """The batch that the run trains on at ``step``."""
    train = built.loaded.profile.train
    pad = built.pad_token_id
    return batch_at(built.task.train, step, train.batch_size, train.seed, pad)


def _lossless_tensors(built: Built, step: int) -> dict[Any, Tensor]:
    """Train ``step`` over lossless messages; what its first micro-batch sent, by channel."""
    lossless = resolve_parts(built.loaded).lossless
    kept: dict[Any, Tensor] = {}
    sites = {
        channel.address: channel.quantizers.sender.site
        for stage in built.engine.stages.values()
        if stage.outgoing is not None
        for channel in (stage.outgoing.activations, stage.outgoing.gradients)
    }

    def keep(message: Message) -> None:
        if message.context.micro_batch == 0:
            address = message_address(message)
            decoder = lossless.end(sites[address])
            kept[address] = decoder.dequantize(message.quantized, message.context)

    built.engine.listeners.append(keep)
    try:
        with built.engine.boundary("clean"):
            built.engine.train_step(batch_of(built, step), step)
    finally:
        built.engine.listeners.remove(keep)
    return kept


def _state_bytes(built: Built) -> int:
    return sum(tensor.nbytes for tensor in quantizer_state(built.contents).values())
