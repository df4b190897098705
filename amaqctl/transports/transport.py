"""What a transport is: two verbs over addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, order=True)
class Address:
    """One direction of one cut."""

    link: int
    role: str


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
