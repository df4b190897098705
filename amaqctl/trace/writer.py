"""Append messages to a trace. The caller owns the file, and puts it in place when it is whole."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from amaqctl.trace.layout import (
    END_COUNT,
    MAGIC,
    PREFIX,
    RECORD_LENGTH,
    TRACE_VERSION,
    TraceHeader,
)

END_BYTES = RECORD_LENGTH.size + END_COUNT.size


def header_bytes(header: TraceHeader) -> bytes:
    """The beginning of a trace, up to its first record."""
    text = header.model_dump_json().encode()
    return PREFIX.pack(MAGIC, TRACE_VERSION, len(text), zlib.crc32(text)) + text


def record_bytes(message_bytes: int) -> int:
    """What a message of so many bytes takes in a trace."""
    return RECORD_LENGTH.size + message_bytes


class TraceWriter:
    """Writes the header at once, then a record for each message, and the end when told.

    Args:
        file: open for writing bytes, empty.
        header: of the trace.
    """

    def __init__(self, file: BinaryIO, header: TraceHeader) -> None:
        self._file = file
        self.num_messages = 0
        file.write(header_bytes(header))

    def append(self, message: bytes) -> None:
        """Add one message.

        Raises:
            OSError: the file cannot be written.
        """
        self._file.write(RECORD_LENGTH.pack(len(message)))
        self._file.write(message)
        self.num_messages += 1

    def end(self) -> None:
        """Add the end, without which a reader takes the trace for cut off."""
        self._file.write(RECORD_LENGTH.pack(0) + END_COUNT.pack(self.num_messages))
