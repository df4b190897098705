"""A session of two parties over connections that are cut anywhere, without a network: what comes is
what was sent, once and in order; and whatever is not due fails the session and nothing else."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaqctl.errors import PeerError, TransportError, WireError
from amaqctl.transports import session as session_module
from amaqctl.transports.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_TEXT_BYTES,
    PAYLOAD_BYTES,
    Frame,
    Kind,
    Opening,
    shown_reason,
)
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.numbering import Incoming, Outgoing
from amaqctl.transports.party_settings import TrafficLimits
from amaqctl.transports.patience import Patience
from amaqctl.transports.route import Route
from amaqctl.transports.session import Session
from amaqctl.transports.transport import Address

HOLDERS = ("client", "server")
THERE, BACK, ORDER = Address(0, "activation"), Address(0, "gradient"), Address(1, "order")
LIMITS = TrafficLimits(3 * PAYLOAD_BYTES, 400)


def _session(me, limits=LIMITS, patience=Patience(60, 120)):
    peer = "server" if me == "client" else "client"
    mailbox = Mailbox(Route(HOLDERS, me), limits, 20.0)
    told = []
    return Session(peer, mailbox, patience, told.append), mailbox, told


class _Wire:
    """Connections between two sessions, of which frames are moved by hand."""

    def __init__(self, limits=LIMITS):
        self.client, self.client_box, self.client_told = _session("client", limits)
        self.server, self.server_box, self.server_told = _session("server", limits)
        self.connect()

    def connect(self):
        at_client, client_has = self.client.reserve()
        at_server, server_has = self.server.reserve()
        self.client.begin(at_client, server_has)
        self.server.begin(at_server, client_has)
        self.numbers = (at_client, at_server)
        self.streams = (self.client.frames(at_client), self.server.frames(at_server))

    def move(self, is_up):
        """One frame; True where it carried something."""
        stream = self.streams[0 if is_up else 1]
        data = next(stream, None)
        if data is None:
            return False
        to, number = (self.server, self.numbers[1]) if is_up else (self.client, self.numbers[0])
        to.accept(number, data)
        return Frame.from_bytes(data).kind is not Kind.BEAT


@pytest.mark.parametrize("seed", range(8))
def test_what_is_sent_over_cut_connections_comes_once_and_in_order(seed, monkeypatch):
    monkeypatch.setattr(Patience, "beat_seconds", 0.0)
    chance = random.Random(seed)
    wire = _Wire()
    sent = {THERE: [], BACK: [], ORDER: []}
    num_cuts = 0
    for number in range(300):
        address = chance.choice([THERE, BACK, ORDER])
        length = chance.choice([0, 1, 100, PAYLOAD_BYTES, PAYLOAD_BYTES + 1, 3 * PAYLOAD_BYTES])
        data = number.to_bytes(4, "little") + chance.randbytes(min(length, 50)) + bytes(length)
        data = data[: LIMITS.max_message_bytes]
        (wire.server if address is BACK else wire.client).send(address, data)
        sent[address].append(data)
        for _ in range(chance.randrange(4)):
            wire.move(chance.random() < 0.6)
        if chance.random() < 0.15:
            num_cuts += 1
            for side, at in ((wire.client, 0), (wire.server, 1)):
                if chance.random() < 0.7:  # or it learns of it by the next connection only
                    side.broke(wire.numbers[at], "cut")
            wire.connect()
    while wire.move(True) | wire.move(False):
        pass
    assert num_cuts > 25
    for box, addresses in ((wire.server_box, (THERE, ORDER)), (wire.client_box, (BACK,))):
        for address in addresses:
            assert [box.take(address) for _ in sent[address]] == sent[address]
            assert not box.has(address)


def test_frames_are_kept_until_acknowledged():
    wire = _Wire()
    wire.client.send(THERE, b"x")
    wire.move(True)
    outgoing = wire.client._outgoing
    assert (outgoing.num_frames, outgoing.num_acknowledged) == (1, 0)
    wire.server.send(BACK, b"y")
    wire.move(False)
    assert (outgoing.num_frames, outgoing.num_acknowledged, outgoing.kept_bytes) == (1, 1, 0)


def test_an_end_is_acknowledged_on_both_sides_and_nothing_of_before_is_lost():
    wire = _Wire()
    wire.client.send(THERE, b"last")
    for session in (wire.client, wire.server):
        session.patience = Patience(60, 0)
        session.close()  # nobody moves frames here: it gives up at once
    assert [status.state for status in wire.client_told] == ["connected", "lost"]
    assert wire.client_told[-1].text == "did not end its side of the session"


def test_a_connection_cut_at_the_very_end_ends_the_session_where_only_the_receipt_is_open():
    wire = _Wire()
    for session in (wire.client, wire.server):
        session._outgoing.add(Kind.END)
        session._has_said_end = True
    wire.move(True)
    wire.move(False)  # acknowledges the client's END with its own
    assert (wire.client.state, wire.server.state) == ("ended", "connected")
    wire.server.broke(wire.numbers[1], "cut")
    assert wire.server.state == "ended"
    with pytest.raises(TransportError, match="party client: has ended the session"):
        wire.server_box.take(THERE)


def test_an_abort_reaches_the_peer_in_one_clean_line():
    wire = _Wire()
    wire.client.send(THERE, b"before")
    wire.client.abort("stage 0:\nbroken \x1b[31mhere\x07" + "é" * 3000)
    wire.move(True)
    wire.move(True)
    assert wire.server_box.take(THERE) == b"before"
    with pytest.raises(
        TransportError, match=r"^party client: failed: stage 0: broken \?\[31mhere\?é"
    ) as e:
        wire.server_box.take(THERE)
    assert e.value.error_id == "PEER-FAILED"
    assert wire.server.state == "failed"
    assert list(wire.streams[0]) == []
    with pytest.raises(TransportError, match="is failed, nothing can be sent"):
        wire.server.send(BACK, b"x")


def test_silence_holds_and_the_lease_loses():
    now = [100.0]
    clock = type("Clock", (), {"monotonic": staticmethod(lambda: now[0])})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "time", clock)
        session, mailbox, told = _session("client", patience=Patience(2, 30))
        connection, _ = session.reserve()
        session.begin(connection, 0)
        for seconds, state in ((1.9, "connected"), (0.2, "held"), (29.9, "held"), (0.2, "lost")):
            now[0] += seconds
            session.look(0.0)
            assert session.state == state
        assert [status.text for status in told] == [
            "is connected",
            "connection lost: silent for 2.1 s",
            "not heard of for its lease of 30 s",
        ]
    with pytest.raises(TransportError, match="party server: not heard of for its lease") as caught:
        mailbox.take(BACK)
    assert caught.value.error_id == "PEER-LOST"


def test_attempts_that_fail_do_not_lengthen_the_lease_and_a_stop_of_ones_own_is_forgiven():
    now = [100.0]
    clock = type("Clock", (), {"monotonic": staticmethod(lambda: now[0])})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "time", clock)
        session, _, _ = _session("client", patience=Patience(2, 30))
        connection, _ = session.reserve()
        session.begin(connection, 0)
        session.broke(connection, "cut")
        for _ in range(3):
            now[0] += 9
            session.broke(session.reserve()[0], "refused")
            session.look(0.0)
            assert session.state == "held"
        now[0] += 1000
        session.look(1000.0)
        assert session.state == "held"
        now[0] += 4
        session.look(0.0)
        assert session.state == "lost"


def test_a_peer_that_acknowledges_nothing_is_not_sent_to_for_ever():
    session, _, _ = _session("client", TrafficLimits(1000, 4))
    for _ in range(8):
        session.send(THERE, bytes(1000))
    with pytest.raises(TransportError, match="party server: acknowledges nothing: 10048 bytes"):
        for _ in range(8):
            session.send(THERE, bytes(1000))


FRAME = Frame(Kind.MESSAGE, THERE, 0, 0, b"payload")
ILLEGAL = {
    "short": (b"", "a frame of 0 bytes"),
    "long": (bytes(MAX_FRAME_BYTES + 1), f"a frame of {MAX_FRAME_BYTES + 1} bytes"),
    "no kind": (bytes([9]) + bytes(31), "of kind 9 and role 0"),
    "kind zero": (bytes(32), "of kind 0"),
    "role": (b"\x02\x04" + bytes(30), "role 4"),
    "reserved": (b"\x02\x00\x01\x00" + bytes(28), "which there is none of"),
    "replayed": (Frame(Kind.MESSAGE, THERE, 0, 0, b"").to_bytes(0), "frame 0 where 1 is due"),
    "ahead": (Frame(Kind.MESSAGE, THERE, 2, 0, b"").to_bytes(0), "frame 2 where 1 is due"),
    "far ahead": (Frame(Kind.END, number=2**63).to_bytes(0), f"frame {2**63} where 1 is due"),
    "opened twice": (Opening("server", bytes(16), 0).to_bytes(), "opened twice"),
    "acknowledges more": (Frame(Kind.BEAT).to_bytes(7), "acknowledges 7 frames after 0 of 0"),
    "numbered beat": (Frame(Kind.BEAT, number=1).to_bytes(0), "BEAT with a number"),
    "beat that carries": (Frame(Kind.BEAT, payload=b"x").to_bytes(0), "BEAT with a payload"),
    "end that carries": (Frame(Kind.END, number=1, payload=b"x").to_bytes(0), "END with a payl"),
    "abort at an address": (Frame(Kind.ABORT, BACK, 1).to_bytes(0), "ABORT with parts"),
    "long reason": (
        Frame(Kind.ABORT, number=1, payload=bytes(MAX_TEXT_BYTES + 1)).to_bytes(0),
        "a reason of 2001 bytes",
    ),
    "lying length": (Frame(Kind.MESSAGE, BACK, 1, 5, b"abc").to_bytes(0), "not the last"),
    "oversize": (
        Frame(Kind.MESSAGE, BACK, 1, 2**62, bytes(PAYLOAD_BYTES)).to_bytes(0),
        f"a message of {2**62 + PAYLOAD_BYTES} bytes where at most {3 * PAYLOAD_BYTES} are legal",
    ),
    "not its address": (Frame(Kind.MESSAGE, THERE, 1).to_bytes(0), "not this peer's to send"),
    "no such address": (Frame(Kind.MESSAGE, Address(9, "order"), 1).to_bytes(0), "stage 9 order"),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_frame_fails_its_session_with_a_reason_that_both_sides_see(name):
    data, words = ILLEGAL[name]
    session, mailbox, _ = _session("client")
    connection, _ = session.reserve()
    session.begin(connection, 0)
    session.accept(connection, Frame(Kind.MESSAGE, BACK, 0, 0, b"good").to_bytes(0))
    session.accept(connection, data)
    assert session.state == "failed"
    assert mailbox.take(BACK) == b"good"
    with pytest.raises(PeerError, match=r"^party server: ") as caught:
        mailbox.take(BACK)
    assert words in caught.value.message
    last = Frame.from_bytes(next(session.frames(connection)))
    assert (last.kind, shown_reason(last.payload)) == (Kind.ABORT, caught.value.message)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (Frame(Kind.MESSAGE, ORDER, 1, 0, b"x"), "does not continue"),
        (Frame(Kind.MESSAGE, THERE, 1, 0, b"xy"), "does not continue"),
        (Frame(Kind.END, number=1), "in the middle of a message"),
    ],
)
def test_a_message_in_parts_is_continued_by_its_own(second, words):
    incoming = Incoming(lambda: PAYLOAD_BYTES + 1)
    assert incoming.accept(Frame(Kind.MESSAGE, THERE, 0, 1, bytes(PAYLOAD_BYTES))) is None
    with pytest.raises(WireError, match=words):
        incoming.accept(second)
    assert incoming.num_received == 1
    assert incoming.accept(Frame(Kind.MESSAGE, THERE, 1, 0, b"!")) == bytes(PAYLOAD_BYTES) + b"!"


def test_nothing_follows_the_end():
    incoming = Incoming(lambda: 10)
    incoming.accept(Frame(Kind.END, number=0))
    with pytest.raises(WireError, match="after the last one"):
        incoming.accept(Frame(Kind.MESSAGE, THERE, 1))


def test_an_acknowledgement_is_not_taken_back():
    outgoing = Outgoing()
    for _ in range(3):
        outgoing.add_message(THERE, b"x", 10**6)
    for number in range(2):
        outgoing.frame(number)
    outgoing.acknowledge(2)
    for wrong in (1, 3):
        with pytest.raises(WireError, match=f"acknowledges {wrong} frames after 2 of 2"):
            outgoing.acknowledge(wrong)


@settings(deadline=None)
@given(
    st.builds(
        Opening,
        st.sampled_from(["a", "client-2.example.org", "x" * 64]),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**64 - 1),
        st.booleans(),
    )
)
def test_openings_round_trip(opening):
    assert Opening.from_bytes(opening.to_bytes()) == opening


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (FRAME.to_bytes(0), "begins with a frame of kind MESSAGE"),
        (Frame(Kind.OPEN, payload=b"x").to_bytes(0), "begins with a frame of kind OPEN"),
        (b"\x01" + bytes(31 + 26), "version 0 of the stream where 1 is understood"),
        (
            Frame(Kind.OPEN, payload=struct.pack("<BB16sQ", 1, 2, bytes(16), 0)).to_bytes(0),
            "contra",
        ),
        (
            Frame(Kind.OPEN, payload=struct.pack("<BB16sQ", 1, 0, bytes(16), 5)).to_bytes(4),
            "contra",
        ),
        (
            Frame(Kind.OPEN, payload=struct.pack("<BB16sQ", 1, 0, bytes(16), 0) + b"\xff").to_bytes(
                0
            ),
            "contra",
        ),
    ],
)
def test_illegal_openings(data, words):
    with pytest.raises(WireError, match=words):
        Opening.from_bytes(data)


def test_a_frame_has_its_documented_layout():
    data = Frame(Kind.MESSAGE, Address(3, "reply"), 7, 0, b"xyz").to_bytes(5)
    assert (
        data
        == bytes.fromhex("020300000300000007000000000000000500000000000000" + "00" * 8) + b"xyz"
    )
    assert len(data) == HEADER_BYTES + 3
