"""docs/wire-format.md against the code: header tables, order of checks, the explained message."""

import json
import re
import struct
import zlib

import pytest
import torch
from pages import DOCS, fence, rows, section
from pydantic import BaseModel

from amaqctl import registry
from amaqctl.errors import WireError
from amaqctl.party import notes
from amaqctl.quantizer import Site
from amaqctl.wire import MAX_HEADER_BYTES, WIRE_VERSION, Limits, Message
from amaqctl.wire.header import CodesHeader, MessageHeader, SideHeader

PAGE = (DOCS / "wire-format.md").read_text(encoding="utf-8")


MESSAGE = bytes.fromhex(fence(section(PAGE, "The bytes"), "hex"))


def _number(value: int) -> str:
    known = {2**20: "2^20", 2**31 - 1: "2^31 - 1", 2**32 - 1: "2^32 - 1", 2**40: "2^40"}
    return known.get(value, str(value))


def _span(schema: dict, low: str, high: str, unit: str) -> str:
    if high not in schema:
        return ""
    least = schema.get(low, 0)
    if least == schema[high]:
        return f"{_number(least)}{unit}"
    return f"{_number(least)} to {_number(schema[high])}{unit}"


def _value(schema: dict) -> tuple[str, str]:
    """Type and bounds of one JSON schema, in the page's words."""
    if "anyOf" in schema:
        inner = next(s for s in schema["anyOf"] if s.get("type") != "null")
        kind, bounds = _value(inner)
        return f"{kind} or null", bounds
    if "$ref" in schema:
        return "object", ""
    if "enum" in schema and schema["type"] == "integer":
        return "integer", ", ".join(str(value) for value in schema["enum"])
    if "enum" in schema:
        return "string", ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "string":
        return "string", _span(schema, "minLength", "maxLength", " characters")
    if schema["type"] == "array":
        kind, bounds = _value(schema.get("items") or schema["prefixItems"][0])
        count = _span(schema, "minItems", "maxItems", " items")
        each = f"each {bounds}" if bounds else ""
        return f"array of {kind}s", ", ".join(filter(None, (count, each)))
    if schema["type"] == "integer":
        return "integer", _span(schema, "minimum", "maximum", "")
    return schema["type"], ""


def _described(model: type[BaseModel]) -> list[list[str]]:
    """Key, type, default and bounds of each field, as the page must show them."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        [
            f"`{name}`",
            _value(field)[0],
            "required" if name in required else f"`{json.dumps(field['default'])}`",
            _value(field)[1],
        ]
        for name, field in schema["properties"].items()
    ]


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("Keys of a message header", MessageHeader),
        ("Keys of `codes`", CodesHeader),
        ("Keys of an entry of `side`", SideHeader),
        ("Keys of a note header", notes._Header),
    ],
)
def test_key_tables_are_those_of_the_models(heading, model):
    assert [row[:4] for row in rows(section(PAGE, heading))] == _described(model)


def test_the_kinds_of_notes_are_those_of_the_code():
    told = {row[0].strip("`"): row[2] for row in rows(section(PAGE, "Kinds of notes"))}
    written = {
        kind: ", ".join(f"`{name}`" for name in cls.model_fields)
        for kind, cls in notes._KINDS.items()
    }
    assert told == written


def test_stated_limits_are_those_of_the_code():
    assert f"wire version {WIRE_VERSION}" in PAGE
    assert f"at most {MAX_HEADER_BYTES} bytes" in PAGE
    stated = dict(row[:2] for row in rows(section(PAGE, "Limits of a receiver")))
    assert stated == {"`max_bytes`": "2^31", "`max_values`": "2^28"}
    assert Limits() == Limits(max_bytes=2**31, max_values=2**28)


def test_the_explained_message_reads_and_encodes_again_to_the_same_bytes():
    message = Message.from_bytes(MESSAGE)
    assert message.quantizer == "amaq"
    assert message.quantized.codes is not None
    assert message.quantized.codes.allocation.uniform_width is None
    assert message.to_bytes() == MESSAGE


@pytest.mark.parametrize("part", ["prefix", "header", "body"])
def test_every_row_of_the_explanation_is_in_the_message(part):
    body_start = 16 + struct.unpack_from("<H", MESSAGE, 6)[0]
    at = {"prefix": 0, "header": 16, "body": body_start}[part]
    end = {"prefix": 16, "header": body_start, "body": len(MESSAGE)}[part]
    for offset, length, content, _ in rows(section(PAGE, f"The {part}")):
        text = content.strip("`")
        data = text.encode() if part == "header" else bytes.fromhex(text)
        assert (int(offset), int(length)) == (at, len(data)), content
        assert MESSAGE[at : at + len(data)] == data
        at += len(data)
    assert at == end, "the rows leave a part of the message unexplained"


def test_the_explained_header_is_the_printed_one():
    length = struct.unpack_from("<H", MESSAGE, 6)[0]
    assert json.loads(fence(section(PAGE, "The header"), "json")) == json.loads(
        MESSAGE[16 : 16 + length]
    )


def _matrix(heading: str) -> torch.Tensor:
    return torch.tensor([[float(cell) for cell in row[1:]] for row in rows(section(PAGE, heading))])


def test_values_that_went_in_codes_and_values_that_come_out():
    message = Message.from_bytes(MESSAGE)
    quantized = message.quantized
    cls = registry.load(registry.QUANTIZERS, "amaq")
    config = cls.Config(allocation="learned", target_bits=2, spare_code=False, center=True)
    site = Site(0, "activation", num_channels=4, max_positions=3, num_samples=8, seed=0)
    sender, receiver = cls(config, site), cls(config, site)
    with torch.no_grad():
        sender.gates_K.copy_(torch.tensor([-6.0, -1.5, 0.2, 0.8]))
        sent = sender.quantize(_matrix("What went in").reshape(1, 3, 4), message.context)
        decoded = receiver.dequantize(quantized, message.context)
    again = Message("amaq", message.context, sent, sequence=message.sequence)
    assert again.to_bytes() == MESSAGE
    assert torch.equal(quantized.codes.unpack().float(), _matrix("The codes"))
    assert torch.equal(decoded[0], _matrix("What comes out"))


def _forge(header: bytes, body: bytes, **changes: object) -> bytes:
    fields = {"magic": b"AMAQ", "version": 1, "kind": 1, "body_length": len(body), **changes}
    prefix = struct.pack(
        "<4sBBHI",
        fields["magic"],
        fields["version"],
        fields["kind"],
        len(header),
        fields["body_length"],
    )
    crc = zlib.crc32(body, zlib.crc32(header, zlib.crc32(prefix)))
    return prefix + struct.pack("<I", crc ^ int("damage" in changes)) + header + body


FRAME_FAULTS = [
    ({"magic": b"QAMA"}, "the first four bytes"),
    ({"version": 9}, "wire version 9"),
    ({"kind": 7}, "kind 7"),
    ({"body_length": 5}, "says it has"),
    ({"damage": True}, "the checksum does not fit"),
    ({}, "illegal header"),
]


@pytest.mark.parametrize("first", range(len(FRAME_FAULTS)))
def test_a_frame_is_checked_in_the_written_order(first):
    changes = {key: value for fault, _ in FRAME_FAULTS[first:] for key, value in fault.items()}
    with pytest.raises(WireError, match=FRAME_FAULTS[first][1]):
        Message.from_bytes(_forge(b"[]", b"", **changes))
    with pytest.raises(WireError, match="at most 10 are legal"):
        Message.from_bytes(b"QAMA" * 3, Limits(max_bytes=10))
    with pytest.raises(WireError, match="cut off"):
        Message.from_bytes(b"QAMA" * 3)


def _lie(header: dict, body: bytearray, path: list, value: object) -> None:
    if path[0] == "body":
        body[path[1]] = value
        return
    for key in path[:-1]:
        header = header[key]
    header[path[-1]] = value


BODY_FAULTS = [
    (["shape"], [0, 2**31 - 1], "a tensor of 2147483647 values"),
    (["side", 1, "name"], "mean", "one name"),
    (["side", 0, "shape"], [2**31 - 1, 0], "a side tensor 'mean' of 2147483647 values"),
    (["side", 1, "shape"], [2**31 - 1], "a side tensor 'range' of 2147483647 values"),
    (["codes", "rows"], 2**31 - 1, "a code matrix of"),
    (["codes", "columns"], 99, "the widths alone take 50"),
    (["codes", "columns"], 3, "the unused half"),
    (["body", 0], 0x91, "bit-width 9"),
    (["body", slice(0, 2)], b"\x33\x33", "equal widths"),
    (["side", 1, "shape"], [99], "a body of 24 bytes where the header asks for 216"),
]


@pytest.mark.parametrize("first", range(len(BODY_FAULTS)))
def test_a_body_is_checked_in_the_written_order(first):
    length = struct.unpack_from("<H", MESSAGE, 6)[0]
    header, body = json.loads(MESSAGE[16 : 16 + length]), bytearray(MESSAGE[16 + length :])
    # The fault under test is written last, over those that must not be noticed before it.
    for path, value, _ in reversed(BODY_FAULTS[first:]):
        _lie(header, body, path, value)
    with pytest.raises(WireError, match=re.escape(BODY_FAULTS[first][2])):
        Message.from_bytes(_forge(json.dumps(header).encode(), bytes(body)))


@pytest.mark.parametrize("change", [-1, 1])
def test_the_sections_must_add_up_to_the_body(change):
    length = struct.unpack_from("<H", MESSAGE, 6)[0]
    header, body = MESSAGE[16 : 16 + length], (MESSAGE[16 + length :] + b"\0")[: 24 + change]
    with pytest.raises(WireError, match=f"a body of {24 + change} bytes where .* asks for 24"):
        Message.from_bytes(_forge(header, body))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"step": 12, "micro_batch": 0}, b""),
        ({"codes": {"rows": 1, "columns": 0, "width": 3}}, b""),
        ({"codes": {"rows": 1, "columns": 1, "width": 1}}, bytes.fromhex("ff")),
        ({"sample_ids": [1, 2, 3], "lengths": [9]}, b""),
    ],
    ids=["default written out", "width of no columns", "padding not zero", "counts"],
)
def test_what_the_page_says_is_not_checked_is_accepted(header, body):
    plain = {"quantizer": "x", "role": "gradient", "link": 0, "step": 0, "total_steps": 1}
    plain |= {"shape": [1, 4], "dtype": "float32"} | header
    assert Message.from_bytes(_forge(json.dumps(plain).encode(), body)).quantizer == "x"


def test_the_last_of_two_equal_keys_counts():
    header = b'{"quantizer":"x","role":"gradient","link":0,"step":0,"total_steps":1,"shape":[1],'
    data = _forge(header + b'"dtype":"float32","step":7}', b"")
    assert Message.from_bytes(data).context.step == 7
