"""Messages and hellos: sizes to the byte, and nothing but wire errors for what is not legal."""

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
from amaqctl.wire import ChannelOffer, Hello, Limits, Message

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
        b.quantizer, b.context, b.sequence, b.session,
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
    for read in (Message.from_bytes, Hello.from_bytes):
        with pytest.raises(WireError):
            read(data)


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
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["rows", "columns", "width", "axis", "name", "dtype", "shape"]), inner
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(key=LIES, value=VALUES)
def test_lying_headers_are_wire_errors_or_legal(key, value):
    header, body = _parts()
    header[key] = value
    try:
        Message.from_bytes(_forge(json.dumps(header).encode(), body))
    except WireError:
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [2**30, 2**30]}, "values, at most"),
        ({"codes": {"rows": 2**31 - 1, "columns": 2**31 - 1, "width": 0}}, "values, at most"),
        ({"codes": {"rows": 8, "columns": 5, "width": 9}}, "bit-width 9"),
        ({"codes": {"rows": 9000, "columns": 5, "width": 8}}, "asks for"),
        ({"codes": {"rows": 0, "columns": 5, "width": 8}}, "of which the header explains"),
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


def test_a_header_too_large_is_refused_by_the_sender():
    context = replace(CONTEXT, sample_ids=tuple(range(20_000)))
    with pytest.raises(QuantizationError, match="too large to send"):
        _message([4], context=context).to_bytes()


HELLO = Hello(
    session="ab12",
    model="tiny@float32",
    cuts=(2,),
    seed=17,
    channels=(
        ChannelOffer(link=0, role="activation", quantizer="amaq", options={"target_bits": 4.0}),
    ),
)


def test_hello_round_trip_and_agreement():
    read = Hello.from_bytes(HELLO.to_bytes())
    assert read == HELLO
    HELLO.check_agrees(read)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 18}, "seed: 17 here, 18 there"),
        ({"cuts": (3,)}, r"cuts\[0\]: 2 here, 3 there"),
        (
            {"channels": (HELLO.channels[0].model_copy(update={"options": {"target_bits": 3}}),)},
            r"channels\[0\].options.target_bits: 4.0 here, 3 there",
        ),
    ],
)
def test_hello_names_the_differing_key(change, key):
    with pytest.raises(WireError, match=key):
        HELLO.check_agrees(HELLO.model_copy(update=change))
