"""Which micro-batch a stage runs next: one pure function.

The order is 1F1B: a stage runs as many forwards as there are stages behind it, then alternates
one forward and one backward, so at most (stages behind it + 1) micro-batches are in flight. All
processes compute the same global order and run the part of it that concerns their own stages, so
two of them can never wait for each other while sends do not block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verb = Literal["forward", "backward"]


@dataclass(frozen=True)
class Action:
    """One stage runs one direction of one micro-batch."""

    verb: Verb
    stage: int
    micro_batch: int


def one_forward_one_backward(num_stages: int, num_micro_batches: int) -> list[Action]:
    """A global order of all actions in which everything comes after what it needs."""
    pending = [_of_stage(s, num_stages, num_micro_batches) for s in range(num_stages)]
    done: set[Action] = set()
    order: list[Action] = []
    while any(pending):
        # One clock tick: every stage runs its next action if what it needs was done before.
        tick = [queue[0] for queue in pending if queue and _is_ready(queue[0], num_stages, done)]
        assert tick, "the schedule is stuck"
        for action in tick:
            pending[action.stage].pop(0)
        done.update(tick)
        order.extend(tick)
    return order


def _of_stage(stage: int, num_stages: int, num_micro_batches: int) -> list[Action]:
    num_warmup = min(num_stages - 1 - stage, num_micro_batches)
    actions = [Action("forward", stage, m) for m in range(num_warmup)]
    for m in range(num_micro_batches - num_warmup):
        actions += [Action("forward", stage, num_warmup + m), Action("backward", stage, m)]
    actions += [
        Action("backward", stage, m)
        for m in range(num_micro_batches - num_warmup, num_micro_batches)
    ]
    return actions


def _is_ready(action: Action, num_stages: int, done: set[Action]) -> bool:
    neighbour = action.stage - 1 if action.verb == "forward" else action.stage + 1
    if not 0 <= neighbour < num_stages:
        return True
    return Action(action.verb, neighbour, action.micro_batch) in done
