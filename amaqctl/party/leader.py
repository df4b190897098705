"""The leader's side: what `amaqctl.engine.others.Others` asks for, said to every follower.

The party of stage 0 leads. Orders are sent to all followers before any reply is waited for, so
that parties work at the same time; a failure of one ends the waits of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from amaqctl.engine.fellows import Weights
from amaqctl.engine.look import Look, Seen
from amaqctl.engine.others import LookPart, StepPart
from amaqctl.engine.run_documents import TrafficSums
from amaqctl.engine.traffic import Traffic
from amaqctl.errors import WireError
from amaqctl.party.notes import (
    Average,
    Done,
    End,
    Forget,
    Join,
    Keep,
    Looked,
    LookNote,
    Mean,
    Note,
    NoteOf,
    Pass,
    Restore,
    Save,
    Stepped,
    Stop,
    Train,
    Update,
    note_from_bytes,
    note_to_bytes,
)
from amaqctl.party.turns import Turns
from amaqctl.party.weights import Shapes, weights_from_bytes, weights_to_bytes
from amaqctl.transports.route import Route
from amaqctl.transports.transport import ORDER, REPLY, Address, Transport


class Followers:
    """The other parties of a session, as its leader has them.

    Args:
        route: who holds what.
        transport: on which notes and tensors travel.
        max_note_bytes: longest reply that is legal.
        client_shapes: of the weights that are trained here.

    Attributes:
        has_other_clients: whether the server trains with other clients too; it says so.
        turns: which of them trains when; None where all do at once.
    """

    def __init__(
        self, route: Route, transport: Transport, max_note_bytes: int, client_shapes: Shapes
    ) -> None:
        self.has_other_clients = False
        self.turns: Turns | None = None
        self._me = route.me
        self._transport = transport
        self._max_note_bytes = max_note_bytes
        self._client_shapes = client_shapes
        # One place for each party: its first stage.
        firsts = {name: route.holders.index(name) for name in route.holders}
        self._stages = {name: stage for name, stage in firsts.items() if name != route.me}
        self._last_holder = route.holders[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the followers, in the order of their first stages."""
        return tuple(self._stages)

    def say(self, name: str, note: Note, labels_BT: Tensor | None = None) -> None:
        """Send one follower a note."""
        address = Address(self._stages[name], ORDER)
        self._transport.send(address, note_to_bytes(note, labels_BT))

    def hear(self, name: str, cls: type[NoteOf]) -> NoteOf:
        """The next reply of one follower; waits.

        Raises:
            WireError: it is another note than the one that is due.
            AmaqError: the follower failed or is lost.
        """
        data = self._transport.receive(Address(self._stages[name], REPLY))
        note, _ = note_from_bytes(data, self._max_note_bytes)
        if not isinstance(note, cls):
            raise WireError(f"'{note.kind}' where '{cls.kind}' was due", where=f"party {name}")
        return note

    def restore(self, step: int) -> None:
        """Have each go on from its checkpoint of ``step`` (0: the start); waits until all have."""
        self._say_to_all(Restore(step=step))
        self._hear_done(step)

    def train(self, step: int, labels_BT: Tensor, num_loss_tokens: int, is_clean: bool) -> None:
        """Begin a step; labels go to the holder of the last stage only."""
        note = Train(step=step, num_loss_tokens=num_loss_tokens, is_clean=is_clean)
        for name in self.names:
            self.say(name, note, labels_BT if name == self._last_holder else None)

    def trained(self) -> list[StepPart]:
        """What each made of it; waits."""
        return [_step_part(self.hear(name, Stepped)) for name in self.names]

    def update(self, norm: float) -> None:
        """End the step with the norm over all stages."""
        self._say_to_all(Update(norm=norm))

    def look(self, look: Look, labels_BT: Tensor | None, is_clean: bool) -> None:
        """Begin a forward without training."""
        note = LookNote(
            step=look.step,
            generation=look.generation,
            wants_loss=look.wants_loss,
            choices=look.choices,
            choice_positions=look.choice_positions,
            wants_next=look.wants_next,
            is_clean=is_clean,
        )
        for name in self.names:
            self.say(name, note, labels_BT if name == self._last_holder else None)

    def looked(self) -> list[LookPart]:
        """What each saw; waits."""
        return [_look_part(self.hear(name, Looked)) for name in self.names]

    def forget(self, generation: int) -> None:
        """A generation is over: its caches may go."""
        self._say_to_all(Forget(generation=generation))

    def takes_turn(self, step: int) -> bool:
        """Whether this party trains at ``step``; where it does not, the others are told."""
        if self.turns is None or self.turns.at(step) == self._me:
            return True
        self._say_to_all(Pass(step=step))
        return False

    def average(self, step: int, weights: Weights) -> tuple[Weights, int]:
        """The mean of ``weights``, after ``step`` steps, and those of other clients; waits."""
        (server,) = self.names
        data = weights_to_bytes(weights)
        self.say(server, Average(step=step))
        self._transport.send(Address(self._stages[server], ORDER), data)
        done, mean, num_bytes = self._hear_mean(server)
        if done != step:
            raise WireError(f"a mean of step {done}, not {step}", where=f"party {server}")
        return mean, len(data) + num_bytes

    def join(self) -> tuple[int, Weights]:
        """Enter a run of other clients; steps done, and the mean of their weights. Waits."""
        (server,) = self.names
        self.say(server, Join())
        step, mean, _ = self._hear_mean(server)
        return step, mean

    def _hear_mean(self, server: str) -> tuple[int, Weights, int]:
        step = self.hear(server, Mean).step
        data = self._transport.receive(Address(self._stages[server], REPLY))
        return step, weights_from_bytes(data, self._client_shapes), len(data)

    def save(self, step: int) -> None:
        """Have each write its checkpoint; waits until all are on their disks."""
        self._say_to_all(Save(step=step))
        self._hear_done(step)

    def keep(self, steps: Sequence[int]) -> None:
        """Have each drop its checkpoints but those of ``steps``."""
        self._say_to_all(Keep(steps=tuple(steps)))

    def end(self, step: int) -> None:
        """Have each write its outcome; waits until all are on their disks."""
        self._say_to_all(End(step=step))
        self._hear_done(step)

    def stop(self, text: str) -> None:
        """Tell each that the leader stops in order before the end."""
        self._say_to_all(Stop(text=text[:1000]))

    def _say_to_all(self, note: Note) -> None:
        for name in self.names:
            self.say(name, note)

    def _hear_done(self, step: int) -> None:
        for name in self.names:
            done = self.hear(name, Done)
            if done.step != step:
                raise WireError(f"done with step {done.step}, not {step}", where=f"party {name}")


def _step_part(note: Stepped) -> StepPart:
    return StepPart(note.loss, dict(note.norms), _traffic(note.traffic))


def _look_part(note: Looked) -> LookPart:
    seen = None
    if note.loss is not None:
        seen = Seen(note.loss, note.choices or (), note.next_tokens or ())
    return LookPart(seen, _traffic(note.traffic))


def _traffic(sums: TrafficSums) -> Traffic:
    return Traffic.from_plain({place: dict(channel) for place, channel in sums.items()})
