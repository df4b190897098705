"""`Gathering`: where the clients of one server meet, so that their order of coming has no say.

A server has a copy of its stages for each client. At every update each hands in its gradients and
waits; when all that are present have, each applies the mean, summed in the clients' order, and the
copies are alike again. The same way the clients take the mean of their own weights. Who vanishes,
or lets the others wait for too long, is left out from then on, and who took part is told at every
change, so that a run can be repeated.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import Tensor

from amaqctl.engine.fellows import SharedState, Weights
from amaqctl.errors import AmaqError, TransportError
from amaqctl.party.turns import Turns
from amaqctl.party.turnstile import Turnstile

OnRoll = Callable[[int, Sequence[str], str], None]
"""Told from which step on (from 0) who takes part in the means, and why that changed."""
Drop = Callable[[AmaqError], None]
"""Ends every wait of one client's thread."""
_Key = tuple[str, int]
_GRADIENTS, _WEIGHTS = "gradients", "weights"


class Stage(StrEnum):
    """How far all together have come."""

    calling = "calling"
    running = "running"
    over = "over"


@dataclass
class _Meeting:
    """What those who came to one meeting brought."""

    began: float
    brought: dict[str, Any] = field(default_factory=dict)
    due: frozenset[str] | None = None  # when all have come: who still has to read it
    read: set[str] = field(default_factory=set)


class Gathering:
    """The clients of one run, each of them served by a thread. Every method may be called by any.

    Args:
        clients: names, in the order in which sums are taken.
        quorum: begin when so many have come.
        wait_seconds: longest that one lets the others wait at a meeting.
        max_steps: of the run; nobody joins at its end.
        turns: whose turn it is; None where all train at once.
        on_roll: told who takes part.
    """

    def __init__(
        self,
        clients: Sequence[str],
        quorum: int,
        wait_seconds: float,
        max_steps: int,
        on_roll: OnRoll,
        turns: Turns | None = None,
    ) -> None:
        self.turn = Turnstile()
        self.stage = Stage.calling
        self._clients, self._quorum = tuple(clients), quorum
        self._wait_seconds, self._max_steps, self._on_roll = wait_seconds, max_steps, on_roll
        self._turns = turns
        self._change = threading.Condition()
        self._present: dict[str, Drop] = {}
        self._steps: dict[str, frozenset[int]] = {}
        self._common: frozenset[int] = frozenset()
        self._meetings: dict[_Key, _Meeting] = {}
        self._joining: dict[str, Drop] = {}
        self._let_in: dict[str, tuple[int, Weights, SharedState]] = {}
        self._step = 0
        self._last_gradients = 0.0

    def arrive(self, name: str, saved: Sequence[int], drop: Drop) -> tuple[int, ...] | None:
        """Come to the roll call; waits until the run begins.

        Args:
            saved: steps that both the client and the server have of this client's run.

        Returns:
            Steps that all have; None where the others are at work already: `join` them.

        Raises:
            TransportError: the run is over.
        """
        with self._change:
            if self.stage is not Stage.calling:
                self._refuse_if_over()
                return None
            self._present[name] = drop
            self._steps[name] = frozenset(saved)
            if len(self._present) >= self._quorum:
                self.stage = Stage.running
                self._common = frozenset.intersection(*(self._steps[n] for n in self._present))
                self._step = max(self._common, default=0)
                self._tell("the run begins", self._step)
            self._change.notify_all()
            self._change.wait_for(lambda: self.stage is not Stage.calling)
            self._refuse_if_over()
            return tuple(sorted(self._common))

    def join(self, name: str, drop: Drop) -> tuple[int, Weights, SharedState]:
        """Wait for the next mean of the others' weights, and be one of them from there on.

        Returns:
            Steps that are done, the mean, and what the server's copies have alike.

        Raises:
            TransportError: the run ended before.
        """
        with self._change:
            self._refuse_if_over()
            self._joining[name] = drop
            self._change.wait_for(lambda: name in self._let_in or self.stage is Stage.over)
            self._joining.pop(name, None)
            if name not in self._let_in:
                self._refuse_if_over()
            return self._let_in.pop(name)

    def leave(self, name: str, why: str) -> None:
        """Be waited for no more. What was brought to a meeting counts."""
        with self._change:
            self._joining.pop(name, None)
            self._let_in.pop(name, None)
            if self._present.pop(name, None) is not None:
                if not self._present and self.stage is Stage.running:
                    self.stage = Stage.over
                # A last gradient that waits for the others counts still.
                is_one_more = name in self._brought(self._step)
                self._tell(f"{name} {why}", self._step + is_one_more)
            self._settle()
            self._forget_what_is_read()
            self._change.notify_all()

    def wait_over(self, seconds: float) -> bool:
        """Wait for the end of the run, ``seconds`` at most; whether it has come."""
        with self._change:
            return self._change.wait_for(lambda: self.stage is Stage.over, seconds)

    def stop(self) -> None:
        """End the run for all: this process was told to stop."""
        with self._change:
            self.stage = Stage.over
            self._change.notify_all()

    def mean_gradients(self, name: str, step: int, gradients: Weights) -> Weights:
        """Bring gradients of a step; their sum in the clients' order over who took part."""
        with self._change:
            brought = self._meet(name, (_GRADIENTS, step), gradients)
        with self.turn:
            return _mean([brought[who] for who in self._clients if who in brought])

    def mean_weights(
        self, name: str, step: int, weights: Weights, state: Callable[[], SharedState]
    ) -> tuple[Weights, SharedState | None]:
        """Bring a client's own weights; their mean, or those of whose turn it was.

        Who waits to join does so here.
        """
        trained = None if self._turns is None else self._turns.at(step - 1)
        own = state() if name == trained else None
        with self._change:
            met = self._meet(name, (_WEIGHTS, step), (weights, own))
        brought = {who: pair[0] for who, pair in met.items()}
        if trained in brought:
            mean, others = brought[trained], None if name == trained else met[trained][1]
        else:
            with self.turn:
                mean = _mean([brought[who] for who in self._clients if who in brought])
            others = None
        with self._change:
            for who, drop in self._joining.items():
                if who not in self._let_in and step < self._max_steps:
                    self._let_in[who] = (step, mean, others or own or state())
                    self._present[who] = drop
                    self._tell(f"{who} joins", step)
            self._change.notify_all()
        return mean, others

    def _meet(self, name: str, key: _Key, brought: Any) -> Mapping[str, Any]:
        """With the lock held: bring something, wait for all who are present, take all of it."""
        self._refuse_if_left_out(name)
        meeting = self._meetings.setdefault(key, _Meeting(time.monotonic()))
        meeting.brought[name] = brought
        self._settle()
        while meeting.due is None:
            self._refuse_if_over()
            self._refuse_if_left_out(name)
            # Where one has its turn, the others wait at its end from the turn's beginning.
            since = max(meeting.began, self._last_gradients)
            left = since + self._wait_seconds - time.monotonic()
            if left <= 0:
                self._leave_out(key, meeting)
            else:
                self._change.wait(left)
        meeting.read.add(name)
        self._forget_what_is_read()
        return meeting.brought

    def _settle(self) -> None:
        for key, meeting in self._meetings.items():
            if meeting.due is None and self._awaited(key) <= meeting.brought.keys():
                meeting.due = frozenset(meeting.brought)
                if key[0] == _GRADIENTS:
                    self._step, self._last_gradients = key[1] + 1, time.monotonic()
                self._change.notify_all()

    def _awaited(self, key: _Key) -> set[str]:
        """Who has to come to a meeting: all, or at a step's gradients whose turn it is."""
        if self._turns is None or key[0] != _GRADIENTS:
            return set(self._present)
        return self._present.keys() & {self._turns.at(key[1])}

    def _forget_what_is_read(self) -> None:
        for key, meeting in list(self._meetings.items()):
            if meeting.due is not None and meeting.due & self._present.keys() <= meeting.read:
                del self._meetings[key]

    def _leave_out(self, key: _Key, meeting: _Meeting) -> None:
        """Those who have not come in time."""
        for who in sorted(self._awaited(key) - meeting.brought.keys()):
            why = f"let the others wait for more than {self._wait_seconds:g} s at step {key[1]}"
            self._present.pop(who)(TransportError(why, where=f"party {who}"))
            self._tell(f"{who} {why}", self._step)
        self._settle()

    def _brought(self, step: int) -> Mapping[str, Any]:
        meeting = self._meetings.get((_GRADIENTS, step))
        return {} if meeting is None else meeting.brought

    def _tell(self, why: str, step: int) -> None:
        self._on_roll(step, [who for who in self._clients if who in self._present], why)

    def _refuse_if_left_out(self, name: str) -> None:
        if name not in self._present:
            raise TransportError("takes no part in this run", where=f"party {name}")

    def _refuse_if_over(self) -> None:
        if self.stage is Stage.over:
            raise TransportError("the run of the other clients is over", error_id="PEER-OVER")


class ClientFellows:
    """A gathering as the engine of one client sees it.

    Args:
        drop: ends every wait of the thread that serves this client.
    """

    def __init__(self, gathering: Gathering, name: str, drop: Drop) -> None:
        self.turn: contextlib.AbstractContextManager[object] = gathering.turn
        self.gathering, self.name, self._drop = gathering, name, drop

    def mean_gradients(self, step: int, gradients: Weights) -> Weights:
        """See `Gathering.mean_gradients`."""
        return self.gathering.mean_gradients(self.name, step, gradients)

    def mean_weights(
        self, step: int, weights: Weights, state: Callable[[], SharedState]
    ) -> tuple[Weights, SharedState | None]:
        """See `Gathering.mean_weights`."""
        return self.gathering.mean_weights(self.name, step, weights, state)

    def join(self) -> tuple[int, Weights, SharedState]:
        """See `Gathering.join`."""
        return self.gathering.join(self.name, self._drop)


def _mean(brought: Sequence[Weights]) -> dict[int, Tensor]:
    """Summed in the order given, over the number of givers; what nobody has is left out."""
    total: dict[int, Tensor] = {}
    for given in brought:
        for place, value in given.items():
            total[place] = total[place] + value if place in total else value.clone()
    return {place: value / len(brought) for place, value in total.items()}
