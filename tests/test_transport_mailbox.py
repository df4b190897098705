"""Queues by address: order, waiting, the cap of a peer, and the one failure that ends all waits."""

import threading

import pytest

from amaqctl.errors import TransportError, WireError
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.party_settings import TrafficLimits
from amaqctl.transports.route import Route
from amaqctl.transports.routed import RoutedTransport
from amaqctl.transports.transport import Address

ROUTE = Route(("client", "server", "client"), "client")
BACK = Address(1, "activation")
GRADIENT = Address(0, "gradient")


def _mailbox(max_message_bytes=1000, max_queued_messages=4, timeout_seconds=20.0):
    return Mailbox(ROUTE, TrafficLimits(max_message_bytes, max_queued_messages), timeout_seconds)


def test_each_address_keeps_its_order():
    box = _mailbox()
    for data in (b"1", b"2"):
        box.deliver("server", BACK, data)
        box.deliver("server", GRADIENT, data + b"g")
    assert [box.take(GRADIENT), box.take(BACK), box.take(GRADIENT), box.take(BACK)] == [
        b"1g", b"1", b"2g", b"2",
    ]  # fmt: skip


def test_a_wait_ends_when_the_message_comes():
    box = _mailbox()
    threading.Timer(0.05, box.deliver, ("server", BACK, b"late")).start()
    assert not box.has(BACK)
    assert box.take(BACK) == b"late"


def test_the_first_address_that_has_one_is_told_in_the_order_asked():
    box = _mailbox()
    box.deliver("server", GRADIENT, b"g")
    assert box.wait_any([BACK, GRADIENT]) == GRADIENT
    box.deliver("server", BACK, b"a")
    assert box.wait_any([BACK, GRADIENT]) == BACK
    assert (box.has(BACK), box.has(GRADIENT)) == (True, True)


def test_nothing_in_time():
    with pytest.raises(TransportError, match=r"link 1 activation: nothing came in 0\.01 s"):
        _mailbox().take(BACK, 0.01)


def test_one_failure_ends_every_wait_after_what_had_come():
    box = _mailbox()
    box.deliver("server", BACK, b"before")
    found = []

    def wait():
        try:
            box.take(GRADIENT)
        except TransportError as error:
            found.append(error.message)

    waiting = [threading.Thread(target=wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    box.fail(TransportError("the first"))
    box.fail(TransportError("the second"))
    for thread in waiting:
        thread.join(10)
    assert found == ["the first"] * 3
    assert box.take(BACK) == b"before"
    with pytest.raises(TransportError, match="the first"):
        box.take(BACK)


@pytest.mark.parametrize(
    ("peer", "address"),
    [("server", Address(0, "activation")), ("server", Address(1, "order")), ("eve", BACK),
     ("server", Address(7, "order")), ("server", Address(0, "gossip"))],
)  # fmt: skip
def test_what_is_not_the_peers_to_send_is_refused(peer, address):
    box = _mailbox()
    with pytest.raises(WireError, match="not this peer's to send"):
        box.deliver(peer, address, b"x")
    assert not box.has(BACK)


@pytest.mark.parametrize(("length", "num_fitting"), [(1000, 4), (0, 19)])
def test_a_flood_is_cut_off_at_the_cap_and_taking_makes_room(length, num_fitting):
    box = _mailbox()
    for _ in range(num_fitting):
        box.deliver("server", BACK, bytes(length))
    with pytest.raises(TransportError, match=r"more than may lie unread \(5024 bytes\)") as caught:
        box.deliver("server", BACK, bytes(length))
    assert caught.value.error_id == "PEER-FLOOD"
    box.take(BACK)
    box.deliver("server", BACK, bytes(length))


def test_two_sessions_can_be_waited_for_with_one_bell():
    bell = threading.Condition()
    boxes = [Mailbox(ROUTE, TrafficLimits(), 20.0, bell) for _ in range(2)]
    with bell:
        threading.Timer(0.05, boxes[1].deliver, ("server", BACK, b"x")).start()
        assert bell.wait_for(lambda: any(box.has(BACK) for box in boxes), 20)


class _Recorded:
    def __init__(self):
        self.told = []

    def send(self, address, data):
        self.told.append((address, data))

    def abort(self, text):
        if text not in self.told:
            self.told.append(text)

    def close(self):
        self.told.append("close")


def test_verbs_over_the_mailbox():
    peer = _Recorded()
    transport = RoutedTransport(_mailbox(), {"server": peer})
    transport.send(Address(0, "activation"), b"there")
    transport.send(Address(2, "order"), b"mine")
    assert transport.receive(Address(2, "order")) == b"mine"
    with pytest.raises(TransportError, match="it is server that sends there"):
        transport.send(BACK, b"x")
    with pytest.raises(TransportError, match="1001 bytes where 1000 are agreed"):
        transport.send(Address(0, "activation"), bytes(1001))
    transport.allow(TrafficLimits(2000, 4))
    transport.send(Address(0, "activation"), bytes(1001))
    transport.abort(TransportError("broken here", where="stage 0"))
    for _ in range(2):
        transport.close()
    assert peer.told == [
        (Address(0, "activation"), b"there"), (Address(0, "activation"), bytes(1001)),
        "stage 0: broken here", "close",
    ]  # fmt: skip
    with pytest.raises(TransportError, match="broken here"):
        transport.send(Address(0, "activation"), b"x")
    with pytest.raises(TransportError, match="broken here"):
        transport.wait_any([BACK])


def test_what_a_party_sends_itself_is_not_held_against_a_peer():
    box = _mailbox(max_message_bytes=10, max_queued_messages=1)
    for _ in range(50):
        box.deliver("client", Address(2, "order"), bytes(10))
    box.deliver("server", BACK, bytes(10))
    assert box.has(BACK)


def test_taking_makes_room_for_as_many_again():
    box = _mailbox(max_message_bytes=1000, max_queued_messages=1)
    for _ in range(50):
        box.deliver("server", BACK, bytes(1000))
        box.take(BACK)
    box.deliver("server", BACK, bytes(1000))
    with pytest.raises(TransportError, match="more than may lie unread"):
        box.deliver("server", BACK, bytes(1))


def test_a_peer_that_left_ends_the_waits_for_it_alone():
    route = Route(("a", "b", "c"), "a")
    box = Mailbox(route, TrafficLimits(), 0.05)
    from_b, from_c = Address(1, "reply"), Address(2, "reply")
    for text in ("b has ended", "b has ended twice"):
        box.end("b", TransportError(text))
    with pytest.raises(TransportError, match=r"^b has ended$"):
        box.take(from_b, 20.0)
    with pytest.raises(TransportError, match=r"nothing came in 0\.05 s"):
        box.wait_any([from_b, from_c])
    box.deliver("c", from_c, b"still here")
    assert box.wait_any([from_b, from_c]) == from_c


def test_a_wait_that_has_begun_ends_when_its_peer_leaves():
    box = _mailbox()
    threading.Timer(0.05, box.end, ("server", TransportError("it left"))).start()
    with pytest.raises(TransportError, match="it left"):
        box.take(BACK, 20.0)
