"""Recorded traces with something broken, replayed and drawn."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from functools import partial

from fuzzing.frames import break_frame
from fuzzing.json_files import break_json
from fuzzing.odd_files import odd_files
from fuzzing.runner import Case
from fuzzing.seeds import TRACE, finished
from fuzzing.values import Draw, break_bytes

_PREFIX = struct.Struct("<4sIII")
_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("compress-trace", TRACE, "-q", "fixed:bits=2", "--json"),
    ("compress-trace", TRACE, "-q", "none", "-q", "group:bits=4,group_size=16"),
    ("compress-trace", TRACE, "-q", "aq-sgd", "--role", "activation"),
    ("compress-trace", TRACE, "-q", "amaq:target_bits=3", "--role", "activation", "--verify"),
    ("compress-trace", TRACE, "-q", "fixed", "--verify", "--export", "x.json"),
    ("compress-trace", TRACE, "-q", "fixed", "--export", "x.csv"),
    ("inspect-bits", TRACE), ("inspect-bits", TRACE, "--over-time", "--json"),
)  # fmt: skip


def cases(seed: int) -> Iterator[Case]:
    """Cases without end."""
    draw = random.Random(seed)
    while True:
        whole, dice = finished()[TRACE], draw.random()
        prepare = None
        if dice < 0.04:
            what, make = draw.choice(odd_files())
            files, prepare = {}, partial(make, TRACE)
        else:
            content, what = _broken(draw, whole, dice)
            files = {TRACE: content}
        yield Case(f"trace: {what}"[:250], draw.choice(_COMMANDS), files, prepare)


def _broken(draw: Draw, whole: bytes, dice: float) -> tuple[bytes, str]:
    if dice < 0.1:
        return break_bytes(draw, whole)
    if dice < 0.2:
        noisy = bytearray(whole)
        noisy[draw.randrange(len(noisy))] = draw.randrange(256)
        return bytes(noisy), "a byte"
    header, records = _parts(whole)
    count = len(records)
    if dice < 0.45:
        header, what = break_json(draw, header)
    elif dice < 0.85:
        what = ""
        for _ in range(draw.choice((1, 1, 2))):
            at = draw.randrange(count)
            record, how = break_frame(draw, records[at]) if len(records[at]) > 16 else (b"", "")
            records[at] = record
            what += f"record {at} {how} "
    else:
        records, what = _rearranged(draw, records)
        count = len(records)
    if draw.random() < 0.05:
        count = draw.choice((0, count + 1, 2**64 - 1))
    version = 1 if draw.random() < 0.98 else 2
    return _joined(version, header, records, count), what


def _rearranged(draw: Draw, records: list[bytes]) -> tuple[list[bytes], str]:
    how, at = draw.randrange(6), draw.randrange(len(records))
    if how == 0:
        return records[:at] + records[at + 1 :], f"no record {at}"
    if how == 1:
        return records[:at] + [records[at]] * draw.choice((2, 40)) + records[at:], "repeated"
    if how == 2:
        return records[::-1], "backwards"
    if how == 3:
        return draw.sample(records, len(records)), "shuffled"
    if how == 4:
        return [], "no records"
    return [_of_another_step(draw, record) for record in records], "other steps"


def _of_another_step(draw: Draw, record: bytes) -> bytes:
    """The same tensor, said to be of another step or of other samples."""
    length = struct.unpack_from("<H", record, 6)[0]
    header, body = json.loads(record[16 : 16 + length]), record[16 + length :]
    header["step"] = draw.choice((0, 1, header.get("step", 0), 7, 2**40))
    if header.get("sample_ids"):
        header["sample_ids"] = [draw.choice((0, 1, 7, 8, 2**40)) for _ in header["sample_ids"]]
    text = json.dumps(header).encode()
    prefix = record[:6] + struct.pack("<HI", len(text), len(body))
    checksum = zlib.crc32(body, zlib.crc32(text, zlib.crc32(prefix)))
    return prefix + struct.pack("<I", checksum) + text + body


def _parts(whole: bytes) -> tuple[bytes, list[bytes]]:
    """The header, and the messages."""
    length = _PREFIX.unpack_from(whole)[2]
    at = _PREFIX.size + length
    header, records = whole[_PREFIX.size : at], []
    while (length := struct.unpack_from("<I", whole, at)[0]) > 0:
        records.append(whole[at + 4 : at + 4 + length])
        at += 4 + length
    return header, records


def _joined(version: int, header: bytes, records: list[bytes], count: int) -> bytes:
    start = _PREFIX.pack(b"AMQT", version, len(header), zlib.crc32(header)) + header
    body = b"".join(struct.pack("<I", len(record)) + record for record in records)
    return start + body + struct.pack("<IQ", 0, count)
