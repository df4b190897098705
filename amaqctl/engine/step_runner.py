"""`StepRunner`: the forwards and backwards of one step, of the stages that one engine holds.

It asks the schedule what can run and runs it; what a stage held elsewhere sends is waited for in
one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amaqctl.engine.fellows import Fellows
from amaqctl.engine.others import Inbox
from amaqctl.engine.schedule import Action, Turns, fed_by
from amaqctl.engine.stage import Given, Stage
from amaqctl.quantizer import TensorContext


class StepRunner:
    """Runs all micro-batches of a step, both ways.

    Args:
        stages: by index in the whole model.
        num_stages: of the whole model.
        total_steps: of the run, told to quantizers with schedules.
        inbox: what stages held elsewhere send; None in one process.
        fellows: whose turn it is to compute.
    """

    def __init__(
        self,
        stages: Mapping[int, Stage],
        num_stages: int,
        total_steps: int,
        inbox: Inbox | None,
        fellows: Fellows,
    ) -> None:
        self._stages, self._num_stages, self._total_steps = stages, num_stages, total_steps
        self._inbox, self._fellows = inbox, fellows

    def run(self, step: int, num_loss_tokens: int, parts: Sequence[Given]) -> float:
        """All of a step but its update.

        Args:
            step: from 0.
            num_loss_tokens: of the whole batch, the divisor of the summed token loss.
            parts: what is known of each micro-batch.

        Returns:
            The loss where the last stage is here, else 0.
        """
        loss = 0.0
        turns = Turns(tuple(self._stages), self._num_stages, len(parts))
        while not turns.are_over:
            ready = turns.ready(self._has_come)
            for action in ready:
                with self._fellows.turn:
                    loss += self._run(action, parts[action.micro_batch], step, num_loss_tokens)
                turns.done(action)
            if not ready:
                assert self._inbox is not None, "the schedule is stuck"
                self._inbox.wait_any([fed_by(action) for action in turns.awaited()])
        return loss

    def _has_come(self, action: Action) -> bool:
        return self._inbox is not None and self._inbox.poll(fed_by(action))

    def _run(self, action: Action, given: Given, step: int, num_loss_tokens: int) -> float:
        stage = self._stages[action.stage]
        if action.verb == "backward":
            stage.backward(action.micro_batch)
            return 0.0
        context = TensorContext(
            role="activation",
            link=0,
            step=step,
            total_steps=self._total_steps,
            micro_batch=action.micro_batch,
            sample_ids=given.batch.sample_ids if given.batch else (),
            lengths=given.batch.lengths if given.batch else (),
        )
        return stage.forward(given, context, num_loss_tokens) or 0.0
