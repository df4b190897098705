"""`Session`: one peer over any number of connections, none of which need last.

Frames are kept until the peer says that it has them, and sent again over the next connection. A
connection is a number here; whoever carries frames asks with it, and hears when it is superseded.
The states are those of `connection_state`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from amaqctl.errors import PeerError, TransportError
from amaqctl.transports.connection_state import Announcer, ConnectionState, OnStatus, PeerStatus
from amaqctl.transports.frames import Frame, Kind, reason, shown_reason
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.numbering import Incoming, Outgoing
from amaqctl.transports.patience import Patience
from amaqctl.transports.transport import Address

State = ConnectionState
_FAREWELL_SECONDS = 2.0  # for a last word to a peer after a failure
_BEAT = Frame(Kind.BEAT)


class Session:
    """What one party and its peer have said to each other. Every method is thread-safe.

    Args:
        peer: its name.
        mailbox: gets what it sends, and its failure.
        patience: of this party.
        on_status: told every change of state, one at a time; it may call back.
        has_one_connection: no other will ever be made, so that silence does not end it.
    """

    def __init__(
        self,
        peer: str,
        mailbox: Mailbox,
        patience: Patience,
        on_status: OnStatus,
        *,
        has_one_connection: bool = False,
    ) -> None:
        self.peer = peer
        self.patience = patience
        self.state = State.waiting
        self._mailbox = mailbox
        self._announcer = Announcer(on_status)
        self._has_one_connection = has_one_connection
        self._change = threading.Condition()
        self._outgoing = Outgoing()
        self._incoming = Incoming(lambda: mailbox.limits.max_message_bytes)
        self._connection = 0
        self._is_open = False
        self._position = 0
        self._since = time.monotonic()  # the last sign of life, or the end of the last connection
        self._unreported_bytes = 0  # received since the last frame that acknowledged
        self._has_said_end = self._has_heard_end = self._has_last_word = False

    @property
    def is_over(self) -> bool:
        """Whether the state is one that stays."""
        return self.state in (State.ended, State.lost, State.failed)

    @property
    def wants_connection(self) -> bool:
        """Whether there is anything that a new connection could carry."""
        return not self.is_over or self._has_last_word

    # What the party does: the verbs of `Peer`.

    def send(self, address: Address, data: bytes) -> None:
        """Number a message and let the connection, now or later, have it.

        Raises:
            TransportError: the peer is gone, or acknowledges nothing.
        """
        with self._change:
            if self.is_over or self._has_heard_end or self._has_said_end:
                raise TransportError(f"is {self.state}, nothing can be sent", where=self._place)
            try:
                self._outgoing.add_message(address, data, 2 * self._mailbox.limits.queue_bytes)
            except TransportError as error:
                error.where = self._place
                raise
            self._change.notify_all()

    def abort(self, text: str) -> None:
        """Tell the peer why this party fails; the last frame of this session."""
        with self._change:
            if not self.is_over:
                self._say_last_word(text)
                self._become(State.failed, f"told that this party failed: {text}")
        self._announcer.tell()

    def close(self) -> None:
        """Say END and wait until both sides have: at most the lease, after a failure 2 s."""
        with self._change:
            if self.state is State.waiting and self._outgoing.is_empty:
                self._become(State.ended, "did not come before this party left")
            elif not self.is_over:
                self._outgoing.add(Kind.END)
                self._has_said_end = True
                self._change.notify_all()
                self._end_if_done()
                self._change.wait_for(lambda: self.is_over, self.patience.lease_seconds)
                if not self.is_over:
                    self._become(State.lost, "did not end its side of the session")
            self._change.wait_for(self._is_flushed, _FAREWELL_SECONDS)
            self._has_last_word = False
        self._announcer.tell()

    # What a connection does.

    def reserve(self) -> tuple[int, int]:
        """End any earlier connection; the number of a new one, and how many frames have come."""
        with self._change:
            self._connection += 1
            self._is_open = False
            self._change.notify_all()
            return self._connection, self._incoming.num_received

    def begin(self, connection: int, num_received: int) -> None:
        """Open a reserved connection, at whose other end ``num_received`` frames have come.

        Raises WireError where that cannot be.
        """
        with self._change:
            if connection != self._connection:
                return
            self._outgoing.acknowledge(num_received)
            self._position, self._is_open, self._since = num_received, True, time.monotonic()
            if self.state in (State.waiting, State.held):
                was_held = self.state is State.held
                self._become(State.connected, "is back" if was_held else "is connected")
            self._change.notify_all()
        self._announcer.tell()

    def frames(self, connection: int) -> Iterator[bytes]:
        """What to send over a connection, as it comes; ends when nothing more will."""
        while True:
            with self._change:
                self._change.wait_for(
                    lambda: self._has_something(connection), self.patience.beat_seconds
                )
                if connection != self._connection:
                    return
                if self._position < self._outgoing.num_frames:
                    frame = self._outgoing.frame(self._position)
                    self._position += 1
                elif self.is_over and not self._unreported_bytes:
                    self._has_last_word = False
                    self._change.notify_all()
                    return
                else:
                    frame = _BEAT
                num_received, self._unreported_bytes = self._incoming.num_received, 0
            yield frame.to_bytes(num_received)

    def accept(self, connection: int, data: bytes) -> bool:
        """Take what came over a connection; False when that one is superseded.

        A frame that is not legal fails the session, and the peer is told why.
        """
        with self._change:
            if connection != self._connection:
                return False
            self._since = time.monotonic()
            if self.state is State.held:
                self._become(State.connected, "is back")
            if not self.is_over:
                try:
                    self._take(Frame.from_bytes(data))
                except PeerError as error:
                    error.where = self._place
                    self._say_last_word(error.message)
                    self._fail(error, State.failed, error.message)
            self._end_if_done()
        self._announcer.tell()
        return True

    def broke(self, connection: int, why: str) -> None:
        """A connection is gone."""
        with self._change:
            if connection != self._connection:
                return
            self._connection += 1
            if self._is_open:  # or the lease would begin anew with every attempt
                self._is_open, self._since = False, time.monotonic()
            if self._is_said():
                self._become(State.ended, "has ended the session")
            elif self.state is State.connected:
                self._become(State.held, f"connection lost: {why}")
            self._change.notify_all()
        self._announcer.tell()

    def is_current(self, connection: int) -> bool:
        """Whether no other connection has superseded this one."""
        return connection == self._connection

    def wait_superseded(self, connection: int) -> None:
        """Wait until it is broken or superseded."""
        with self._change:
            self._change.wait_for(lambda: connection != self._connection)

    def lose(self, why: str, error_id: str = "PEER-LOST") -> None:
        """Give the peer up: it will not come back to this session."""
        with self._change:
            if self._is_said():
                self._become(State.ended, "has ended the session")
            elif not self.is_over:
                hint = "start it again: both sides go on from the newest checkpoint they share"
                state = State.lost if error_id == "PEER-LOST" else State.failed
                error = TransportError(why, where=self._place, hint=hint, error_id=error_id)
                self._fail(error, state, why)
        self._announcer.tell()

    def note(self, text: str) -> None:
        """Tell something of a state that stays as it is."""
        with self._change:
            self._announcer.add(PeerStatus(self.peer, self.state, text))
        self._announcer.tell()

    def look(self, forgiven_seconds: float) -> None:
        """Let time pass: to be called several times a second.

        ``forgiven_seconds`` are those during which this process itself did not run.
        """
        with self._change:
            self._since += forgiven_seconds
            quiet = time.monotonic() - self._since
            is_silent = self._is_open and quiet > self.patience.silence_seconds
            is_held = self.state is State.held or not self._is_open
            is_lost = is_held and self.state is not State.waiting
            is_lost = is_lost and quiet > self.patience.lease_seconds
            connection, why = self._connection, f"silent for {quiet:.1f} s"
            if is_silent and self._has_one_connection and self.state is State.connected:
                self._become(State.held, why)
        if is_lost:
            self.lose(f"not heard of for its lease of {self.patience.lease_seconds:g} s")
        elif is_silent and not self._has_one_connection:
            self.broke(connection, why)
        self._announcer.tell()

    @property
    def _place(self) -> str:
        return f"party {self.peer}"

    def _has_something(self, connection: int) -> bool:
        is_much = self._unreported_bytes * 4 > self._mailbox.limits.queue_bytes
        is_more = self._position < self._outgoing.num_frames
        return connection != self._connection or is_more or is_much or self.is_over

    def _take(self, frame: Frame) -> None:
        self._outgoing.acknowledge(frame.acknowledged)
        message = self._incoming.accept(frame)
        if frame.kind is not Kind.BEAT:
            self._unreported_bytes += len(frame.payload) + 1
        if message is not None:
            self._mailbox.deliver(self.peer, frame.address, message)
        elif frame.kind is Kind.ABORT:
            text = f"failed: {shown_reason(frame.payload)}"
            error = TransportError(text, where=self._place, error_id="PEER-FAILED")
            self._fail(error, State.failed, text)
        elif frame.kind is Kind.END:
            self._has_heard_end = True
            self._unreported_bytes = self._mailbox.limits.queue_bytes  # say so at once
            over = TransportError("has ended the session", where=self._place, error_id="PEER-ENDED")
            self._mailbox.end(self.peer, over)
        self._change.notify_all()

    def _is_said(self) -> bool:
        """Whether each side has all of the other but for, perhaps, the receipt of our END."""
        num_open = self._outgoing.num_frames - self._outgoing.num_acknowledged
        return self._has_said_end and self._has_heard_end and num_open <= 1 and not self.is_over

    def _end_if_done(self) -> None:
        if self._is_said() and self._outgoing.is_empty:
            self._become(State.ended, "has ended the session")

    def _is_flushed(self) -> bool:
        has_left = self._position >= self._outgoing.num_frames and not self._unreported_bytes
        return has_left or not (self._is_open or self._has_last_word)

    def _say_last_word(self, text: str) -> None:
        self._has_last_word = self.state is not State.waiting
        self._outgoing.add(Kind.ABORT, reason(text))

    def _fail(self, error: PeerError, state: State, text: str) -> None:
        self._become(state, text)
        self._mailbox.fail(error)

    def _become(self, state: State, text: str) -> None:
        self.state = state
        self._announcer.add(PeerStatus(self.peer, state, text))
        self._change.notify_all()
