"""The end that dials: opens a stream, reads it, and opens the next one when it breaks.

Needs grpcio: whoever imports this has asked `amaqctl.extras.networking` for it before.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import grpc

from amaqctl.certs.folder import Credentials
from amaqctl.errors import WireError
from amaqctl.transports.frames import Opening
from amaqctl.transports.grpc_channel import METHOD, SERVICE, dial_credentials, dial_options
from amaqctl.transports.handshake import Fault, explain
from amaqctl.transports.place import Place
from amaqctl.transports.session import Session

_SESSION_BYTES = 16
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5
_CONNECT_SECONDS = 5.0  # for a stream to open; a stopped peer would be waited for much longer
_JOIN_SECONDS = 2.0
_TIMES_UNTIL_BELIEVED = 3

# What a listener answers when it will never let this stream in.
_REFUSALS = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
)


class _Call(Protocol):
    """What is used of gRPC's call: an iterator of frames that can be given up."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def cancel(self) -> bool: ...


class Dialler:
    """Keeps one session connected to a peer that listens at ``place``.

    A refused certificate ends the session as long as it has never been connected; afterwards
    only the peer itself can, since anybody on the way may break a handshake.
    """

    def __init__(self, place: Place, own: Credentials, session: Session) -> None:
        self._place, self._own, self._session = place, own, session
        self._id = secrets.token_bytes(_SESSION_BYTES)
        self._was_connected = False
        self._is_told = False
        self._num_likely = 0
        self._call: _Call | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amaqctl-dial", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Dial no more; to be called when the session is over."""
        self._is_over.set()
        self._thread.join(_JOIN_SECONDS)
        if self._call is not None:  # the other side does not close its end of the stream
            self._call.cancel()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while self._session.wants_connection and not self._is_over.is_set():
            if self._connect():
                pause = _FIRST_PAUSE_SECONDS
            self._is_over.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _connect(self) -> bool:
        """Open a stream and read it to its end; whether it did open."""
        connection, num_received = self._session.reserve()
        outgoing = _Outgoing(self._session, connection, self._opening(num_received))
        channel = grpc.secure_channel(
            str(self._place), dial_credentials(self._own), dial_options(self._session.peer)
        )
        call: _Call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(outgoing)
        self._call = call
        deadline = threading.Timer(_CONNECT_SECONDS, call.cancel)
        deadline.daemon = True
        deadline.start()
        is_open, why = False, "the other side closed the stream"
        try:
            opening = Opening.from_bytes(next(call))
            deadline.cancel()
            self._session.begin(connection, opening.num_received)
            is_open = self._was_connected = True
            outgoing.start()
            self._read(call, connection)
        except StopIteration:
            pass
        except WireError as error:
            self._session.lose(f"is no party of amaqctl: {error}", "PEER-REFUSED")
        except grpc.RpcError as error:
            why = self._judge(error, is_open)
        finally:
            deadline.cancel()
            self._session.broke(connection, why)
            self._call = None
            channel.close()
        return is_open

    def _opening(self, num_received: int) -> bytes:
        opening = Opening(self._own.name, self._id, num_received, self._was_connected)
        return opening.to_bytes()

    def _read(self, call: _Call, connection: int) -> None:
        watching = threading.Thread(target=self._cancel_when_superseded, args=(call, connection))
        watching.daemon = True
        watching.start()
        for data in call:
            if not self._session.accept(connection, data):
                return

    def _cancel_when_superseded(self, call: _Call, connection: int) -> None:
        """A stream that has gone silent says nothing of itself any more."""
        self._session.wait_superseded(connection)
        call.cancel()

    def _judge(self, error: grpc.RpcError, was_open: bool) -> str:
        """End the session where trying again is of no use; what happened, in words."""
        code, details = error.code(), " ".join((error.details() or "").split())
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            self._session.lose(details)
        elif code in _REFUSALS and not was_open:
            self._session.lose(_refusal(code, details), "PEER-REFUSED")
        elif not self._was_connected:
            self._judge_first(code, details)
        return details or code.name

    def _judge_first(self, code: grpc.StatusCode, details: str) -> None:
        """Of a peer that was never connected: not there yet, or never to be reached like this."""
        fault, text = Fault.absent, details
        if code is not grpc.StatusCode.ABORTED:
            fault, text = explain(self._place, self._own, self._session.peer)
        self._num_likely = self._num_likely + 1 if fault is Fault.likely else 0
        if fault is Fault.final or self._num_likely == _TIMES_UNTIL_BELIEVED:
            self._session.lose(text, "PEER-REFUSED")
        elif not self._is_told and fault is not Fault.likely:
            self._is_told = True
            self._session.note(f"{text or details}; trying again until it is there")


class _Outgoing:
    """The frames of one stream: the opening at once, the rest when the other side has answered."""

    def __init__(self, session: Session, connection: int, opening: bytes) -> None:
        self._session, self._connection = session, connection
        self._opening: bytes | None = opening
        self._is_started = threading.Event()
        self._frames: Iterator[bytes] | None = None

    def start(self) -> None:
        """Let the frames follow."""
        self._is_started.set()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return opening
        end = time.monotonic() + 2 * _CONNECT_SECONDS
        while not self._is_started.wait(self._session.patience.beat_seconds):
            if not self._session.is_current(self._connection) or time.monotonic() > end:
                raise StopIteration
        if self._frames is None:
            self._frames = self._session.frames(self._connection)
        return next(self._frames)


def _refusal(code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "something else than amaqctl listens there"
    return f"refuses this party: {details}"
