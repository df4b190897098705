"""Frames: what one stream between two parties carries. A message is one frame or several.

==========  ====  ==========================================================================
offset      size  what (integers little-endian)
==========  ====  ==========================================================================
0           1     kind: 1 open, 2 message, 3 beat, 4 abort, 5 end
1           1     role of the address, as in `ROLES`; 0 unless a message
2           2     zero
4           4     link of the address; 0 unless a message
8           8     number of the frame among messages, aborts and ends, from 0; else 0
16          8     how many numbered frames the sender has received
24          8     bytes of this message that follow in later frames; 0 unless a message
32          …     payload
==========  ====  ==========================================================================

Frames are short, so that each one is a sign of life and a lost connection costs at most one of
them. Nothing is allocated because a number says so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from amaqctl.errors import WireError
from amaqctl.transports.transport import ACTIVATION, ROLES, Address

PAYLOAD_BYTES = 2**18  # a quarter of a second at 10 Mbit/s
MAX_TEXT_BYTES = 2000
_HEADER = struct.Struct("<BBHIQQQ")
HEADER_BYTES = _HEADER.size
MAX_FRAME_BYTES = HEADER_BYTES + PAYLOAD_BYTES

PROTOCOL_VERSION = 1
_OPENING = struct.Struct("<BB16sQ")


class Kind(IntEnum):
    """What a frame is for."""

    OPEN = 1  # the first one in either direction; see `Opening`
    MESSAGE = 2
    BEAT = 3  # alive, and so much has come
    ABORT = 4  # the sender has failed; the payload says why
    END = 5  # the sender will send no more


NUMBERED = (Kind.MESSAGE, Kind.ABORT, Kind.END)
_NO_ADDRESS = Address(0, ACTIVATION)


@dataclass(frozen=True)
class Frame:
    """One frame; ``acknowledged`` is filled in when it leaves."""

    kind: Kind
    address: Address = _NO_ADDRESS
    number: int = 0
    remaining: int = 0
    payload: bytes = b""
    acknowledged: int = 0

    def to_bytes(self, acknowledged: int) -> bytes:
        """The frame with what has been received so far."""
        role = ROLES.index(self.address.role)
        link = self.address.link
        head = (self.kind, role, 0, link, self.number, acknowledged, self.remaining)
        return _HEADER.pack(*head) + self.payload

    @classmethod
    def from_bytes(cls, data: bytes) -> Frame:
        """Read what a peer sent.

        Raises:
            WireError: it is no legal frame; nothing else is raised.
        """
        if not HEADER_BYTES <= len(data) <= MAX_FRAME_BYTES:
            raise WireError(f"a frame of {len(data)} bytes")
        kind, role, zero, link, number, acknowledged, remaining = _HEADER.unpack_from(data)
        if not Kind.OPEN <= kind <= Kind.END or role >= len(ROLES) or zero:
            raise WireError(f"a frame of kind {kind} and role {role}, which there is none of")
        frame = cls(
            Kind(kind),
            Address(link, ROLES[role]),
            number,
            remaining,
            bytes(data[HEADER_BYTES:]),
            acknowledged,
        )
        frame._check()
        return frame

    def _check(self) -> None:
        if self.kind is not Kind.MESSAGE and (self.remaining or self.address != _NO_ADDRESS):
            raise WireError(f"a frame of kind {self.kind.name} with parts of a message")
        if self.kind not in NUMBERED and self.number:
            raise WireError(f"a frame of kind {self.kind.name} with a number")
        if self.kind in (Kind.BEAT, Kind.END) and self.payload:
            raise WireError(f"a frame of kind {self.kind.name} with a payload")
        if self.kind is Kind.ABORT and len(self.payload) > MAX_TEXT_BYTES:
            raise WireError(f"a reason of {len(self.payload)} bytes")
        if self.remaining and len(self.payload) != PAYLOAD_BYTES:
            raise WireError(f"a part of {len(self.payload)} bytes that is not the last")


@dataclass(frozen=True)
class Opening:
    """The payload of the first frame of a stream.

    Args:
        name: the party that opens or answers.
        session: sixteen random bytes, drawn by the party that dials, once a session.
        num_received: numbered frames that the sender has received in this session.
        resumes: whether the dialler has been in this session before.
    """

    name: str
    session: bytes
    num_received: int
    resumes: bool = False

    def to_bytes(self) -> bytes:
        """The whole frame."""
        head = _OPENING.pack(PROTOCOL_VERSION, self.resumes, self.session, self.num_received)
        return Frame(Kind.OPEN, payload=head + self.name.encode()).to_bytes(self.num_received)

    @classmethod
    def from_bytes(cls, data: bytes) -> Opening:
        """Read a peer's first frame.

        Raises:
            WireError: it is another kind, or of another version, or not legal.
        """
        frame = Frame.from_bytes(data)
        if frame.kind is not Kind.OPEN or len(frame.payload) < _OPENING.size:
            raise WireError(f"a stream that begins with a frame of kind {frame.kind.name}")
        version, resumes, session, num_received = _OPENING.unpack_from(frame.payload)
        if version != PROTOCOL_VERSION:
            raise WireError(
                f"version {version} of the stream where {PROTOCOL_VERSION} is understood",
                hint="install the same amaqctl at both ends",
            )
        name = frame.payload[_OPENING.size :]
        if resumes > 1 or num_received != frame.acknowledged or not name.isascii():
            raise WireError("a first frame that contradicts itself")
        return cls(name.decode("ascii"), session, num_received, bool(resumes))


def reason(text: str) -> bytes:
    """A text as the payload of an abort, cut to what is legal."""
    return text.encode()[:MAX_TEXT_BYTES]


def shown_reason(payload: bytes) -> str:
    """A peer's text in one line, with nothing in it that a terminal would obey."""
    text = " ".join(payload.decode("utf-8", errors="replace").split())
    return "".join(char if char.isprintable() else "?" for char in text)
