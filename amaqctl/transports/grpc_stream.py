"""`grpc`: one stream of frames between two parties under mutual TLS. For two organisations.

One side dials, the other listens; from then on both run the same code (`Session`). A connection
may be lost at any byte: the dialling side opens another, and both go on where they were.
"""

from __future__ import annotations

from typing import Protocol

from amaqctl.certs.folder import Credentials, read_credentials, wide_permissions
from amaqctl.errors import InputError
from amaqctl.extras import networking
from amaqctl.transports.connection_state import OnStatus, unwatched
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.party_settings import PartySettings, TrafficLimits, given
from amaqctl.transports.patience import PatienceConfig
from amaqctl.transports.place import parse_place
from amaqctl.transports.routed import RoutedTransport
from amaqctl.transports.session import Session
from amaqctl.transports.watch import Watch

_WHERE = "transport 'grpc'"


class Door(Protocol):
    """A port that several transports share, each for its own peers."""

    port: int

    def expect(self, name: str, session: Session) -> None:
        """Hand the next stream of a peer that begins anew to ``session``."""

    def stop(self) -> None:
        """Listen no more."""


class GrpcTransport(RoutedTransport):
    """Between two organisations: one stream under mutual TLS, which outlives its connections.

    It connects when made, and waits for nobody: the first `receive` does.

    Args:
        config: what both sides have in their profile.
        party: this machine's own settings.
        limits: what peers may send until `allow` says what was agreed.
        on_status: told how it stands with each peer.
        door: where peers are awaited that others of this process listen for too.

    Raises:
        UsageError: no party is given; one process alone needs no network.
        InputError: the extra is not installed, certificates are missing or not valid, the port
            is in use, or nothing says how a peer is reached.
    """

    class Config(PatienceConfig):
        """How patient both sides are with each other."""

    def __init__(
        self,
        config: GrpcTransport.Config,
        party: PartySettings | None = None,
        limits: TrafficLimits | None = None,
        on_status: OnStatus = unwatched,
        door: Door | None = None,
    ) -> None:
        party = given(party, _WHERE)
        networking("grpc", _WHERE)
        networking("cryptography", _WHERE)
        self.config = config
        mailbox = Mailbox(party.route, limits or TrafficLimits(), config.timeout_seconds)
        sessions = {
            peer: Session(peer, mailbox, config.patience, on_status) for peer in party.route.peers
        }
        super().__init__(mailbox, sessions)
        self._connect(party, sessions, on_status, door)

    @classmethod
    def open_door(cls, party: PartySettings, on_status: OnStatus) -> Door:
        """A port for transports that each await another client.

        Raises:
            InputError: as for a transport of its own.
        """
        from amaqctl.transports.grpc_listen import Listener

        networking("grpc", _WHERE)
        networking("cryptography", _WHERE)
        own = _credentials(party)
        _check_reachable(party, party.clients)
        assert party.listen is not None
        return Listener(parse_place(party.listen), own, party.may_dial_in, None, on_status)

    def _connect(
        self,
        party: PartySettings,
        sessions: dict[str, Session],
        on_status: OnStatus,
        door: Door | None,
    ) -> None:
        from amaqctl.transports.grpc_dial import Dialler
        from amaqctl.transports.grpc_listen import Listener

        own = _credentials(party)
        awaited = {peer: s for peer, s in sessions.items() if peer not in party.connect}
        _check_reachable(party, tuple(awaited))
        self._listener = None
        if door is not None:
            for peer, session in awaited.items():
                door.expect(peer, session)
        elif party.listen is not None:
            self._listener = Listener(
                parse_place(party.listen), own, party.may_dial_in, awaited, on_status
            )
        self._diallers = [
            Dialler(parse_place(party.connect[peer]), own, session)
            for peer, session in sessions.items()
            if peer in party.connect
        ]
        self._watch = Watch(sessions.values())
        _warn(party, sessions)
        self._opened()

    @property
    def port(self) -> int | None:
        """The port that is listened at, if one is."""
        return None if self._listener is None else self._listener.port

    def _release(self) -> None:
        for dialler in self._diallers:
            dialler.stop()
        if self._listener is not None:
            self._listener.stop()
        self._watch.stop()


def _credentials(party: PartySettings) -> Credentials:
    from amaqctl.certs.inspection import check_credentials

    if party.certificates is None:
        raise InputError(
            "no certificates are given, and without them nobody is let in",
            where=_WHERE,
            hint="make them with `amaqctl certs init` and say where this party's are",
            error_id="INPUT-CERTIFICATE",
        )
    own = read_credentials(party.certificates, party.name)
    check_credentials(own, str(party.certificates))
    return own


def _check_reachable(party: PartySettings, awaited: tuple[str, ...]) -> None:
    if awaited and party.listen is None:
        raise InputError(
            f"nothing says how {', '.join(awaited)} and {party.name} find each other",
            where=_WHERE,
            hint="one side listens, the other has the first one's HOST:PORT",
            error_id="INPUT-PLACE",
        )
    turned_away = [peer for peer in awaited if peer not in party.may_dial_in]
    if turned_away:
        raise InputError(
            f"{', '.join(turned_away)} holds a stage but is not among those who are let in",
            where=_WHERE,
            hint="add it to the list, or leave the list out",
            error_id="INPUT-PARTY",
        )


def _warn(party: PartySettings, sessions: dict[str, Session]) -> None:
    assert party.certificates is not None
    warning = wide_permissions(party.certificates / f"{party.name}.key")
    for session in sessions.values() if warning else ():
        session.note(f"warning: {warning}")
