"""Messages to and from bytes: versioned, self-describing, validated on construction, no I/O."""

from amaqctl.wire.frame import MAX_HEADER_BYTES, WIRE_VERSION, read_frame, write_frame
from amaqctl.wire.message import Limits, Message, SizeBreakdown

__all__ = [
    "MAX_HEADER_BYTES",
    "WIRE_VERSION",
    "Limits",
    "Message",
    "SizeBreakdown",
    "read_frame",
    "write_frame",
]
