"""What came from the peers, by address: readers fill it, the engine takes out of it.

All waits of a session are here, and so is its one failure: when a peer is lost, tells an error or
breaks the rules, every wait ends at once. What had arrived before is still handed out.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence

from amaqctl.errors import AmaqError, TransportError, WireError
from amaqctl.transports.party_settings import MESSAGE_OVERHEAD_BYTES, TrafficLimits
from amaqctl.transports.route import Route
from amaqctl.transports.transport import Address


class Mailbox:
    """Queues by address, for one session. Every method may be called from any thread.

    Args:
        route: of the session; what comes at an address that is not the peer's is refused.
        limits: how much of each peer may lie unread.
        timeout_seconds: longest wait for a message while all peers are alive.
        bell: rung at each change. Mailboxes that share one can be waited for together.
    """

    def __init__(
        self,
        route: Route,
        limits: TrafficLimits,
        timeout_seconds: float,
        bell: threading.Condition | None = None,
    ) -> None:
        self.route = route
        self.limits = limits
        self.bell = bell or threading.Condition()
        self._timeout_seconds = timeout_seconds
        self._queues: dict[Address, deque[bytes]] = defaultdict(deque)
        self._held_bytes: Counter[str] = Counter()
        self._failure: AmaqError | None = None
        self._ended: dict[str, AmaqError] = {}

    @property
    def failure(self) -> AmaqError | None:
        """What ended the session, if anything did."""
        return self._failure

    def deliver(self, peer: str, address: Address, data: bytes) -> None:
        """Put down what came from ``peer``, or from this party itself.

        Raises:
            WireError: the address is not one at which ``peer`` sends to this party.
            TransportError: more of the peer lies unread than is agreed.
        """
        if address not in self.route.addresses or self.route.ends(address) != (
            peer,
            self.route.me,
        ):
            raise WireError(f"a message for {address}, which is not this peer's to send")
        with self.bell:
            held = self._held_bytes[peer] + _weight(data)
            if peer != self.route.me and held > self.limits.queue_bytes:
                raise TransportError(
                    f"sends more than may lie unread ({self.limits.queue_bytes} bytes)",
                    where=f"party {peer}",
                    error_id="PEER-FLOOD",
                )
            self._held_bytes[peer] = held
            self._queues[address].append(data)
            self.bell.notify_all()

    def fail(self, error: AmaqError) -> None:
        """End every wait, now and later, with ``error``; the first one given stays."""
        with self.bell:
            self._failure = self._failure or error
            self.bell.notify_all()

    def end(self, peer: str, error: AmaqError) -> None:
        """End, with ``error``, the waits that only ``peer`` could answer: it left in order."""
        with self.bell:
            self._ended.setdefault(peer, error)
            self.bell.notify_all()

    def has(self, address: Address) -> bool:
        """Whether a message of this address lies here; does not wait."""
        with self.bell:
            return bool(self._queues[address])

    def take(self, address: Address, timeout_seconds: float | None = None) -> bytes:
        """The oldest message of an address; waits for it.

        Args:
            timeout_seconds: longest wait; None means the session's.

        Raises:
            AmaqError: the session's failure, when nothing of this address lies here.
            TransportError: nothing came in time.
        """
        self.wait_any((address,), timeout_seconds)
        with self.bell:
            data = self._queues[address].popleft()
            self._held_bytes[self.route.ends(address)[0]] -= _weight(data)
        return data

    def peek(self, address: Address) -> bytes:
        """The oldest message of an address, which stays where it is; waits for it.

        Raises:
            AmaqError, TransportError: as `take`.
        """
        self.wait_any((address,))
        with self.bell:
            return self._queues[address][0]

    def wait_any(
        self, addresses: Sequence[Address], timeout_seconds: float | None = None
    ) -> Address:
        """The first of ``addresses`` at which a message lies; waits until there is one.

        Raises:
            AmaqError, TransportError: as `take`.
        """
        longest = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        end = time.monotonic() + longest
        with self.bell:
            while True:
                for address in addresses:
                    if self._queues[address]:
                        return address
                self._raise_if_over(addresses)
                left = end - time.monotonic()
                if left <= 0:
                    where = ", ".join(map(str, addresses))
                    raise TransportError(f"nothing came in {longest:g} s", where=where)
                self.bell.wait(left)

    def _raise_if_over(self, addresses: Sequence[Address]) -> None:
        if self._failure is not None:
            raise self._failure
        senders = {self.route.ends(address)[0] for address in addresses}
        if senders <= self._ended.keys():
            raise self._ended[min(senders)]


def _weight(data: bytes) -> int:
    return len(data) + MESSAGE_OVERHEAD_BYTES
