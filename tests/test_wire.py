"""Messages: sizes to the byte, and nothing but wire errors for what is not legal."""

import contextlib
import json
import struct
import zlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amaqctl.bits import WIDTHS, BitAllocation, PackedCodes
from amaqctl.errors import QuantizationError, WireError
from amaqctl.quantizer import QuantizedTensor, TensorContext
from amaqctl.wire import Limits, Message

CONTEXT = TensorContext(
    role="activation", link=0, step=3, total_steps=40, sample_ids=(5, 9), lengths=(4, 3)
)


def _message(widths: list[int], num_rows: int = 10, **changes: object) -> Message:
    widths_C = torch.tensor(widths, dtype=torch.uint8)
    codes = PackedCodes.pack(
        torch.zeros((num_rows, len(widths)), dtype=torch.int8), BitAllocation(widths_C, "channel")
    )
    side = {"range": torch.arange(len(widths), dtype=torch.bfloat16), "seen": torch.tensor([7])}
    side["seen"] = side["seen"].to(torch.int32)
    quantized = QuantizedTensor((2, 5, len(widths)), torch.float32, codes, side)
    return replace(Message("amaq", CONTEXT, quantized, sequence=8), **changes)


def _assert_same(a: Message, b: Message) -> None:
    assert (a.quantizer, a.context, a.sequence, a.session) == (
        b.quantizer,
        b.context,
        b.sequence,
        b.session,
    )
    qa, qb = a.quantized, b.quantized
    assert (qa.shape, qa.dtype) == (qb.shape, qb.dtype)
    assert (qa.codes is None) == (qb.codes is None)
    if qa.codes is not None:
        assert qa.codes.num_rows == qb.codes.num_rows
        assert qa.codes.allocation == qb.codes.allocation
        assert torch.equal(qa.codes.data, qb.codes.data)
    assert list(qa.side) == list(qb.side)
    for name, tensor in qa.side.items():
        assert tensor.dtype == qb.side[name].dtype
        assert torch.equal(tensor, qb.side[name])


@settings(max_examples=100, deadline=None)
@given(widths=st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=9), rows=st.integers(0, 20))
def test_round_trip_and_size_to_the_byte(widths, rows):
    message = _message(widths, rows)
    data, sizes = message.to_bytes_and_sizes()
    _assert_same(Message.from_bytes(data), message)
    assert sizes.codes == -(-rows // 8) * sum(widths)
    assert sizes.widths == (-(-len(widths) // 2) if len(set(widths)) > 1 else 0)
    assert sizes.side == 2 * len(widths) + 4
    header_length = struct.unpack_from("<H", data, 6)[0]
    assert sizes.header == 16 + header_length
    assert len(data) == sizes.codes + sizes.widths + sizes.side + sizes.header == sizes.total


def test_a_message_without_codes():
    quantized = QuantizedTensor((2, 3), torch.float16, None, {"full": torch.ones((2, 3))})
    message = Message("x", CONTEXT, quantized)
    _assert_same(Message.from_bytes(message.to_bytes()), message)


DATA = _message([3, 0, 8, 16, 1]).to_bytes()


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(DATA) * 8 - 1))
def test_every_flipped_bit_is_found(position):
    damaged = bytearray(DATA)
    damaged[position // 8] ^= 1 << (position % 8)
    with pytest.raises(WireError):
        Message.from_bytes(bytes(damaged))


@pytest.mark.parametrize("length", range(len(DATA)))
def test_every_truncation_is_found(length):
    with pytest.raises(WireError):
        Message.from_bytes(DATA[:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_wire_errors(data):
    with pytest.raises(WireError):
        Message.from_bytes(data)


def _forge(header: bytes, body: bytes, kind: int = 1, version: int = 1) -> bytes:
    """A frame with a right checksum around any header."""
    prefix = struct.pack("<4sBBHI", b"AMAQ", version, kind, len(header), len(body))
    checksum = zlib.crc32(body, zlib.crc32(header, zlib.crc32(prefix)))
    return prefix + struct.pack("<I", checksum) + header + body


def _parts() -> tuple[dict, bytes]:
    length = struct.unpack_from("<H", DATA, 6)[0]
    return json.loads(DATA[16 : 16 + length]), DATA[16 + length :]


LIES = st.sampled_from(["shape", "codes", "side", "dtype", "quantizer", "link", "sample_ids"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rows", "columns", "width", "axis", "name", "dtype", "shape"]), inner
        )
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(key=LIES, value=VALUES)
def test_lying_headers_are_wire_errors_or_legal(key, value):
    header, body = _parts()
    header[key] = value
    with contextlib.suppress(WireError):
        Message.from_bytes(_forge(json.dumps(header).encode(), body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [2**30, 2**30]}, "values, at most"),
        ({"shape": [0, 2**28 + 1]}, "a tensor of 268435457 values, at most 268435456"),
        ({"shape": [2**31 - 1, 0, 2**31 - 1]}, "a tensor of 4611686014132420609 values"),
        (
            {"side": [{"name": "s", "dtype": "int8", "shape": [0] + [2**31 - 1] * 7}]},
            "a side tensor 's' of",
        ),
        ({"codes": {"rows": 2**20, "columns": 2**20, "width": 0}}, "values, at most"),
        ({"codes": {"rows": 2**31 - 1, "columns": 0}}, "a code matrix of 2147483647 values"),
        (
            {"codes": {"rows": 0, "columns": 2**20 + 1, "width": 0}},
            "codes.columns: Input should be less than or equal to 1048576",
        ),
        ({"codes": {"rows": 8, "columns": 5, "width": 9}}, "illegal header: codes.width"),
        ({"codes": {"rows": 8, "columns": 5, "width": True}}, "illegal header: codes.width"),
        ({"codes": {"rows": 8, "columns": 5, "width": 8.0}}, "illegal header: codes.width"),
        ({"codes": {"rows": 8, "columns": 1024}}, "the widths alone take 512"),
        ({"codes": {"rows": 9000, "columns": 5, "width": 8}}, "asks for"),
        ({"codes": {"rows": 0, "columns": 5, "width": 8}}, "a body of 73 bytes .* asks for 14"),
        ({"side": [{"name": "range", "dtype": "float32", "shape": [1000]}]}, "asks for"),
        ({"side": [{"name": "a", "dtype": "int8", "shape": []}] * 2}, "one name"),
        ({"dtype": "int8"}, "illegal header: dtype"),
        ({"surprise": 1}, "illegal header: surprise"),
        ({"step": True}, "illegal header: step"),
        ({"step": -1}, "illegal header: step"),
    ],
)
def test_lies_are_named_and_bounded(change, message):
    header, body = _parts()
    with pytest.raises(WireError, match=message):
        Message.from_bytes(_forge(json.dumps({**header, **change}).encode(), body))


@pytest.mark.parametrize(("columns", "body"), [(1, "03"), (2, "33"), (3, "00 00"), (4, "ff ff")])
def test_equal_widths_in_a_section_are_refused(columns, body):
    header = {**_parts()[0], "codes": {"rows": 0, "columns": columns}, "side": []}
    data = _forge(json.dumps(header).encode(), bytes.fromhex(body))
    with pytest.raises(WireError, match="equal widths belong in the header"):
        Message.from_bytes(data)


def test_the_most_columns_that_are_legal_are_read():
    header = {**_parts()[0], "codes": {"rows": 9, "columns": 2**20, "width": 0}, "side": []}
    codes = Message.from_bytes(_forge(json.dumps(header).encode(), b"")).quantized.codes
    assert codes.allocation == BitAllocation.uniform(0, 2**20, "channel")


def test_empty_tensors_within_the_limit_are_read():
    side = {"name": "s", "dtype": "float16", "shape": [0, 2**28]}
    header = {
        **_parts()[0],
        "shape": [0, 2**28],
        "codes": {"rows": 0, "columns": 0},
        "side": [side],
    }
    quantized = Message.from_bytes(_forge(json.dumps(header).encode(), b"")).quantized
    assert quantized.shape == (0, 2**28)
    assert quantized.side["s"].shape == (0, 2**28)


def test_deeply_nested_and_non_utf8_headers_are_wire_errors():
    for header in (b"[" * 60_000, b'{"quantizer":"\xff"}', b"", b"null", b"1" * 60_000):
        with pytest.raises(WireError):
            Message.from_bytes(_forge(header, b""))


def test_version_kind_and_limits():
    with pytest.raises(WireError, match="wire version 2 where 1"):
        Message.from_bytes(_forge(b"{}", b"", version=2))
    with pytest.raises(WireError, match="kind 2 where kind 1"):
        Message.from_bytes(_forge(b"{}", b"", kind=2))
    with pytest.raises(WireError, match="at most 10 are legal"):
        Message.from_bytes(DATA, Limits(max_bytes=10))
    with pytest.raises(WireError, match="a tensor of 50 values, at most 49"):
        Message.from_bytes(DATA, Limits(max_values=49))


def test_a_message_of_just_the_most_bytes_is_read():
    _assert_same(
        Message.from_bytes(DATA, Limits(max_bytes=len(DATA), max_values=50)),
        _message([3, 0, 8, 16, 1]),
    )
    with pytest.raises(WireError, match=f"{len(DATA)} bytes where at most {len(DATA) - 1}"):
        Message.from_bytes(DATA, Limits(max_bytes=len(DATA) - 1))


def test_a_header_too_large_is_refused_by_the_sender():
    context = replace(CONTEXT, sample_ids=tuple(range(20_000)))
    with pytest.raises(QuantizationError, match="too large to send"):
        _message([4], context=context).to_bytes()


def _illegal(
    shape: tuple[int, ...] = (1, 2), side: dict | None = None, columns: int = 0, **changes: object
) -> Message:
    codes = PackedCodes(
        torch.empty(0, dtype=torch.uint8), 0, BitAllocation.uniform(0, columns, "channel")
    )
    quantized = QuantizedTensor(shape, torch.float32, codes, side or {})
    return Message("x", replace(CONTEXT, **changes), quantized)


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (_illegal(side={str(i): torch.zeros(1) for i in range(17)}), "side: Tuple .* 16 items"),
        (_illegal(shape=()), "shape: Tuple should have at least 1 item"),
        (_illegal(shape=(1,) * 9), "shape: Tuple should have at most 8 items"),
        (_illegal(side={"": torch.zeros(1)}), "name: String should have at least 1 character"),
        (_illegal(side={"s": torch.zeros((1,) * 9)}), "shape: Tuple should have at most 8 items"),
        (_illegal(columns=2**20 + 1), "columns: Input should be less than or equal to 1048576"),
        (_illegal(sample_ids=(3, -1)), "sample_ids.1: Input should be greater than or equal to 0"),
        (_illegal(step=True), "step: Input should be a valid integer"),
        (replace(_illegal(), session="\ud800"), "session: Input should be a valid string"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_header_cannot_say_is_refused_by_the_sender(message, place):
    with pytest.raises(QuantizationError, match=f"^'x' asks for what .* cannot carry: {place}"):
        message.to_bytes()


def test_the_most_that_the_header_can_say_is_sent():
    side = {"s" * 64: torch.zeros((1,) * 8)} | {str(i): torch.zeros(()) for i in range(15)}
    message = _illegal(shape=(1,) * 8, side=side, sample_ids=(2**40,))
    _assert_same(Message.from_bytes(message.to_bytes()), message)
