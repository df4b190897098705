"""Who else takes part: what the party with the data has the others do, beside the messages.

In one process nobody does. With stages in other processes the leader's orders and the replies go
this way; see `amaqctl.party`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from amaqctl.engine.fellows import Weights
from amaqctl.engine.look import Look, Seen
from amaqctl.engine.traffic import Traffic
from amaqctl.transports.transport import Address


@dataclass(frozen=True)
class StepPart:
    """What the stages of one party made of a step before the update.

    Args:
        loss: mean in nats a loss-carrying token of the batch; 0 where the last stage is elsewhere.
        norms: L2 norm of each LoRA gradient, by place of the parameter in the whole model.
        traffic: what this party sent.
    """

    loss: float
    norms: dict[int, float]
    traffic: Traffic


@dataclass(frozen=True)
class LookPart:
    """What one party saw, and what it sent. ``seen`` is None where the last stage is elsewhere."""

    seen: Seen | None
    traffic: Traffic


class Others(Protocol):
    """The other parties, as the leader has them follow. An order does not wait.

    Every method raises an `AmaqError` when a party is lost or has failed.

    Attributes:
        has_other_clients: whether the server trains with other clients too.
    """

    has_other_clients: bool

    def restore(self, step: int) -> None:
        """Have each go on from its checkpoint of ``step`` (0: the start); waits until all have."""

    def train(self, step: int, labels_BT: Tensor, num_loss_tokens: int, is_clean: bool) -> None:
        """Begin a step; labels go to the holder of the last stage only."""

    def trained(self) -> list[StepPart]:
        """What each made of it; waits."""

    def update(self, norm: float) -> None:
        """End the step with the norm over all stages."""

    def look(self, look: Look, labels_BT: Tensor | None, is_clean: bool) -> None:
        """Begin a forward without training."""

    def looked(self) -> list[LookPart]:
        """What each saw; waits."""

    def forget(self, generation: int) -> None:
        """A generation is over: its caches may go."""

    def takes_turn(self, step: int) -> bool:
        """Whether this party trains at ``step``; where it does not, the others are told."""

    def average(self, step: int, weights: Weights) -> tuple[Weights, int]:
        """The mean of ``weights``, after ``step`` steps, and those of other clients; waits.

        Returns:
            The mean, and the bytes that went there and back.
        """

    def join(self) -> tuple[int, Weights]:
        """Enter a run of other clients; steps done, and the mean of their weights. Waits."""

    def save(self, step: int) -> None:
        """Have each write its checkpoint; waits until all are on their disks."""

    def keep(self, steps: Sequence[int]) -> None:
        """Have each drop its checkpoints but those of ``steps``."""

    def end(self, step: int) -> None:
        """Have each write its outcome; waits until all are on their disks."""


class Nobody:
    """All stages are in this process."""

    has_other_clients = False

    def restore(self, step: int) -> None:
        """There is nobody to tell."""

    def train(self, step: int, labels_BT: Tensor, num_loss_tokens: int, is_clean: bool) -> None:
        """There is nobody to tell."""

    def trained(self) -> list[StepPart]:
        """Nothing is done elsewhere."""
        return []

    def update(self, norm: float) -> None:
        """There is nobody to tell."""

    def look(self, look: Look, labels_BT: Tensor | None, is_clean: bool) -> None:
        """There is nobody to tell."""

    def looked(self) -> list[LookPart]:
        """Nothing is seen elsewhere."""
        return []

    def forget(self, generation: int) -> None:
        """There is nobody to tell."""

    def takes_turn(self, step: int) -> bool:
        """Always: there is nobody else."""
        return True

    def average(self, step: int, weights: Weights) -> tuple[Weights, int]:
        """The weights themselves."""
        return weights, 0

    def join(self) -> tuple[int, Weights]:
        """There is nobody to join."""
        raise AssertionError("a run in one process is begun, not joined")

    def save(self, step: int) -> None:
        """There is nobody to tell."""

    def keep(self, steps: Sequence[int]) -> None:
        """There is nobody to tell."""

    def end(self, step: int) -> None:
        """There is nobody to tell."""


class Inbox(Protocol):
    """Where messages from other processes lie, by address. A joining transport is one."""

    def poll(self, address: Address) -> bool:
        """Whether a message of this address lies there; does not wait."""

    def wait_any(self, addresses: Sequence[Address]) -> Address:
        """The first of ``addresses`` that has a message; waits until one has.

        Raises:
            AmaqError: none will come.
        """
