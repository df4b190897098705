"""What a transport is: two verbs over addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# The two directions of a cut, and the two of control between the leader and a stage's holder.
ACTIVATION, GRADIENT, ORDER, REPLY = "activation", "gradient", "order", "reply"
ROLES = (ACTIVATION, GRADIENT, ORDER, REPLY)


@dataclass(frozen=True, order=True)
class Address:
    """One direction between two stages.

    Args:
        link: number of the cut for ``activation`` and ``gradient``; for ``order`` and ``reply``
            the number of the stage whose holder obeys and answers.
        role: ``activation`` forward over a cut, ``gradient`` back over it, ``order`` from the
            holder of stage 0 to that of stage ``link``, ``reply`` back.
    """

    link: int
    role: str

    def __str__(self) -> str:
        what = "stage" if self.role in (ORDER, REPLY) else "link"
        return f"{what} {self.link} {self.role}"


class Transport(Protocol):
    """Moves whole byte strings, in order, each address apart.

    Attributes:
        is_local: both ends are in this process, so that there is no peer to be blamed.
    """

    is_local: bool

    def send(self, address: Address, data: bytes) -> None:
        """Hand over one byte string; does not wait for the other end.

        Raises:
            TransportError: it cannot be delivered.
        """

    def receive(self, address: Address) -> bytes:
        """The next byte string of this address; waits for it.

        Raises:
            TransportError: none will come.
        """
