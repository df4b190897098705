"""Read a trace, one message at a time.

A length is believed only after it was held against the size of the file, so a damaged file is
named and never exhausts the memory. A torn trace is refused, not read as far as it goes: what is
missing would change every number of a report.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from amaqctl.errors import InputError, WireError
from amaqctl.quantizer import Role
from amaqctl.storage import open_regular
from amaqctl.trace.layout import (
    END_COUNT,
    MAGIC,
    MAX_HEADER_BYTES,
    PREFIX,
    RECORD_LENGTH,
    TRACE_VERSION,
    SiteFacts,
    TraceHeader,
)
from amaqctl.wire import Limits, Message

_TORN = "record it again: a trace is whole or it is not used"
# Values that take no bits could be claimed by the million in a few bytes, and each takes memory
# once it is decoded: a sixteenth of a byte a value must be there, in a file that is not small.
_VALUES_A_BYTE = 16
_LEAST_MAX_VALUES = 2**22


class Trace:
    """A trace file, whose header is read and whose messages are read on iteration.

    Args:
        path: the file.

    Raises:
        InputError: not readable, not a trace, of another version, or with a damaged header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path, None) as file:
                self.num_bytes = os.fstat(file.fileno()).st_size
                self.header = self._read_header(file)
                self._first_record = file.tell()
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror}", where=str(path), error_id="INPUT-TRACE"
            ) from error
        self._sites: dict[tuple[int, Role], SiteFacts] = {
            (site.link, site.role): site for site in self.header.sites
        }

    def site(self, link: int, role: Role) -> SiteFacts:
        """The channel that a message of this trace belongs to."""
        return self._sites[link, role]

    def __iter__(self) -> Iterator[Message]:
        """Every message, in the order in which they were sent.

        Raises:
            InputError: a record is damaged or missing; it is named by its number, from 0.
        """
        try:
            with open_regular(self.path, None) as file:
                file.seek(self._first_record)
                yield from self._messages(file)
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror}", where=str(self.path), error_id="INPUT-TRACE"
            ) from error

    def _messages(self, file: BinaryIO) -> Iterator[Message]:
        number = 0
        limits = Limits(
            max_bytes=self.num_bytes,
            max_values=max(_LEAST_MAX_VALUES, _VALUES_A_BYTE * self.num_bytes),
        )
        while True:
            (length,) = RECORD_LENGTH.unpack(self._take(file, RECORD_LENGTH.size, number))
            if length == 0:
                break
            data = self._take(file, length, number)
            try:
                message = Message.from_bytes(data, limits)
            except WireError as error:
                raise self._damaged(f"record {number}: {error.message}") from error
            self._check_site(message, number)
            yield message
            number += 1
        (count,) = END_COUNT.unpack(self._take(file, END_COUNT.size, number))
        if count != number:
            raise self._damaged(f"{number} records where the end tells of {count}")
        if file.tell() != self.num_bytes:
            raise self._damaged(f"{self.num_bytes - file.tell()} bytes stand behind its end")

    def _take(self, file: BinaryIO, num_bytes: int, number: int) -> bytes:
        left = self.num_bytes - file.tell()
        if num_bytes > left:
            raise self._damaged(
                f"cut off in record {number}: {num_bytes} bytes are due and {left} are left"
            )
        return file.read(num_bytes)

    def _check_site(self, message: Message, number: int) -> None:
        context, shape = message.context, message.quantized.shape
        site = self._sites.get((context.link, context.role))
        if site is None:
            raise self._damaged(
                f"record {number}: link {context.link} {context.role} is not in the header"
            )
        if len(shape) != 3 or shape[2] != site.num_channels or 0 in shape:
            raise self._damaged(
                f"record {number}: a tensor of shape {shape} where "
                f"(batch, tokens, {site.num_channels}) was due"
            )
        if context.lengths and (
            len(context.lengths) != shape[0] or max(context.lengths) > shape[1]
        ):
            raise self._damaged(f"record {number}: lengths that do not fit the shape {shape}")

    def _read_header(self, file: BinaryIO) -> TraceHeader:
        prefix = file.read(PREFIX.size)
        if len(prefix) < PREFIX.size or not prefix.startswith(MAGIC):
            raise InputError(
                "not a trace: it does not begin with 'AMQT'",
                where=str(self.path),
                hint="make one with: amaqctl compress-trace --record PROFILE --out FILE",
                error_id="INPUT-TRACE",
            )
        _, version, length, checksum = PREFIX.unpack(prefix)
        if version != TRACE_VERSION:
            raise InputError(
                f"trace version {version} where {TRACE_VERSION} is understood",
                where=str(self.path),
                hint="record it again with this amaqctl",
                error_id="INPUT-TRACE",
            )
        if length > min(MAX_HEADER_BYTES, self.num_bytes - PREFIX.size):
            raise self._damaged("cut off in its header")
        text = file.read(length)
        if zlib.crc32(text) != checksum:
            raise self._damaged("the checksum of its header does not fit")
        try:
            return TraceHeader.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "header"
            raise self._damaged(f"illegal header: {place}: {first['msg']}") from error

    def _damaged(self, message: str) -> InputError:
        return InputError(message, where=str(self.path), hint=_TORN, error_id="INPUT-TRACE-DAMAGED")
