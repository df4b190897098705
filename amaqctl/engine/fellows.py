"""Engines of one process that train one model with the data of several clients.

A server of several clients has an engine for each: adapter, optimizer, quantizers, caches and
graphs of its own, over one frozen base. They stay alike because each of them applies, at every
update, the mean of all their gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from amaqctl.errors import WireError

Weights = Mapping[int, Tensor]
"""Trained weights, or their gradients, by place in the whole model."""


@dataclass(frozen=True)
class SharedState:
    """What engines of one model have alike between two updates.

    Args:
        weights: trained ones.
        optimizer: what the optimizer remembers of each, by place.
    """

    weights: Weights
    optimizer: Mapping[int, Mapping[str, Tensor]]


class Fellows(Protocol):
    """The other engines of this process, as one of them sees them.

    Attributes:
        turn: held while this engine computes, never while it waits for a message.
    """

    turn: contextlib.AbstractContextManager[object]

    def mean_gradients(self, step: int, gradients: Weights) -> Weights:
        """Hand in this engine's gradients of a step; the mean over all that took part. Waits."""

    def mean_weights(
        self, step: int, weights: Weights, state: Callable[[], SharedState]
    ) -> tuple[Weights, SharedState | None]:
        """Hand in a client's own weights after ``step`` steps; the mean over all clients. Waits.

        Args:
            state: of this engine, for a client that joins here.

        Returns:
            The mean; and, where another one had its turn, the state to go on with.
        """

    def join(self) -> tuple[int, Weights, SharedState]:
        """Enter the run of others at their next mean; steps done, the mean, their state. Waits."""


class Alone:
    """There are no others."""

    turn: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def mean_gradients(self, step: int, gradients: Weights) -> Weights:
        """The gradients themselves."""
        return gradients

    def mean_weights(
        self, step: int, weights: Weights, state: Callable[[], SharedState]
    ) -> tuple[Weights, SharedState | None]:
        """The weights themselves."""
        return weights, None

    def join(self) -> tuple[int, Weights, SharedState]:
        """There is no run of others."""
        raise WireError("'join' where nobody is at work")
