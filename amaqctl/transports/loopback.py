"""`loopback`: both ends in one process. Real bytes, no network."""

from __future__ import annotations

from collections import defaultdict, deque

from pydantic import BaseModel, ConfigDict

from amaqctl.errors import TransportError
from amaqctl.transports.transport import Address


class LoopbackTransport:
    """A queue for each address."""

    class Config(BaseModel):
        """`loopback` has no options."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    is_local = True

    def __init__(self, config: LoopbackTransport.Config) -> None:
        self.config = config
        self._queues: dict[Address, deque[bytes]] = defaultdict(deque)

    def send(self, address: Address, data: bytes) -> None:
        """Append to the address's queue."""
        self._queues[address].append(data)

    def receive(self, address: Address) -> bytes:
        """Take the oldest byte string of the address.

        Raises:
            TransportError: nothing was sent; in one process nothing will come any more.
        """
        if not self._queues[address]:
            raise TransportError("nothing was sent", where=f"link {address.link} {address.role}")
        return self._queues[address].popleft()
