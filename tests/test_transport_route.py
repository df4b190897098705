"""Who sends and who receives at each address, and what a machine's own settings accept."""

import pytest
from pydantic import ValidationError

from amaqctl.errors import InputError
from amaqctl.transports.party_settings import PartySettings, TrafficLimits
from amaqctl.transports.place import parse_place
from amaqctl.transports.route import Route
from amaqctl.transports.transport import Address

U_SHAPE = ("client", "server", "client")


def test_two_parties_of_a_u_shape():
    route = Route(U_SHAPE, "client")
    assert (route.leader, route.leads, route.stages, route.peers) == (
        "client", True, (0, 2), ("server",),
    )  # fmt: skip
    ends = {str(address): route.ends(address) for address in route.addresses}
    there, back, own = ("client", "server"), ("server", "client"), ("client", "client")
    assert ends == {
        "link 0 activation": there, "link 0 gradient": back,
        "link 1 activation": back, "link 1 gradient": there,
        "stage 0 order": own, "stage 0 reply": own,
        "stage 1 order": there, "stage 1 reply": back,
        "stage 2 order": own, "stage 2 reply": own,
    }  # fmt: skip


def test_followers_of_a_chain_know_their_neighbours_and_the_leader():
    holders = ("a", "b", "c", "d")
    assert [Route(holders, me).peers for me in holders] == [
        ("b", "c", "d"), ("a", "c"), ("a", "b", "d"), ("a", "c"),
    ]  # fmt: skip
    assert not Route(holders, "b").leads


@pytest.mark.parametrize(
    "address",
    [Address(2, "activation"), Address(-1, "order"), Address(3, "reply"), Address(0, "gossip")],
)
def test_an_address_of_no_such_session_is_refused(address):
    with pytest.raises(InputError, match=str(address)):
        Route(U_SHAPE, "client").ends(address)


def test_a_party_without_a_stage_is_told_who_has_them():
    with pytest.raises(InputError, match="party 'eve' holds no stage: client, server do"):
        Route(U_SHAPE, "eve")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("localhost:1", ("localhost", 1)),
        ("[::1]:4040", ("::1", 4040)),
        ("10.0.0.7:0", ("10.0.0.7", 0)),
    ],
)
def test_places(text, place):
    assert parse_place(text) == place
    assert str(parse_place(text)) == text


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:x", "host:65536", "::1:5", "h:²"]
)
def test_no_places(text):
    with pytest.raises(ValueError):
        parse_place(text)


def test_settings_of_a_machine():
    settings = PartySettings(name="server", holders=U_SHAPE, listen="0.0.0.0:4040")
    assert settings.may_dial_in == {"client"}
    assert settings.route.stages == (1,)
    listed = PartySettings(name="server", holders=U_SHAPE, allowed=("client", "client-2"))
    assert listed.may_dial_in == {"client", "client-2"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Al ice"}, {"name": "a" * 65}, {"holders": ()}, {"listen": "nowhere"},
        {"connect": {"b": "x"}}, {"port": 1}, {"name": "../x"}, {"name": "-a"}, {"name": "a..b"},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        PartySettings(**({"name": "client", "holders": U_SHAPE} | wrong))


def test_what_may_lie_unread_is_a_function_of_message_and_number():
    assert TrafficLimits(1000, 4).queue_bytes == 4 * (1000 + 256)
