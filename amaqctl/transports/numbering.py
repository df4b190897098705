"""Frames numbered and kept until acknowledged, and frames checked and put together again.

The two directions of a session, apart from threads and connections. Not safe for several threads:
`Session` holds its lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from amaqctl.errors import TransportError, WireError
from amaqctl.transports.frames import NUMBERED, PAYLOAD_BYTES, Frame, Kind
from amaqctl.transports.party_settings import MESSAGE_OVERHEAD_BYTES
from amaqctl.transports.transport import Address


class Outgoing:
    """What was sent and may have to be sent again.

    Attributes:
        num_frames: numbered frames so far.
        num_acknowledged: of these, how many the peer has.
        num_told: of these, how many have left on some connection.
        kept_bytes: bytes of the rest.
    """

    def __init__(self) -> None:
        self.num_frames = self.num_acknowledged = self.num_told = 0
        self.kept_bytes = 0
        self._kept: deque[Frame] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether the peer has everything."""
        return not self._kept

    def add(self, kind: Kind, payload: bytes = b"") -> None:
        """Number and keep a frame that is no message."""
        self._keep(Frame(kind, number=self.num_frames, payload=payload))

    def add_message(self, address: Address, data: bytes, cap_bytes: int) -> None:
        """Number and keep a message, in parts where it is long.

        Raises:
            TransportError: more than ``cap_bytes`` would wait to be acknowledged.
        """
        if self.kept_bytes + len(data) > cap_bytes:
            raise TransportError(
                f"acknowledges nothing: {self.kept_bytes} bytes wait for it",
                error_id="PEER-FLOOD",
            )
        view = memoryview(data)
        for start in range(0, max(len(data), 1), PAYLOAD_BYTES):
            part = bytes(view[start : start + PAYLOAD_BYTES])
            remaining = len(data) - start - len(part)
            self._keep(Frame(Kind.MESSAGE, address, self.num_frames, remaining, part))

    def frame(self, number: int) -> Frame:
        """A kept frame that is about to leave."""
        self.num_told = max(self.num_told, number + 1)
        return self._kept[number - self.num_acknowledged]

    def acknowledge(self, num_received: int) -> None:
        """Forget what the peer has.

        Raises:
            WireError: it says that it has what never left, or takes back what it said.
        """
        if not self.num_acknowledged <= num_received <= self.num_told:
            raise WireError(
                f"acknowledges {num_received} frames after {self.num_acknowledged} "
                f"of {self.num_told}"
            )
        while self.num_acknowledged < num_received:
            self.kept_bytes -= _weight(self._kept.popleft())
            self.num_acknowledged += 1

    def _keep(self, frame: Frame) -> None:
        self._kept.append(frame)
        self.kept_bytes += _weight(frame)
        self.num_frames += 1


class Incoming:
    """What came: each number once, in order, and messages whole.

    Args:
        max_message_bytes: the longest legal message, asked anew for each.

    Attributes:
        num_received: numbered frames so far.
    """

    def __init__(self, max_message_bytes: Callable[[], int]) -> None:
        self.num_received = 0
        self._max_message_bytes = max_message_bytes
        self._parts = bytearray()
        self._address: Address | None = None
        self._remaining = 0
        self._is_ended = False

    def accept(self, frame: Frame) -> bytes | None:
        """Check a frame; the message that it completes, if it does.

        Raises:
            WireError: it is not the one that is due; nothing has changed then.
        """
        if frame.kind is Kind.OPEN:
            raise WireError("a stream that is opened twice")
        if frame.kind not in NUMBERED:
            return None
        if frame.number != self.num_received:
            raise WireError(f"frame {frame.number} where {self.num_received} is due")
        if self._is_ended:
            raise WireError("a frame after the last one")
        if frame.kind is Kind.MESSAGE:
            self._check_part(frame)
        elif self._address is not None and frame.kind is Kind.END:
            raise WireError("an end in the middle of a message")
        self.num_received += 1
        self._is_ended = frame.kind is not Kind.MESSAGE
        return self._joined(frame) if frame.kind is Kind.MESSAGE else None

    def _check_part(self, frame: Frame) -> None:
        length = len(frame.payload)
        if self._address is None:
            total = length + frame.remaining
            if total > self._max_message_bytes():
                raise WireError(
                    f"a message of {total} bytes where at most {self._max_message_bytes()} are "
                    "legal",
                    error_id="PEER-OVERSIZE",
                )
        elif frame.address != self._address or length + frame.remaining != self._remaining:
            raise WireError("a part that does not continue the message before it")

    def _joined(self, frame: Frame) -> bytes | None:
        if self._address is None and not frame.remaining:
            return frame.payload
        self._parts += frame.payload
        self._address, self._remaining = frame.address, frame.remaining
        if frame.remaining:
            return None
        message = bytes(self._parts)
        self._parts, self._address = bytearray(), None
        return message


def _weight(frame: Frame) -> int:
    return len(frame.payload) + MESSAGE_OVERHEAD_BYTES
