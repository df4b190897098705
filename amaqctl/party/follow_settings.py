"""Numbers that a follower needs, in plain values."""

from __future__ import annotations

from dataclasses import dataclass

from amaqctl.party.weights import Shapes


@dataclass(frozen=True)
class FollowSettings:
    """Numbers that a follower needs.

    Args:
        place: stage at which orders come and from which replies go: its first.
        max_steps: of the run.
        vocab_size: V, above every label.
        max_note_bytes: longest legal order, labels included.
        due_step: from which the run goes on, where that is known here.
        client_shapes: of the weights that a client trains by itself; empty for the only client.
    """

    place: int
    max_steps: int
    vocab_size: int
    max_note_bytes: int
    client_shapes: Shapes
    due_step: int | None = None
