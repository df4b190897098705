"""The last legal value and the first illegal one of everything that a frame and its header say."""

import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.errors import QuantizationError, WireError
from amaqctl.quantizer import QuantizedTensor, TensorContext
from amaqctl.wire import Limits, Message
from amaqctl.wire.frame import KIND_MESSAGE, write_frame

CONTEXT = TensorContext(
    role="gradient",
    link=3,
    step=7,
    total_steps=40,
    micro_batch=2,
    sample_ids=(5, 9),
    lengths=(4, 3),
    left_padded=True,
    first_position=6,
    training=False,
)
CODES = PackedCodes.pack(torch.zeros((2, 2), dtype=torch.int8), BitAllocation.uniform(3, 2))
QUANTIZED = QuantizedTensor((2, 1, 2), torch.bfloat16, CODES, {"range": torch.ones(1)})
MESSAGE = Message("q", CONTEXT, QUANTIZED, sequence=8, session="ab")


def forged(header: dict[str, Any] | bytes, body: bytes, kind: int = 1, magic: bytes = b"AMAQ"):
    """A frame with a right checksum around anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack("<4sBBHI", magic, 1, kind, len(text), len(body))
    checksum = zlib.crc32(body, zlib.crc32(text, zlib.crc32(prefix)))
    return prefix + struct.pack("<I", checksum) + text + body


def parts() -> tuple[dict[str, Any], bytes]:
    data = MESSAGE.to_bytes()
    length = struct.unpack_from("<H", data, 6)[0]
    return json.loads(data[16 : 16 + length]), data[16 + length :]


def changed(document: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with the value at ``place`` (``codes.rows``, ``side.0.name``) changed."""
    copy = json.loads(json.dumps(document))
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner: Any = copy
    for part in path:
        inner = inner[part]
    inner[last] = value
    return copy


def test_everything_that_is_not_a_default_travels():
    read = Message.from_bytes(MESSAGE.to_bytes())
    assert read.context == CONTEXT
    assert (read.quantizer, read.sequence, read.session) == ("q", 8, "ab")
    assert (read.quantized.shape, read.quantized.dtype) == ((2, 1, 2), torch.bfloat16)


def test_defaults():
    message = Message("q", CONTEXT, QUANTIZED)
    assert (message.sequence, message.session) == (0, "")
    assert Limits() == Limits(max_bytes=2**31, max_values=2**28)
    other = replace(CONTEXT, step=9)
    moved = MESSAGE.with_context(other)
    assert moved.context is other
    assert replace(moved, context=CONTEXT) == MESSAGE


@pytest.mark.parametrize(
    ("place", "lowest", "highest"),
    [
        *((place, 0, 2**31 - 1) for place in ("link", "micro_batch", "first_position")),
        *((place, 0, 2**40) for place in ("step", "total_steps", "sequence", "sample_ids.1")),
        ("lengths.0", 0, 2**31 - 1),
    ],
)
def test_the_range_of_every_number_of_a_message(place, lowest, highest):
    header, body = parts()
    for value in (lowest, highest):
        read = Message.from_bytes(forged(changed(header, place, value), body))
        found: Any = read if place == "sequence" else read.context
        for part in place.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        assert found == value
    for value in (lowest - 1, highest + 1):
        with pytest.raises(WireError, match=f"illegal header: {place}: "):
            Message.from_bytes(forged(changed(header, place, value), body))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("shape.0", -1),
        ("shape.0", 2**31),
        ("codes.rows", -1),
        ("codes.rows", 2**31),
        ("codes.columns", -1),
        ("side.0.shape.0", -1),
        ("side.0.shape.0", 2**31),
    ],
)
def test_lengths_outside_their_range(place, value):
    header, body = parts()
    with pytest.raises(WireError, match=f"illegal header: {place}: "):
        Message.from_bytes(forged(changed(header, place, value), body))


@pytest.mark.parametrize(
    ("place", "shortest"), [("quantizer", 1), ("session", 0), ("side.0.name", 1)]
)
def test_the_length_of_every_name_of_a_message(place, shortest):
    header, body = parts()
    for length in (shortest, 64):
        read = Message.from_bytes(forged(changed(header, place, "n" * length), body))
        names = {"quantizer": read.quantizer, "session": read.session}
        assert names.get(place, next(iter(read.quantized.side))) == "n" * length
    for length in ({shortest - 1} - {-1}) | {65}:
        with pytest.raises(WireError, match=f"illegal header: {place}: "):
            Message.from_bytes(forged(changed(header, place, "n" * length), body))


def test_a_header_of_just_the_most_bytes_is_sent_and_read():
    def message(num_ids: int, first: int) -> Message:
        return replace(MESSAGE, context=replace(CONTEXT, sample_ids=(first, *[1] * num_ids)))

    def header_bytes(data: bytes) -> int:
        return struct.unpack_from("<H", data, 6)[0]

    free = 0xFFFF - header_bytes(message(0, 1).to_bytes())
    longest = message(free // 2, 1 if free % 2 == 0 else 10)  # two bytes an id, `,1`
    data = longest.to_bytes()
    assert header_bytes(data) == 0xFFFF
    assert Message.from_bytes(data).context == longest.context
    with pytest.raises(QuantizationError, match="a header of 65536 and a body of 10 bytes"):
        message(free // 2, 10 if free % 2 == 0 else 100).to_bytes()


class Empty(BaseModel):
    """A header without keys."""


class Claiming(bytes):
    """Bytes that claim a length: nobody has four gigabytes for a test."""

    length = 0

    def __len__(self) -> int:
        return self.length


def test_a_body_of_more_than_four_gigabytes_is_not_sent():
    header = Empty()
    body = Claiming()
    body.length = 2**32 - 1
    assert struct.unpack_from("<I", write_frame(KIND_MESSAGE, header, body), 8) == (2**32 - 1,)
    body.length = 2**32
    with pytest.raises(QuantizationError, match="a body of 4294967296 bytes is too large to send"):
        write_frame(KIND_MESSAGE, header, body)


@pytest.mark.parametrize("magic", [b"AMAP", b"AMAR", b"amaq", b"\0\0\0\0"])
def test_a_frame_of_something_else(magic):
    with pytest.raises(WireError, match="the first four bytes are not 'AMAQ'"):
        Message.from_bytes(forged(*parts(), magic=magic))


def test_the_shortest_frame():
    with pytest.raises(WireError, match="illegal header: "):
        Message.from_bytes(forged(b"", b""))
    with pytest.raises(WireError, match="a message of 15 bytes is cut off: 16 come first"):
        Message.from_bytes(forged(b"", b"")[:15])
