"""What the stages held here run next: pure bookkeeping, tested on paper.

A stage runs a forward if one has been fed to it and it may have one more micro-batch in flight,
else a backward if one has been fed to it. Where all stages are in one process and each may have as
many in flight as there are stages from it to the end, that is 1F1B. Where stages are elsewhere each
may have more: then a party with two stages (the U shape) runs whichever has its message, and the
wire is never idle because one of them waits.

Micro-batches pass each stage in their order, forward and backward, so sums of gradients, sequence
numbers and the states of quantizers are the same whatever comes first. The oldest micro-batch in
flight at a stage is the newest that is due behind it, so nobody waits for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from amaqctl.transports.transport import Address

Verb = Literal["forward", "backward"]


@dataclass(frozen=True)
class Action:
    """One stage runs one direction of one micro-batch."""

    verb: Verb
    stage: int
    micro_batch: int


class Turns:
    """One step, as the stages of one process see it.

    Args:
        held: stages of this process.
        num_stages: of the whole model.
        num_micro_batches: of the step.
    """

    def __init__(self, held: Sequence[int], num_stages: int, num_micro_batches: int) -> None:
        self._held = sorted(held)
        self._num_stages = num_stages
        self._num_micro_batches = num_micro_batches
        # While bytes travel, one more for each stage keeps everybody busy.
        self._spare = 0 if len(held) == num_stages else num_stages
        self._num_done: dict[tuple[Verb, int], int] = {
            (verb, stage): 0 for verb in ("forward", "backward") for stage in held
        }

    @property
    def are_over(self) -> bool:
        """Whether every micro-batch has passed every stage, both ways."""
        return all(number == self._num_micro_batches for number in self._num_done.values())

    def ready(self, has_come: Callable[[Action], bool]) -> list[Action]:
        """What can run now: one action at most for each stage, by stage.

        Args:
            has_come: whether the message of an action has come from another process.
        """
        found: list[Action] = []
        for stage in self._held:
            fed = (a for a in self._next_of(stage) if self._is_fed(a, has_come))
            found += itertools.islice(fed, 1)
        return found

    def awaited(self) -> list[Action]:
        """What could run if its message came from another process."""
        candidates = (action for stage in self._held for action in self._next_of(stage))
        return [a for a in candidates if not self._is_fed(a, lambda _: False)]

    def done(self, action: Action) -> None:
        """An action that was ready has been run."""
        assert action.micro_batch == self._num_done[action.verb, action.stage]
        self._num_done[action.verb, action.stage] += 1

    def _next_of(self, stage: int) -> list[Action]:
        forwards, backwards = self._num_done["forward", stage], self._num_done["backward", stage]
        most = self._num_stages - stage + self._spare
        found: list[Action] = []
        if forwards < self._num_micro_batches and forwards - backwards < most:
            found.append(Action("forward", stage, forwards))
        if backwards < forwards:
            found.append(Action("backward", stage, backwards))
        return found

    def _is_fed(self, action: Action, has_come: Callable[[Action], bool]) -> bool:
        neighbour = action.stage - 1 if action.verb == "forward" else action.stage + 1
        if not 0 <= neighbour < self._num_stages:
            return True
        if neighbour in self._held:
            return self._num_done[action.verb, neighbour] > action.micro_batch
        return has_come(action)


def fed_by(action: Action) -> Address:
    """The channel through which an action's message comes from another stage."""
    if action.verb == "forward":
        return Address(action.stage - 1, "activation")
    return Address(action.stage, "gradient")
