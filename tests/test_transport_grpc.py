"""`grpc` over real TLS on this machine: order, size, cuts, death, silence, and how it ends."""

import os
import signal
import threading
import time

import pytest
from transport_parts import (
    BACK,
    ORDER,
    QUICK,
    REPLY,
    THERE,
    Relay,
    Told,
    close_both,
    free_port,
    grpc_party,
    start_python,
)

from amaqctl.certs.authority import make_authority, make_party
from amaqctl.errors import InputError, TransportError, UsageError
from amaqctl.transports.grpc_stream import GrpcTransport
from amaqctl.transports.party_settings import TrafficLimits
from amaqctl.transports.transport import Address


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpc") / "certs"
    make_authority(folder, "server", ["localhost"], 30)
    make_party(folder, "client", [], 30)
    return folder


@pytest.fixture
def pair(certificates):
    server = grpc_party(certificates, "server", listen="127.0.0.1:0")
    client = grpc_party(certificates, "client", connect={"server": f"127.0.0.1:{server.port}"})
    yield client, server
    close_both(client, server)


def test_each_address_keeps_its_order_in_both_directions_at_once(pair):
    client, server = pair
    num = 50

    def send(transport, *addresses):
        for number in range(num):
            for address in addresses:
                transport.send(address, f"{address} {number}".encode())

    senders = [
        threading.Thread(target=send, args=(client, THERE, ORDER)),
        threading.Thread(target=send, args=(server, BACK, REPLY)),
    ]
    for thread in senders:
        thread.start()
    for transport, addresses in ((server, (ORDER, THERE)), (client, (REPLY, BACK))):
        for address in addresses:
            got = [transport.receive(address).decode() for _ in range(num)]
            assert got == [f"{address} {number}" for number in range(num)]
    for thread in senders:
        thread.join()


@pytest.mark.parametrize("length", [0, 1, 2**18, 2**18 + 1, 30_000_000])
def test_a_message_of_any_length_arrives_whole(pair, length):
    client, server = pair
    data = os.urandom(length)
    client.send(THERE, data)
    server.send(BACK, data[::-1])
    assert server.receive(THERE) == data
    assert client.receive(BACK) == data[::-1]


def test_what_came_is_there_before_it_is_asked_for(pair):
    client, server = pair
    client.send(ORDER, b"first")
    client.send(THERE, b"second")
    assert server.wait_any([THERE]) == THERE
    assert server.poll(ORDER)
    assert not client.poll(BACK)
    assert (server.receive(THERE), server.receive(ORDER)) == (b"second", b"first")


def test_addresses_within_one_party_need_no_network(pair):
    client, _ = pair
    client.send(Address(2, "order"), b"to myself")
    assert client.receive(Address(2, "order")) == b"to myself"


def test_a_session_of_two_ends_on_both_sides(certificates):
    told, server_told = Told(), Told()
    server = grpc_party(certificates, "server", listen="127.0.0.1:0", told=server_told)
    place = {"server": f"127.0.0.1:{server.port}"}
    client = grpc_party(certificates, "client", connect=place, told=told)
    client.send(THERE, b"last words")
    closing = threading.Thread(target=client.close)
    closing.start()
    assert server.receive(THERE) == b"last words"
    with pytest.raises(TransportError, match="party client: has ended the session") as caught:
        server.receive(THERE)
    assert caught.value.error_id == "PEER-ENDED"
    server.close()
    closing.join(30)
    assert told.states == server_told.states == ["connected", "ended"]


def test_a_party_that_starts_first_waits_and_says_so(certificates):
    port = free_port()
    told = Told()
    client = grpc_party(certificates, "client", connect={"server": f"127.0.0.1:{port}"}, told=told)
    client.send(THERE, b"early")
    told.wait_for("waiting")
    assert told == [
        ("waiting", f"nobody listens at 127.0.0.1:{port} yet; trying again until it is there")
    ]
    server = grpc_party(certificates, "server", listen=f"127.0.0.1:{port}")
    assert server.receive(THERE) == b"early"
    close_both(client, server)


def test_a_forwarded_port_whose_other_end_is_not_there_is_waited_for(certificates):
    port = free_port()
    relay, told = Relay(port), Told()
    place = f"127.0.0.1:{relay.port}"
    client = grpc_party(certificates, "client", connect={"server": place}, told=told)
    client.send(THERE, b"early")
    told.wait_for("waiting")
    time.sleep(4)  # long enough to be believed three times
    words = f"{place} ends the connection: nobody listens behind it yet"
    assert told == [("waiting", f"{words}; trying again until it is there")]
    server = grpc_party(certificates, "server", listen=f"127.0.0.1:{port}")
    assert server.receive(THERE) == b"early"
    close_both(client, server)
    relay.stop()


def test_one_that_leaves_before_its_peer_came_does_not_wait(certificates):
    told = Told()
    server = grpc_party(certificates, "server", listen="127.0.0.1:0", told=told)
    server.close()
    server.close()
    assert told == [("ended", "did not come before this party left")]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_connection_cut_thirty_times_loses_and_repeats_nothing(certificates, seed):
    told = Told()
    server = grpc_party(certificates, "server", listen="127.0.0.1:0")
    relay = Relay(server.port, cut_after=(3000, 160_000), seed=seed)
    place = {"server": f"127.0.0.1:{relay.port}"}
    client = grpc_party(certificates, "client", connect=place, told=told)
    number = 0
    while relay.num_cuts < 30:
        data = number.to_bytes(4, "little") * (1 + 5000 * (number % 3))
        for _ in range(3):
            client.send(THERE, data)
        for _ in range(3):
            assert server.receive(THERE) == data
            server.send(BACK, data)
        for _ in range(3):
            assert client.receive(BACK) == data
        number += 1
    close_both(client, server)
    relay.stop()
    assert told.states[-1] == "ended"
    assert "lost" not in told.states
    assert told.states.count("connected") >= 15


def test_a_network_that_passes_nothing_holds_and_then_goes_on(certificates):
    told, server_told = Told(), Told()
    server = grpc_party(certificates, "server", listen="127.0.0.1:0", told=server_told)
    relay = Relay(server.port)
    place = {"server": f"127.0.0.1:{relay.port}"}
    client = grpc_party(certificates, "client", connect=place, told=told)
    client.send(THERE, b"1")
    assert server.receive(THERE) == b"1"
    relay.is_passing = False
    client.send(THERE, b"2")
    told.wait_for("held")
    server_told.wait_for("held")
    assert told[-1][1].startswith("connection lost: silent for ")
    relay.is_passing = True
    assert server.receive(THERE) == b"2"
    close_both(client, server)
    relay.stop()
    assert told.states[-1] == server_told.states[-1] == "ended"


PARTY = """
import sys, time
from pathlib import Path
from transport_parts import *

told = Told()
server = grpc_party(Path(sys.argv[1]), "server", listen=sys.argv[2], told=told,
                    config={"lease_seconds": float(sys.argv[3])})
print(server.port, flush=True)
"""
ECHO = """
while True:
    server.send(BACK, server.receive(THERE))
"""


@pytest.fixture
def start_server(certificates):
    """Starts a process that is the server, and tells its port."""
    started = []

    def start(program, listen="127.0.0.1:0"):
        process = start_python(PARTY + program, str(certificates), listen, "20")
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        _end(process)


def _end(process):
    process.kill()
    process.communicate(timeout=30)


def test_a_killed_peer_is_noticed_held_for_its_lease_and_then_lost(certificates, start_server):
    process, port = start_server(ECHO)
    told = Told()
    place = {"server": f"127.0.0.1:{port}"}
    client = grpc_party(
        certificates, "client", connect=place, told=told, config={"lease_seconds": 1.0}
    )
    client.send(THERE, b"x")
    assert client.receive(BACK) == b"x"
    _end(process)
    with pytest.raises(
        TransportError, match="party server: not heard of for its lease of 1 s"
    ) as e:
        client.receive(BACK)
    assert e.value.error_id == "PEER-LOST"
    assert told.states == ["connected", "held", "lost"]
    client.close()


def test_a_peer_that_started_anew_is_lost_at_once(certificates, start_server):
    process, port = start_server(ECHO)
    told = Told()
    place = {"server": f"127.0.0.1:{port}"}
    client = grpc_party(certificates, "client", connect=place, told=told)
    client.send(THERE, b"x")
    assert client.receive(BACK) == b"x"
    _end(process)
    process, _ = start_server(ECHO, listen=f"127.0.0.1:{port}")
    with pytest.raises(TransportError, match="server has started anew and knows nothing of this"):
        client.receive(BACK)
    client.close()
    again = grpc_party(certificates, "client", connect=place)
    again.send(THERE, b"y")
    assert again.receive(BACK) == b"y"
    again.fail(TransportError("enough"))
    again.close()


def test_a_client_that_started_anew_ends_the_servers_session(certificates):
    told, late = Told(), Told()
    server = grpc_party(certificates, "server", listen="127.0.0.1:0", told=told)
    place = {"server": f"127.0.0.1:{server.port}"}
    client = grpc_party(certificates, "client", connect=place)
    client.send(THERE, b"x")
    assert server.receive(THERE) == b"x"
    second = grpc_party(certificates, "client", connect=place, told=late)
    with pytest.raises(TransportError, match="party client: has started anew"):
        server.receive(THERE)
    with pytest.raises(TransportError, match="given this session up"):
        client.receive(BACK)
    late.wait_for("waiting")
    assert late[0][1].startswith("server is still busy with a session of an earlier client")
    for transport in (client, second, server):
        transport.close()


def test_a_stopped_peer_is_held_and_comes_back(certificates, start_server):
    process, port = start_server(ECHO)
    told = Told()
    client = grpc_party(certificates, "client", connect={"server": f"127.0.0.1:{port}"}, told=told)
    client.send(THERE, b"x")
    assert client.receive(BACK) == b"x"
    os.kill(process.pid, signal.SIGSTOP)
    client.send(THERE, b"while it is stopped")
    told.wait_for("held")
    os.kill(process.pid, signal.SIGCONT)
    assert client.receive(BACK) == b"while it is stopped"
    client.fail(TransportError("enough"))
    client.close()


def test_a_program_that_ends_without_closing_fails_to_its_peer(certificates, start_server):
    process, port = start_server("server.receive(THERE)\nraise SystemExit(3)\n")
    client = grpc_party(certificates, "client", connect={"server": f"127.0.0.1:{port}"})
    client.send(THERE, b"x")
    words = "party server: failed: its program ended without closing the session"
    with pytest.raises(TransportError, match=words):
        client.receive(BACK)
    assert process.wait(30) == 3
    client.close()


@pytest.mark.parametrize("is_client", [True, False])
def test_an_error_here_reaches_every_wait_of_the_peer(certificates, is_client):
    server = grpc_party(certificates, "server", listen="127.0.0.1:0")
    place = {"server": f"127.0.0.1:{server.port}"}
    client = grpc_party(certificates, "client", connect=place)
    client.send(THERE, b"x")
    server.receive(THERE)
    failing, other, address = (client, server, THERE) if is_client else (server, client, REPLY)
    failing.abort(InputError("no such file", where="data.jsonl"))
    with pytest.raises(TransportError, match=r"failed: data\.jsonl: no such file") as caught:
        other.receive(address)
    assert caught.value.error_id == "PEER-FAILED"
    with pytest.raises(InputError, match="no such file"):
        failing.receive(BACK if is_client else THERE)
    failing.close()
    other.close()


def test_an_error_during_a_cut_is_told_by_the_next_connection(certificates):
    told = Told()
    server = grpc_party(certificates, "server", listen="127.0.0.1:0", told=told)
    relay = Relay(server.port)
    client = grpc_party(certificates, "client", connect={"server": f"127.0.0.1:{relay.port}"})
    client.send(THERE, b"x")
    server.receive(THERE)
    relay.cut()
    told.wait_for("held")
    server.abort(InputError("out of paper"))
    with pytest.raises(TransportError, match="failed: out of paper"):
        client.receive(BACK)
    close_both(client, server)
    relay.stop()


def test_a_flood_is_cut_off_and_the_one_who_floods_is_told(certificates):
    server = grpc_party(
        certificates, "server", listen="127.0.0.1:0", limits=TrafficLimits(1000, 10)
    )
    place = {"server": f"127.0.0.1:{server.port}"}
    client = grpc_party(certificates, "client", connect=place)
    with pytest.raises(TransportError):
        for _ in range(10_000):
            client.send(THERE, bytes(1000))
            time.sleep(0)
        client.receive(BACK)
    with pytest.raises(TransportError, match=r"client: sends more than may lie unread \(12560 b"):
        for _ in range(11):
            server.receive(THERE)
    assert server.mailbox.failure.error_id == "PEER-FLOOD"
    close_both(client, server)


def test_limits_that_were_agreed_later_hold_from_then_on(certificates):
    small = TrafficLimits(100, 10)
    server = grpc_party(certificates, "server", listen="127.0.0.1:0", limits=small)
    place = {"server": f"127.0.0.1:{server.port}"}
    client = grpc_party(certificates, "client", connect=place, limits=small)
    for transport in (server, client):
        transport.allow(TrafficLimits(10**6, 10))
    client.send(THERE, bytes(10**6))
    assert server.receive(THERE) == bytes(10**6)
    server.allow(small)
    client.send(THERE, bytes(101))
    with pytest.raises(TransportError, match="a message of 101 bytes where at most 100 are legal"):
        client.receive(BACK)
    with pytest.raises(Exception, match="party client: a message of 101 bytes") as caught:
        server.receive(THERE)
    assert caught.value.error_id == "PEER-OVERSIZE"
    close_both(client, server)


def test_three_parties_each_with_the_others(tmp_path):
    make_authority(tmp_path / "certs", "b", [], 30)
    for name in ("a", "c"):
        make_party(tmp_path / "certs", name, [], 30)
    chain = {"holders": ("a", "b", "c")}
    b = grpc_party(tmp_path / "certs", "b", listen="127.0.0.1:0", **chain)
    at_b = f"127.0.0.1:{b.port}"
    c = grpc_party(tmp_path / "certs", "c", listen="127.0.0.1:0", connect={"b": at_b}, **chain)
    places = {"b": at_b, "c": f"127.0.0.1:{c.port}"}
    a = grpc_party(tmp_path / "certs", "a", connect=places, **chain)
    for stage, transport in ((1, b), (2, c)):
        a.send(Address(stage, "order"), b"go")
        assert transport.receive(Address(stage, "order")) == b"go"
    b.send(Address(1, "activation"), b"on")
    assert c.receive(Address(1, "activation")) == b"on"
    c.abort(TransportError("tired"))
    for transport, address in ((a, Address(2, "reply")), (b, THERE)):
        with pytest.raises(TransportError, match="party c: failed: tired"):
            transport.receive(address)
    close_both(a, b, c)


def test_one_process_alone_needs_no_network():
    with pytest.raises(UsageError, match="joins the processes of several parties"):
        GrpcTransport(GrpcTransport.Config())


def test_config_is_part_of_the_profile_and_described():
    fields = GrpcTransport.Config.model_fields
    assert list(fields) == list(QUICK)
    assert all(field.description for field in fields.values())
