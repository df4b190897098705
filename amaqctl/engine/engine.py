"""`Engine`: the stages this process holds, and the one loop over them.

The loop asks the schedule what can run and runs it; what a stage held elsewhere sends is waited for
in one place. With all stages in one process nothing differs but that the messages come from next
door. The party with the data leads: it also says to the others what is to be done (`others`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from amaqctl.engine.fellows import Alone, Fellows
from amaqctl.engine.generations import Generations
from amaqctl.engine.gradient_norm import total_norm
from amaqctl.engine.look import Look, Seen, seen_in
from amaqctl.engine.others import Inbox, LookPart, Nobody, Others, StepPart
from amaqctl.engine.shared_state import gradients_of, set_gradients
from amaqctl.engine.stage import Given, Stage
from amaqctl.engine.step_runner import StepRunner
from amaqctl.engine.traffic import Traffic
from amaqctl.engine.untrained import blamed_on_the_base
from amaqctl.errors import InputError
from amaqctl.quantizer import TensorContext
from amaqctl.tasks.batch import Batch, split_batch, split_rows
from amaqctl.transports.transport import Address
from amaqctl.wire import Message, SizeBreakdown

Boundary = Literal["quantized", "clean"]
MessageListener = Callable[[Message], None]


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Args:
        loss: mean loss in nats a loss-carrying token of the batch.
        grad_norm: L2 norm of the LoRA gradient of all stages, before any clip.
        traffic: what was sent.
    """

    loss: float
    grad_norm: float
    traffic: Traffic


class Engine:
    """Runs the stages held by this process.

    Args:
        stages: by index in the whole model.
        num_stages: of the whole model.
        num_micro_batches: a batch is cut into this many equal parts.
        total_steps: of the run, told to quantizers with schedules.

    Attributes:
        others: the parties that follow this one; nobody in one process.
        inbox: what stages held elsewhere send; None in one process.
        fellows: the engines beside this one that train the same model for other clients.
    """

    def __init__(
        self, stages: dict[int, Stage], num_stages: int, num_micro_batches: int, total_steps: int
    ) -> None:
        self.stages = stages
        self.num_stages = num_stages
        self.total_steps = total_steps
        self.traffic = Traffic()
        self.evaluation_traffic = Traffic()
        self.listeners: list[MessageListener] = []
        self.others: Others = Nobody()
        self.inbox: Inbox | None = None
        self.fellows: Fellows = Alone()
        self._num_micro_batches = num_micro_batches
        self._sent = Traffic()
        self._boundary: Boundary = "quantized"
        self._generations = Generations(self.stages)

    def on_sent(self, message: Message, sizes: SizeBreakdown) -> None:
        """Count a message of one of our channels, and show it to the listeners."""
        codes = message.quantized.codes
        channel = self._sent.channels[message_address(message)]
        allocation = None if codes is None else codes.allocation
        channel.add(sizes, message.quantized.num_values, allocation)
        for listener in self.listeners:
            listener(message)

    def train_step(self, batch: Batch, step: int) -> StepResult:
        """One optimizer step, here and at the others.

        Args:
            batch: of all micro-batches.
            step: from 0.

        Raises:
            InputError: no token of the batch carries loss.
            DivergedError: something is not finite; no stage held here was changed.
        """
        if not batch.num_loss_tokens:
            raise InputError(
                "no token of the batch carries loss",
                where=f"step {step}, samples {list(batch.sample_ids)}",
                hint="check the completions of these samples, or raise train.batch_size",
            )
        is_clean = self._boundary == "clean"
        self.others.train(step, batch.labels_BT, batch.num_loss_tokens, is_clean)
        parts = [Given(p, p.labels_BT) for p in split_batch(batch, self._num_micro_batches)]
        with blamed_on_the_base(self.stages, step):
            own = self._run_step(step, batch.num_loss_tokens, parts)
            loss, norms, traffic = own.loss, dict(own.norms), own.traffic
            for part in self.others.trained():
                loss += part.loss
                norms |= part.norms
                traffic.include(part.traffic)
            norm = total_norm(norms, step, self._device())
        self.others.update(norm)
        self.update(norm, step)
        self.traffic.include(traffic)
        return StepResult(loss, norm, traffic)

    def follow_step(self, step: int, num_loss_tokens: int, labels_BT: Tensor | None) -> StepPart:
        """The part of a step up to its update that concerns the stages held here.

        Args:
            step: from 0.
            num_loss_tokens: of the whole batch, the divisor of the summed token loss.
            labels_BT: of all micro-batches, where the last stage is here.

        Raises:
            DivergedError: something is not finite; no stage held here was changed.
        """
        parts = [Given(None, None)] * self._num_micro_batches
        if labels_BT is not None:
            parts = [Given(None, rows) for rows in split_rows(labels_BT, self._num_micro_batches)]
        with blamed_on_the_base(self.stages, step):
            part = self._run_step(step, num_loss_tokens, parts)
        self.traffic.include(part.traffic)
        return part

    def update(self, norm: float, step: int) -> None:
        """Clip and apply the optimizers of the stages held here, with the fellows' gradients.

        Args:
            norm: over all stages.
            step: from 0.
        """
        with self.fellows.turn:
            for stage in self.stages.values():
                stage.clip(norm)
        mean = self.fellows.mean_gradients(step, gradients_of(self.stages))
        with self.fellows.turn:
            set_gradients(self.stages, mean)
            for stage in self.stages.values():
                stage.update(step)

    def _run_step(self, step: int, num_loss_tokens: int, parts: list[Given]) -> StepPart:
        self._sent = Traffic()
        runner = StepRunner(
            self.stages, self.num_stages, self.total_steps, self.inbox, self.fellows
        )
        loss = runner.run(step, num_loss_tokens, parts)
        norms: dict[int, float] = {}
        with self.fellows.turn:
            for stage in self.stages.values():
                norms |= stage.gradient_norms()
        return StepPart(loss, norms, self._sent)

    def _device(self) -> torch.device:
        return next(next(iter(self.stages.values())).model.parameters()).device

    def look(
        self,
        look: Look,
        input_ids_BT: Tensor,
        labels_BT: Tensor | None = None,
        *,
        lengths: tuple[int, ...],
        sample_ids: tuple[int, ...] = (),
        left_padded: bool = False,
        first_position: int = 0,
    ) -> Seen:
        """Forward through all stages, here and at the others, without training.

        Args:
            look: what is wanted of the logits.
            input_ids_BT: tokens; in a generation after its first look, the new ones only.
            labels_BT: where a loss is wanted.
            lengths: real tokens of each row, cached ones included.
        """
        self.others.look(look, labels_BT, self._boundary == "clean")
        context = TensorContext(
            role="activation",
            link=0,
            step=look.step,
            total_steps=self.total_steps,
            sample_ids=sample_ids,
            lengths=lengths,
            left_padded=left_padded,
            first_position=first_position,
            training=False,
        )
        parts = [self._look(look, input_ids_BT, labels_BT, context)]
        parts += self.others.looked()
        for part in parts:
            self.evaluation_traffic.include(part.traffic)
        (seen,) = (part.seen for part in parts if part.seen is not None)
        return seen

    def follow_look(self, look: Look, labels_BT: Tensor | None) -> LookPart:
        """The part of a look that concerns the stages held here.

        Args:
            look: what is wanted of the logits, where the last stage is here.
            labels_BT: where a loss is wanted and the last stage is here.
        """
        context = TensorContext(
            role="activation", link=0, step=look.step, total_steps=self.total_steps, training=False
        )
        part = self._look(look, None, labels_BT, context)
        self.evaluation_traffic.include(part.traffic)
        return part

    def _look(
        self,
        look: Look,
        input_ids_BT: Tensor | None,
        labels_BT: Tensor | None,
        context: TensorContext,
    ) -> LookPart:
        self._sent = Traffic()
        logits_BTV = self._logits(input_ids_BT, context, self._generations.caches(look.generation))
        seen = None if logits_BTV is None else seen_in(logits_BTV, look, labels_BT)
        return LookPart(seen, self._sent)

    def _logits(
        self, input_ids_BT: Tensor | None, context: TensorContext, caches: dict[int, Any] | None
    ) -> Tensor | None:
        """(B, T, V) where the last stage is here, else None."""
        logits_BTV: Tensor | None = None
        for index, stage in sorted(self.stages.items()):
            tokens = input_ids_BT if index == 0 else None
            knows_samples = input_ids_BT is not None
            cache = None if caches is None else caches[index]
            if self.inbox is not None and index and index - 1 not in self.stages:
                self.inbox.wait_any([Address(index - 1, "activation")])
            with self.fellows.turn:
                logits_BTV = stage.evaluate(tokens, context, cache, knows_samples=knows_samples)
        return logits_BTV

    @contextlib.contextmanager
    def generation(self) -> Iterator[int]:
        """A number for looks that go on from one another; their caches are freed in the end."""
        with self._generations.new() as number:
            yield number
        self.others.forget(number)

    def forget(self, generation: int) -> None:
        """Free the caches of a generation held here."""
        self._generations.forget(generation)

    @contextlib.contextmanager
    def boundary(self, boundary: Boundary) -> Iterator[None]:
        """Run with the quantizers in the path, or (``clean``) with lossless messages."""
        before = self._boundary
        self._set_boundary(boundary)
        try:
            yield
        finally:
            self._set_boundary(before)

    def _set_boundary(self, boundary: Boundary) -> None:
        self._boundary = boundary
        for stage in self.stages.values():
            for link in (stage.incoming, stage.outgoing):
                if link is not None:
                    link.set_clean(boundary == "clean")


def message_address(message: Message) -> Address:
    """The channel that a message belongs to."""
    return Address(message.context.link, message.context.role)
