"""Messages to and from bytes: versioned, self-describing, validated on construction, no I/O."""

from amaqctl.wire.frame import MAX_HEADER_BYTES, WIRE_VERSION
from amaqctl.wire.hello import ChannelOffer, Hello
from amaqctl.wire.message import Limits, Message, SizeBreakdown

__all__ = [
    "MAX_HEADER_BYTES",
    "WIRE_VERSION",
    "ChannelOffer",
    "Hello",
    "Limits",
    "Message",
    "SizeBreakdown",
]
