"""`Engine`: the stages this process holds, and the one loop over them.

The loop asks the schedule what comes next and runs the part of it that concerns its own stages;
`receive` waits for what others send. With all stages in one process nothing differs but that the
messages come from next door.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from amaqctl.engine.gradient_norm import total_norm
from amaqctl.engine.schedule import Action, one_forward_one_backward
from amaqctl.engine.stage import Stage
from amaqctl.engine.traffic import Traffic
from amaqctl.engine.untrained import blamed_on_the_base
from amaqctl.errors import InputError
from amaqctl.quantizer import TensorContext
from amaqctl.tasks.batch import Batch, split_batch
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
        self._num_micro_batches = num_micro_batches
        self._order = one_forward_one_backward(num_stages, num_micro_batches)
        self._step_traffic = Traffic()

    def on_sent(self, message: Message, sizes: SizeBreakdown) -> None:
        """Count a message of one of our channels, and show it to the listeners."""
        ledger = self._step_traffic if message.context.training else self.evaluation_traffic
        codes = message.quantized.codes
        channel = ledger.channels[message_address(message)]
        allocation = None if codes is None else codes.allocation
        channel.add(sizes, message.quantized.num_values, allocation)
        for listener in self.listeners:
            listener(message)

    def train_step(self, batch: Batch, step: int) -> StepResult:
        """One optimizer step.

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
        parts = split_batch(batch, self._num_micro_batches)
        self._step_traffic = Traffic()
        loss = 0.0
        with blamed_on_the_base(self.stages, step):
            for action in self._order:
                if action.stage in self.stages:
                    part = parts[action.micro_batch]
                    loss += self._run(action, part, step, batch.num_loss_tokens)
            norm = self._gradient_norm(step)
        for stage in self.stages.values():
            stage.update(norm, step)
        self.traffic.include(self._step_traffic)
        return StepResult(loss, norm, self._step_traffic)

    def _gradient_norm(self, step: int) -> float:
        norms: dict[int, float] = {}
        for stage in self.stages.values():
            norms |= stage.gradient_norms()
        first = next(iter(self.stages.values()))
        return total_norm(norms, step, next(first.model.parameters()).device)

    def _run(self, action: Action, part: Batch, step: int, num_loss_tokens: int) -> float:
        stage = self.stages[action.stage]
        if action.verb == "backward":
            stage.backward(action.micro_batch)
            return 0.0
        context = TensorContext(
            role="activation",
            link=0,
            step=step,
            total_steps=self.total_steps,
            micro_batch=action.micro_batch,
            sample_ids=part.sample_ids,
            lengths=part.lengths,
        )
        return stage.forward(part, context, num_loss_tokens) or 0.0

    def logits(
        self,
        input_ids_BT: Tensor,
        *,
        step: int,
        lengths: tuple[int, ...],
        sample_ids: tuple[int, ...] = (),
        left_padded: bool = False,
        first_position: int = 0,
        caches: dict[int, Any] | None = None,
    ) -> Tensor:
        """Forward through all stages without training.

        Args:
            input_ids_BT: tokens; with caches, the new ones only.
            step: steps trained so far.
            lengths: real tokens of each row, cached ones included.
            caches: from `new_caches`, for cached generation.

        Returns:
            (B, T, V), of the last stage.
        """
        context = TensorContext(
            role="activation",
            link=0,
            step=step,
            total_steps=self.total_steps,
            sample_ids=sample_ids,
            lengths=lengths,
            left_padded=left_padded,
            first_position=first_position,
            training=False,
        )
        output: Tensor | None = None
        for index, stage in sorted(self.stages.items()):
            tokens = input_ids_BT if index == 0 else None
            output = stage.evaluate(tokens, context, None if caches is None else caches[index])
        assert output is not None, "the last stage is not held here"
        return output

    def new_caches(self) -> dict[int, Any]:
        """An empty key-value cache for each stage."""
        return {index: stage.model.new_cache() for index, stage in self.stages.items()}

    @contextlib.contextmanager
    def boundary(self, boundary: Boundary) -> Iterator[None]:
        """Run with the quantizers in the path, or (``clean``) with lossless messages."""
        links = [s.outgoing for s in self.stages.values() if s.outgoing] + [
            s.incoming for s in self.stages.values() if s.incoming
        ]
        before = [link.activations.is_clean for link in links]
        for link in links:
            link.set_clean(boundary == "clean")
        try:
            yield
        finally:
            for link, was_clean in zip(links, before, strict=True):
                link.set_clean(was_clean)


def message_address(message: Message) -> Any:
    """The channel that a message belongs to."""
    from amaqctl.transports.transport import Address

    return Address(message.context.link, message.context.role)
