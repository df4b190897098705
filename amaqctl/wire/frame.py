"""The outer form of everything on the wire: sixteen bytes, a JSON header, a body.

==========  ====  =====================================================
offset      size  what (integers little-endian)
==========  ====  =====================================================
0           4     ``AMAQ``
4           1     wire version, 1
5           1     kind: 1 message, 3 note, 4 weights (2 is not in use)
6           2     header length h in bytes
8           4     body length in bytes
12          4     CRC-32 of all other bytes: 0–11, header, body
16          h     header, UTF-8 JSON
16 + h      …     body
==========  ====  =====================================================

A CRC finds every flipped bit; it is no protection against a peer that lies, so headers are
validated field by field, strictly.
"""

from __future__ import annotations

import struct
import zlib
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from amaqctl.errors import QuantizationError, WireError

MAGIC = b"AMAQ"
WIRE_VERSION = 1
MAX_HEADER_BYTES = 0xFFFF
_PREFIX = struct.Struct("<4sBBHI")
_CRC = struct.Struct("<I")
PREFIX_BYTES = _PREFIX.size + _CRC.size

KIND_MESSAGE = 1
KIND_NOTE = 3
KIND_WEIGHTS = 4

HeaderModel = TypeVar("HeaderModel", bound=BaseModel)


def write_frame(kind: int, header: BaseModel, *body: bytes | memoryview) -> bytes:
    """One whole frame; the body may come in parts.

    Raises:
        QuantizationError: the header is longer than 65,535 bytes, or the body than 4 GiB.
    """
    header_bytes = header.model_dump_json(exclude_defaults=True).encode()
    body_length = sum(map(len, body))
    if len(header_bytes) > MAX_HEADER_BYTES or body_length > 0xFFFFFFFF:
        raise QuantizationError(
            f"a message with a header of {len(header_bytes)} and a body of {body_length} bytes is "
            "too large to send",
            hint="use smaller batches",
        )
    prefix = _PREFIX.pack(MAGIC, WIRE_VERSION, kind, len(header_bytes), body_length)
    checksum = zlib.crc32(prefix)
    for part in (header_bytes, *body):
        checksum = zlib.crc32(part, checksum)
    return b"".join((prefix, _CRC.pack(checksum), header_bytes, *body))


def read_frame(
    data: bytes, kind: int, model: type[HeaderModel], max_bytes: int
) -> tuple[HeaderModel, memoryview]:
    """Take a frame apart: the validated header and a view of the body.

    Raises:
        WireError: too short, too long, foreign, of another version or kind, damaged, or with a
            header that is not legal.
    """
    if len(data) > max_bytes:
        raise WireError(f"a message of {len(data)} bytes where at most {max_bytes} are legal")
    if len(data) < PREFIX_BYTES:
        raise WireError(f"a message of {len(data)} bytes is cut off: {PREFIX_BYTES} come first")
    magic, version, got_kind, header_length, body_length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise WireError("not an amaqctl message: the first four bytes are not 'AMAQ'")
    if version != WIRE_VERSION:
        raise WireError(
            f"wire version {version} where {WIRE_VERSION} is understood",
            hint="install the same amaqctl at both ends",
        )
    if got_kind != kind:
        raise WireError(f"a message of kind {got_kind} where kind {kind} was due")
    expected = PREFIX_BYTES + header_length + body_length
    if len(data) != expected:
        raise WireError(f"a message of {len(data)} bytes that says it has {expected}")
    view = memoryview(data)
    (checksum,) = _CRC.unpack_from(data, _PREFIX.size)
    if checksum != zlib.crc32(view[PREFIX_BYTES:], zlib.crc32(view[: _PREFIX.size])):
        raise WireError("the checksum does not fit: the message was damaged on its way")
    body_start = PREFIX_BYTES + header_length
    try:
        header = model.model_validate_json(bytes(view[PREFIX_BYTES:body_start]))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "header"
        raise WireError(f"illegal header: {place}: {first['msg']}") from error
    return header, view[body_start:]
