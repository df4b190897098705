"""The verbs that every transport between machines has, over a mailbox and one peer a party.

`distributed` and `grpc` differ in what a `Peer` is; parties and engine see only what is here.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from typing import Protocol

from amaqctl.errors import AmaqError, TransportError
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.party_settings import TrafficLimits
from amaqctl.transports.transport import Address


class Peer(Protocol):
    """The way to one other party. What comes from there goes into the session's mailbox."""

    def send(self, address: Address, data: bytes) -> None:
        """Take over one byte string; does not wait for the other end.

        Raises:
            TransportError: the peer is gone, or acknowledges nothing.
        """

    def abort(self, text: str) -> None:
        """Tell the peer, once, that this party failed and why; nothing is sent afterwards."""

    def close(self) -> None:
        """Say that all is sent, and wait, never long, until both sides know it of each other."""


class RoutedTransport:
    """A transport of a session of several parties, each of them a process.

    Beside the two verbs of `Transport`: look and wait at many addresses, fail, abort, close.
    A program that ends without `close` fails to its peers; a killed one is lost to them.
    """

    is_local = False

    def __init__(self, mailbox: Mailbox, peers: Mapping[str, Peer]) -> None:
        self.route = mailbox.route
        self.mailbox = mailbox
        self._peers = dict(peers)
        self._is_over = False

    def allow(self, limits: TrafficLimits) -> None:
        """From now on expect messages of these sizes: what the parties agreed on.

        A party that learns the sizes from its peer calls this before it answers.
        """
        self.mailbox.limits = limits

    def send(self, address: Address, data: bytes) -> None:
        """Hand over one byte string; does not wait for the other end.

        Raises:
            TransportError: the peer is gone, or this is not the party that sends there.
            AmaqError: the session has failed before.
        """
        if self.mailbox.failure is not None:
            raise self.mailbox.failure
        sender, receiver = self.route.ends(address)
        if sender != self.route.me:
            raise TransportError(f"it is {sender} that sends there", where=str(address))
        if len(data) > self.mailbox.limits.max_message_bytes:
            raise TransportError(
                f"a message of {len(data)} bytes where "
                f"{self.mailbox.limits.max_message_bytes} are agreed",
                where=str(address),
            )
        if receiver == self.route.me:
            self.mailbox.deliver(receiver, address, data)
        else:
            self._peers[receiver].send(address, data)

    def receive(self, address: Address, timeout_seconds: float | None = None) -> bytes:
        """The next byte string of this address; waits for it.

        Raises:
            AmaqError: none will come, because a peer is lost, has ended or told an error; or none
                came in ``timeout_seconds`` (None: the transport's own).
        """
        return self.mailbox.take(address, timeout_seconds)

    def peek(self, address: Address) -> bytes:
        """What `receive` will return, without taking it; waits for it.

        Raises:
            AmaqError: as `receive`.
        """
        return self.mailbox.peek(address)

    def poll(self, address: Address) -> bool:
        """Whether `receive` would return at once."""
        return self.mailbox.has(address)

    def wait_any(
        self, addresses: Sequence[Address], timeout_seconds: float | None = None
    ) -> Address:
        """The first of ``addresses``, in their order, that has a message; waits until one has.

        Raises:
            AmaqError: as `receive`.
        """
        return self.mailbox.wait_any(addresses, timeout_seconds)

    def fail(self, error: AmaqError) -> None:
        """End every wait of this process with ``error``; the peers hear of it by `close`."""
        self.mailbox.fail(error)

    def abort(self, error: AmaqError) -> None:
        """Tell every peer that this party failed and why, then end every wait here too.

        Peers raise it as `TransportError` with ``error_id`` ``PEER-FAILED``. Call `close` next.
        """
        for peer in self._peers.values():
            peer.abort(str(error))
        self.mailbox.fail(error)

    def close(self) -> None:
        """End the session, or what is left of it; never hangs, and what was sent is not lost.

        After a failure the peers are told that instead of an end. Never raises, and does nothing
        the second time.
        """
        if self._is_over:
            return
        self._is_over = True
        atexit.unregister(self._leave)
        failure = self.mailbox.failure
        for peer in self._peers.values() if failure is not None else ():
            peer.abort(str(failure))
        for peer in self._peers.values():
            peer.close()
        self._release()

    def _opened(self) -> None:
        """To be called by who has opened all that `_release` gives back."""
        atexit.register(self._leave)

    def _leave(self) -> None:
        self.fail(TransportError("its program ended without closing the session"))
        self.close()

    def _release(self) -> None:
        """Give back what the peers shared: ports, threads, process groups."""
