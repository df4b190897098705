"""What part of a run this process has: alone with all stages, or one party of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amaqctl import registry
from amaqctl.build.parts import Parts
from amaqctl.errors import InputError, UsageError
from amaqctl.profile import LoadedProfile, load_settings
from amaqctl.transports.connection_state import OnStatus
from amaqctl.transports.grpc_stream import Door
from amaqctl.transports.party_settings import PartySettings
from amaqctl.transports.route import Route
from amaqctl.transports.routed import RoutedTransport


@dataclass(frozen=True)
class Membership:
    """This process as a party of a run.

    Args:
        route: who holds what.
        transport: to the others.
    """

    route: Route
    transport: RoutedTransport


@dataclass(frozen=True)
class House:
    """A server of several clients, each of which it awaits at one port.

    Args:
        party: its settings.
        door: the port.
        open_transport: a transport toward one client, given the settings toward that one.
    """

    party: PartySettings
    door: Door
    open_transport: Callable[[PartySettings], RoutedTransport]

    def expect(self, client: str) -> Membership:
        """Await a client that begins anew."""
        toward = self.party.for_client(client)
        return Membership(toward.route, self.open_transport(toward))


def host(parts: Parts, party: PartySettings, on_status: OnStatus) -> House:
    """Open the profile's transport as a server of several clients.

    Raises:
        UsageError: it is not one that several clients come to.
        InputError, PluginError: it cannot be opened.
    """
    part = parts.transport
    offer = registry.find(registry.TRANSPORTS, part.name)
    if not hasattr(part.cls, "open_door"):
        raise UsageError(
            f"transport '{part.name}' knows no server of several clients",
            hint="set transport.name to grpc, or leave out the clients of the party file",
        )
    with offer.blamed("open_door"):
        door = part.cls.open_door(party, on_status)

    def opened(toward: PartySettings) -> RoutedTransport:
        with offer.blamed("__init__"):
            transport: RoutedTransport = part.cls(part.config, toward, None, on_status, door)
        return transport

    return House(party, door, opened)


def read_party(path: Path, loaded: LoadedProfile | None) -> PartySettings:
    """A machine's own settings, held against the profile; relative paths start at their file.

    Raises:
        ProfileError: the file is not valid.
        InputError: it does not fit the profile.
    """
    party = load_settings(path, PartySettings)
    folder = party.certificates
    if folder is not None:
        absolute = path.parent / folder.expanduser()
        party = party.model_copy(update={"certificates": absolute.absolute()})
    if party.clients and loaded is not None and loaded.profile.lora is None:
        raise InputError(
            "clients: a server of several trains adapters, and the profile has lora: null",
            where=str(path),
            hint="give the profile an adapter, or the server one client",
            error_id="INPUT-PARTY",
        )
    cuts = loaded.profile.split.cuts if loaded is not None else None
    if isinstance(cuts, list) and len(party.holders) != len(cuts) + 1:
        raise InputError(
            f"holders: {len(party.holders)} named, and the cuts make {len(cuts) + 1} stages",
            where=str(path),
            hint="name the holder of each stage, in the order of the stages",
            error_id="INPUT-PARTY",
        )
    try:
        party.route  # noqa: B018 - refuses a party that holds nothing
    except InputError as error:
        error.where = str(path)
        raise
    return party


def join(parts: Parts, party: PartySettings, on_status: OnStatus) -> Membership:
    """Open the profile's transport as this party.

    Raises:
        UsageError: it is not one between processes.
        InputError, PluginError: it cannot be opened.
    """
    part = parts.transport
    offer = registry.find(registry.TRANSPORTS, part.name)
    if not issubclass(part.cls, RoutedTransport):
        raise UsageError(
            f"transport '{part.name}' joins no processes",
            hint="set transport.name to grpc or distributed, or leave out --party",
        )
    with offer.blamed("__init__"):
        return Membership(party.route, part.cls(part.config, party, None, on_status))
