"""Broken frames of the wire: the JSON header, the body, or what the first bytes say of them."""

from __future__ import annotations

import json
import struct
import zlib

from fuzzing.json_files import change_tree
from fuzzing.values import Draw, break_bytes

_PREFIX = struct.Struct("<4sBBHI")
_START = _PREFIX.size + 4
_FLOATS = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xc0\x7f", b"\xff" * 4, b"\x00" * 4)


def break_frame(draw: Draw, frame: bytes) -> tuple[bytes, str]:
    """A frame like ``frame`` with something wrong, mostly with a checksum that fits, and what."""
    magic, version, kind, header_length, _ = _PREFIX.unpack_from(frame)
    header, body = frame[_START : _START + header_length], frame[_START + header_length :]
    dice = draw.random()
    try:
        tree = json.loads(header)
    except (ValueError, RecursionError):  # damaged by the change before
        dice = 0.0
    if dice < 0.1:
        return _noisy(draw, frame), "bytes"
    if dice < 0.15:
        return break_bytes(draw, frame[: draw.randrange(len(frame))])
    what = []
    if dice < 0.75:
        what += [change_tree(draw, tree) for _ in range(draw.choice((1, 1, 2, 4)))]
        header = json.dumps(tree, ensure_ascii=draw.random() < 0.7).encode("utf-8", "replace")
    if dice > 0.6:
        body, how = _other_body(draw, body)
        what.append(how)
    if draw.random() < 0.03:
        version, kind = draw.choice(((0, 1), (2, 1), (255, 255), (1, 2), (1, 0)))
        what.append(f"version {version} kind {kind}")
    if len(header) > 0xFFFF:
        header = header[:0xFFFF]
    length = len(body) if draw.random() < 0.97 else draw.choice((0, 1, 2**32 - 1))
    prefix = _PREFIX.pack(magic, version, kind, len(header), length)
    checksum = zlib.crc32(body, zlib.crc32(header, zlib.crc32(prefix)))
    return prefix + struct.pack("<I", checksum) + header + body, "; ".join(what)[:150]


def _other_body(draw: Draw, body: bytes) -> tuple[bytes, str]:
    how = draw.randrange(5)
    if how == 0 or not body:
        return body + draw.randbytes(draw.choice((1, 2, 4, 64))), "a longer body"
    if how == 1:
        return body[: draw.randrange(len(body))], "a shorter body"
    if how == 2:
        at, value = draw.randrange(len(body)), draw.choice(_FLOATS)
        return (body[:at] + value + body[at + len(value) :])[: len(body)], f"body {value.hex()}"
    if how == 3:
        return draw.choice((b"\0", b"\xff", b"\x7f")) * len(body), "a body of one byte"
    return _noisy(draw, body), "bytes of the body"


def _noisy(draw: Draw, data: bytes) -> bytes:
    noisy = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 30))):
        noisy[draw.randrange(len(noisy))] ^= 1 << draw.randrange(8)
    return bytes(noisy)
