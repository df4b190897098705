"""How far a follower has come, and what its leader may say then.

=======================  ==========  =======================
state                    note        next state
=======================  ==========  =======================
connected                greeting    agreed
agreed                   restore     ready
agreed                   join        ready
ready                    train       waiting for the update
waiting for the update   update      ready
ready                    look        ready
ready                    forget      ready
ready                    pass        ready
ready                    average     ready
ready                    save        ready
ready                    keep        ready
ready                    end         ended
any but ended            stop        stopped
=======================  ==========  =======================

Whether the connection stands is the transport's business (`amaqctl.transports.connection_state`):
while it is held nothing here changes, and a lost or failed peer ends every wait.
"""

from __future__ import annotations

from enum import StrEnum

from amaqctl.errors import WireError
from amaqctl.party.notes import Note


class PartyState(StrEnum):
    """Of a follower; the leader's is the place in its program."""

    connected = "connected"
    agreed = "agreed"
    ready = "ready"
    waiting_for_update = "waiting for the update"
    ended = "ended"
    stopped = "stopped"


TRANSITIONS: dict[tuple[PartyState, str], PartyState] = {
    (PartyState.connected, "greeting"): PartyState.agreed,
    (PartyState.agreed, "restore"): PartyState.ready,
    (PartyState.agreed, "join"): PartyState.ready,
    (PartyState.ready, "train"): PartyState.waiting_for_update,
    (PartyState.waiting_for_update, "update"): PartyState.ready,
    (PartyState.ready, "look"): PartyState.ready,
    (PartyState.ready, "forget"): PartyState.ready,
    (PartyState.ready, "pass"): PartyState.ready,
    (PartyState.ready, "average"): PartyState.ready,
    (PartyState.ready, "save"): PartyState.ready,
    (PartyState.ready, "keep"): PartyState.ready,
    (PartyState.ready, "end"): PartyState.ended,
    (PartyState.connected, "stop"): PartyState.stopped,
    (PartyState.agreed, "stop"): PartyState.stopped,
    (PartyState.ready, "stop"): PartyState.stopped,
    (PartyState.waiting_for_update, "stop"): PartyState.stopped,
}


def after(state: PartyState, note: Note) -> PartyState:
    """The state after a note.

    Raises:
        WireError: it is out of turn; the state stays.
    """
    try:
        return TRANSITIONS[state, note.kind]
    except KeyError:
        raise WireError(f"'{note.kind}' out of turn: this party is {state}") from None
