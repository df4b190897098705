"""How a party stands with one peer, told to whoever watches.

==========  =======================================================  ==========
state       what happens                                             next state
==========  =======================================================  ==========
waiting     a connection opens                                       connected
connected   the connection breaks, or is silent for too long         held
held        a connection opens                                       connected
held        the lease runs out, or the peer has started anew         lost
connected   both sides have said END                                 ended
held        the same, but for the receipt of our END                 ended
any         an abort comes or goes; the peer breaks the rules        failed
==========  =======================================================  ==========
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class ConnectionState(StrEnum):
    """From `waiting` on; `held` goes back to `connected`, the three after it stay."""

    waiting = "waiting"  # not there yet
    connected = "connected"
    held = "held"  # not heard of, within its lease
    ended = "ended"  # both sides have said that they are done
    lost = "lost"  # not heard of for longer than its lease, or started anew
    failed = "failed"  # it told an error, broke the rules, or refused this party
    refused = "refused"  # of somebody who was turned away; no session's state


@dataclass(frozen=True)
class PeerStatus:
    """A change of state.

    Args:
        peer: its party's name.
        state: what it is now.
        text: one line for people.
    """

    peer: str
    state: ConnectionState
    text: str


OnStatus = Callable[[PeerStatus], None]


def unwatched(status: PeerStatus) -> None:
    """Watch nothing."""


class Announcer:
    """Tells changes one at a time, in their order, after the lock under which they were made.

    Args:
        on_status: gets them; it may call back into what it is told of.
    """

    def __init__(self, on_status: OnStatus) -> None:
        self._on_status = on_status
        self._untold: deque[PeerStatus] = deque()
        self._lock = threading.RLock()

    def add(self, status: PeerStatus) -> None:
        """Remember a change; the next `tell` tells it."""
        self._untold.append(status)

    def tell(self) -> None:
        """Tell what is untold; to be called without a lock."""
        with self._lock:
            while self._untold:
                self._on_status(self._untold.popleft())
