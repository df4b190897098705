"""Broken, misplaced, repeated and reordered frames for an open session, in one process.

Whatever comes, nothing escapes; what was legal before the first violation is delivered and nothing
after it; the peer is told why; and what the session holds stays under its cap.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from amaqctl.errors import PeerError, WireError
from amaqctl.transports.frames import HEADER_BYTES, PAYLOAD_BYTES, Frame, Kind, Opening
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.party_settings import TrafficLimits
from amaqctl.transports.patience import Patience
from amaqctl.transports.route import Route
from amaqctl.transports.session import Session
from amaqctl.transports.transport import Address
from fuzzing.runner import Check

_ROUTE = Route(("client", "server", "client"), "server")
_ADDRESSES = (Address(0, "activation"), Address(1, "gradient"), Address(1, "order"))
_LIMITS = TrafficLimits(PAYLOAD_BYTES + 1000, 12)
_PATIENCE = Patience(600.0, 600.0)
_ODD = (0, 1, 2, 5, 255, 2**16, 2**31 - 1, 2**32 - 1)
_FIELDS = {"kind": "<B0", "role": "<B1", "zero": "<H2", "link": "<I4"}
_FIELDS |= {"number": "<Q8", "acknowledged": "<Q16", "remaining": "<Q24"}
_OPENING = Opening("client", bytes(range(16)), 3, True).to_bytes()


def cases(seed: int) -> Iterator[Check]:
    """Checks without end."""
    draw = random.Random(seed)
    while True:
        if draw.random() < 0.1:
            data, what = broken(draw, _OPENING)
            yield Check(f"opening: {what}", partial(_opens, data))
        else:
            frames, what = broken_stream(draw)
            yield Check(what, partial(_meets, frames))


def broken_stream(draw: random.Random) -> tuple[list[bytes], str]:
    """The frames of an honest peer with something wrong among them, and what."""
    frames = _honest(draw)
    at = draw.randrange(len(frames))
    how = draw.choice(("change", "change", "change", "repeat", "drop", "swap", "insert", "flood"))
    if how == "change":
        frames[at], what = broken(draw, frames[at])
    elif how == "repeat":
        frames.insert(draw.randrange(len(frames) + 1), frames[at])
        what = "a frame twice"
    elif how == "drop":
        del frames[at]
        what = "a frame less"
    elif how == "swap":
        other = draw.randrange(len(frames))
        frames[at], frames[other] = frames[other], frames[at]
        what = "two frames in each other's place"
    elif how == "insert":
        frames.insert(at, draw.choice((_OPENING, draw.randbytes(draw.randrange(100)))))
        what = "something between"
    else:
        frames += [_message(n, bytes(draw.choice((0, 500)))) for n in range(len(frames), 999)]
        what = "a flood"
    return frames, f"{what} at {at} of {len(frames)}"


def broken(draw: random.Random, frame: bytes) -> tuple[bytes, str]:
    """A frame with a field, some bits or its length changed, and which."""
    how = draw.random()
    if how < 0.6 and len(frame) >= HEADER_BYTES:
        name = draw.choice(tuple(_FIELDS))
        form, at = _FIELDS[name][:2], int(_FIELDS[name][2:])
        most = 2 ** (8 * struct.calcsize(form)) - 1
        value = min(draw.choice((*_ODD, draw.randrange(most + 1), most)), most)
        changed = bytearray(frame)
        struct.pack_into(form, changed, at, value)
        return bytes(changed), f"{name} {value}"
    if how < 0.8:
        return frame[: draw.randrange(len(frame) + 1)], "cut short"
    if how < 0.9:
        return frame + draw.randbytes(draw.choice((1, 100))), "longer"
    noisy = bytearray(frame)
    for _ in range(draw.choice((1, 3, 30))):
        noisy[draw.randrange(min(len(noisy), 64))] ^= 1 << draw.randrange(8)
    return bytes(noisy), "bits"


def _honest(draw: random.Random) -> list[bytes]:
    """Some messages, one of them in two parts perhaps, beats between, and an end perhaps."""
    frames: list[bytes] = []
    number = 0
    for _ in range(draw.randrange(1, 7)):
        address = draw.choice(_ADDRESSES)
        if draw.random() < 0.1:
            frames.append(Frame(Kind.MESSAGE, address, number, 9, bytes(PAYLOAD_BYTES)).to_bytes(0))
            number += 1
            frames.append(Frame(Kind.MESSAGE, address, number, 0, bytes(9)).to_bytes(0))
        else:
            payload = draw.randbytes(draw.choice((0, 1, 200)))
            frames.append(_message(number, payload, address))
        number += 1
        if draw.random() < 0.2:
            frames.append(Frame(Kind.BEAT).to_bytes(0))
    if draw.random() < 0.3:
        last = Frame(draw.choice((Kind.END, Kind.ABORT)), number=number)
        payload = draw.randbytes(40) if last.kind is Kind.ABORT else b""
        frames.append(replace(last, payload=payload).to_bytes(0))
    return frames


def _message(number: int, payload: bytes, address: Address = _ADDRESSES[0]) -> bytes:
    return Frame(Kind.MESSAGE, address, number, 0, payload).to_bytes(0)


def _opens(data: bytes) -> str:
    try:
        Opening.from_bytes(data)
    except WireError:
        return "refused"
    return "read"


def _meets(frames: list[bytes]) -> str:
    """Give the frames to a session as a connection would.

    Raises:
        AssertionError: something was delivered that should not be, or too much is held.
        Exception: it escaped.
    """
    mailbox = Mailbox(_ROUTE, _LIMITS, 0.0)
    session = Session("client", mailbox, _PATIENCE, lambda status: None)
    connection, _ = session.reserve()
    session.begin(connection, 0)
    good: list[tuple[Address, bytes]] = []
    parts = b""
    for data in frames:
        was_over = session.is_over
        session.accept(connection, data)
        assert _held(mailbox, session) <= _LIMITS.queue_bytes + _LIMITS.max_message_bytes
        if was_over or session.state != "connected":
            continue
        frame = Frame.from_bytes(data)
        if frame.kind is Kind.MESSAGE:
            parts += frame.payload
            if not frame.remaining:
                good.append((frame.address, parts))
                parts = b""
    for address in _ADDRESSES:
        due = [payload for at, payload in good if at == address]
        assert [mailbox.take(address) for _ in due] == due, "something else was delivered"
        assert not mailbox.has(address), "something was delivered after the violation"
    if session.state != "failed":
        return str(session.state)
    assert isinstance(mailbox.failure, PeerError), mailbox.failure
    assert str(mailbox.failure).startswith("party client: ")
    last = [Frame.from_bytes(data) for data in session.frames(connection)]
    is_told = any(frame.kind is Kind.ABORT for frame in last)
    assert is_told != (mailbox.failure.error_id == "PEER-FAILED"), "who should be told what?"
    return "told" if mailbox.failure.error_id == "PEER-FAILED" else "failed"


def _held(mailbox: Mailbox, session: Session) -> int:
    queued = sum(len(d) for queue in mailbox._queues.values() for d in queue)
    return queued + len(session._incoming._parts)
