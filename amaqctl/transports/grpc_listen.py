"""The end that listens: lets in whom it knows, and hands each stream to its peer's session.

Needs grpcio: whoever imports this has asked `amaqctl.extras.networking` for it before.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import NoReturn, ParamSpec, Protocol, TypeVar

import grpc

from amaqctl.certs.folder import Credentials
from amaqctl.errors import InputError, WireError
from amaqctl.transports.connection_state import (
    Announcer,
    ConnectionState,
    OnStatus,
    PeerStatus,
)
from amaqctl.transports.frames import Opening
from amaqctl.transports.grpc_channel import METHOD, SERVICE, listen_credentials, listen_options
from amaqctl.transports.place import Place
from amaqctl.transports.session import Session

_OPENING_SECONDS = 5.0  # for the first frame of a stream
_STREAMS_A_PEER = 16  # the one in use, and those on dead connections that gRPC has not missed yet
_STREAMS_OF_STRANGERS = 16  # on their way to being turned away
_STOP_SECONDS = 2.0
_MOST_TOLD = 100  # lines about strangers

P = ParamSpec("P")
Result = TypeVar("Result")


class _Context(Protocol):
    """What is used of gRPC's context of a call."""

    def auth_context(self) -> Mapping[str, list[bytes]]: ...

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn: ...

    def add_callback(self, callback: Callable[[], None]) -> bool: ...


class Listener:
    """A port at which the peers that dial are awaited.

    Args:
        place: where; port 0 takes a free one.
        own: who listens.
        name: of this party.
        allowed: names that may come; anybody else is turned away before a frame is read.
        sessions: of those, by name, that are awaited; None where `expect` will say.
        on_status: told who was turned away, the same only once.

    Raises:
        InputError: the place is in use, or not this machine's.

    Attributes:
        port: the one that is listened at.
    """

    def __init__(
        self,
        place: Place,
        own: Credentials,
        allowed: frozenset[str],
        sessions: Mapping[str, Session] | None,
        on_status: OnStatus,
    ) -> None:
        self._name = own.name
        self._allowed = allowed
        self._sessions = dict(sessions or {})
        # Where more may be expected, who comes too early is to try again.
        self._unawaited = (
            grpc.StatusCode.ABORTED if sessions is None else grpc.StatusCode.PERMISSION_DENIED
        )
        self._ids: dict[str, bytes] = {}
        self._announcer = Announcer(on_status)
        self._turned_away: set[str] = set()
        self._lock = threading.Lock()
        self._num_streams: Counter[frozenset[str]] = Counter()
        num_streams = _STREAMS_A_PEER * len(allowed) + _STREAMS_OF_STRANGERS
        self._server = grpc.server(
            _DaemonThreads(),
            options=listen_options(),
            maximum_concurrent_rpcs=num_streams,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._stream)
        service = grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})
        self._server.add_generic_rpc_handlers((service,))
        try:
            self.port: int = self._server.add_secure_port(str(place), listen_credentials(own))
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise InputError(
                "cannot be listened at: in use by another process, or no address of this machine",
                where=str(place),
                hint="choose another port, or end what uses it",
                error_id="INPUT-PORT",
            )
        self._server.start()

    def expect(self, name: str, session: Session) -> None:
        """Hand the next stream of a peer that begins anew to ``session``."""
        with self._lock:
            self._sessions[name] = session
            self._ids.pop(name, None)

    def stop(self) -> None:
        """Listen no more; streams get a moment for what is on its way."""
        self._server.stop(_STOP_SECONDS).wait()

    def _stream(self, requests: Iterator[bytes], context: _Context) -> Iterator[bytes]:
        names = _names(context)
        if not names & self._allowed:
            self._turn_away(
                context,
                grpc.StatusCode.PERMISSION_DENIED,
                f"{_listed(names)} is not on the list of those that {self._name} lets in",
            )
        self._count(names, context)
        reader = _Reader(requests)
        opening = self._opening(reader, names, context)
        session, connection, num_received = self._attached(opening, context)
        reader.feed(session, connection)
        yield Opening(self._name, opening.session, num_received).to_bytes()
        yield from session.frames(connection)

    def _count(self, names: frozenset[str], context: _Context) -> None:
        """Let nobody take the streams of others."""

        def uncount() -> None:
            with self._lock:
                self._num_streams[names] -= 1

        with self._lock:
            is_one_too_many = self._num_streams[names] >= _STREAMS_A_PEER
            self._num_streams[names] += not is_one_too_many
        if is_one_too_many or not context.add_callback(uncount):
            text = f"{_listed(names)} has too many streams at once"
            self._turn_away(context, grpc.StatusCode.ABORTED, text)

    def _opening(self, reader: _Reader, names: frozenset[str], context: _Context) -> Opening:
        try:
            opening = Opening.from_bytes(reader.first(_OPENING_SECONDS))
        except WireError as error:
            self._turn_away(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if opening.name not in names & self._allowed:
            self._turn_away(
                context,
                grpc.StatusCode.PERMISSION_DENIED,
                f"it says that it is another party than its certificate does, {_listed(names)}",
            )
        return opening

    def _attached(self, opening: Opening, context: _Context) -> tuple[Session, int, int]:
        """The session, a connection of it, and how many frames it has received."""
        with self._lock:
            session = self._sessions.get(opening.name)
            known = self._ids.get(opening.name)
            if session is not None and known is None and not opening.resumes:
                known = self._ids[opening.name] = opening.session
        if session is None:
            text = f"{self._name} does not await {opening.name} now"
            self._turn_away(context, self._unawaited, text)
        is_known = known == opening.session
        if opening.resumes and not is_known:
            text = f"{self._name} has started anew and knows nothing of this session"
            self._turn_away(context, grpc.StatusCode.FAILED_PRECONDITION, text)
        if not is_known:
            session.lose("has started anew")
            text = f"{self._name} is still busy with a session of an earlier {opening.name}"
            self._turn_away(context, grpc.StatusCode.ABORTED, text)
        if session.is_over and not session.wants_connection and session.state != "ended":
            text = f"{self._name} has given this session up: {opening.name} {session.state}"
            self._turn_away(context, grpc.StatusCode.FAILED_PRECONDITION, text)
        connection, num_received = session.reserve()
        try:
            session.begin(connection, opening.num_received)
        except WireError as error:
            self._turn_away(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return session, connection, num_received

    def _turn_away(self, context: _Context, code: grpc.StatusCode, why: str) -> NoReturn:
        who = ", ".join(sorted(_names(context))) or "somebody"
        told = f"{who}: {why}"
        if told not in self._turned_away and len(self._turned_away) < _MOST_TOLD:
            self._turned_away.add(told)
            self._announcer.add(PeerStatus(who, ConnectionState.refused, why))
            self._announcer.tell()
        context.abort(code, why)


class _DaemonThreads(futures.Executor):
    """A thread a stream, none of which keeps a process alive that has nothing else to do.

    Those of a pool would: the interpreter waits for them before its main thread counts as ended.
    """

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> futures.Future[Result]:
        """Run it at once."""
        future: futures.Future[Result] = futures.Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="amaqctl-stream", daemon=True).start()
        return future


class _Reader:
    """Reads a stream in a thread of its own: the first frame for whoever asks, then the rest."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._first: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._fed: queue.SimpleQueue[tuple[Session, int]] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="amaqctl-reader", daemon=True).start()

    def first(self, seconds: float) -> bytes:
        """The first frame.

        Raises:
            WireError: none comes in ``seconds``.
        """
        try:
            return self._first.get(timeout=seconds)
        except queue.Empty:
            raise WireError(f"no first frame within {seconds:g} s") from None

    def feed(self, session: Session, connection: int) -> None:
        """Give the session all that follows."""
        self._fed.put((session, connection))

    def _read(self) -> None:
        try:
            self._first.put(next(self._requests))
        except Exception:  # gRPC raises a bare one when the stream breaks
            return
        try:
            session, connection = self._fed.get(timeout=2 * _OPENING_SECONDS)
        except queue.Empty:  # turned away
            return
        why = "the other side closed the stream"
        try:
            for data in self._requests:
                if not session.accept(connection, data):
                    return
            if session.is_over:  # the other direction is still open for a last word
                return
        except Exception:
            why = "the stream broke"
        session.broke(connection, why)


def _names(context: _Context) -> frozenset[str]:
    found = context.auth_context().get("x509_subject_alternative_name", [])
    return frozenset(name.decode("utf-8", errors="replace") for name in found)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "a certificate without names"
