"""The packed layout and the grid: values and bytes."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amaqctl.bits import (
    WIDTHS,
    BitAllocation,
    PackedCodes,
    decode,
    encode,
    largest_code,
    nearest_codes,
    pack,
    packed_bytes,
    step_size,
    unpack,
)
from amaqctl.bits.packing import half_range
from amaqctl.errors import QuantizationError


def _random_codes(num_rows: int, widths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    columns = [
        torch.randint(-(2 ** (b - 1)), 2 ** (b - 1), (num_rows,), generator=generator)
        if b
        else torch.zeros(num_rows, dtype=torch.int64)
        for b in widths
    ]
    codes = torch.stack(columns, 1) if columns else torch.zeros((num_rows, 0), dtype=torch.int64)
    return codes.to(torch.int16), torch.tensor(widths, dtype=torch.uint8)


@settings(max_examples=200, deadline=None)
@given(
    num_rows=st.integers(0, 40),
    widths=st.lists(st.sampled_from(WIDTHS), max_size=20),
    seed=st.integers(0, 2**31),
)
def test_unpack_inverts_pack_for_every_mix_of_widths(num_rows, widths, seed):
    codes, widths_C = _random_codes(num_rows, widths, seed)
    packed = pack(codes, widths_C)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-num_rows // 8) * sum(widths) == packed_bytes(num_rows, widths_C)
    unpacked = unpack(packed, num_rows, widths_C)
    assert unpacked.dtype == (torch.int16 if 16 in widths else torch.int8)
    assert torch.equal(unpacked.to(torch.int16), codes)


def _reference_pack(codes: list[list[int]], widths: list[int]) -> bytes:
    """The layout as its docstring says it, in integers."""
    out = bytearray()
    rows = codes + [[0] * len(widths)] * (-len(codes) % 8)
    for start in range(0, len(rows), 8):
        for column, bits in enumerate(widths):
            word = (
                sum((rows[start + i][column] % 2**bits) << (bits * i) for i in range(8))
                if bits
                else 0
            )
            out += word.to_bytes(bits, "little")
    return bytes(out)


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 20),
    widths=st.lists(st.sampled_from(WIDTHS), max_size=9),
    seed=st.integers(0, 2**31),
)
def test_bytes_are_those_of_the_written_layout(num_rows, widths, seed):
    codes, widths_C = _random_codes(num_rows, widths, seed)
    assert pack(codes, widths_C).numpy().tobytes() == _reference_pack(codes.tolist(), widths)


def test_a_small_block_by_hand():
    # Column 0 in 3 bits holds -1, then zeros: 0b111 in the lowest bits. Column 1 in 1 bit: all -1.
    codes = torch.tensor([[-1, -1]] + [[0, -1]] * 7, dtype=torch.int8)
    assert pack(codes, torch.tensor([3, 1], dtype=torch.uint8)).tolist() == [7, 0, 0, 255]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
def test_a_code_that_does_not_fit_is_refused_by_name(bits):
    codes = torch.zeros((2, 3), dtype=torch.int8)
    codes[1, 2] = 2 ** (bits - 1)
    with pytest.raises(QuantizationError, match=f"of column 2 do not fit {bits} bits"):
        pack(codes, torch.tensor([bits] * 3, dtype=torch.uint8))


def test_a_code_in_a_column_that_is_not_sent_is_refused():
    with pytest.raises(QuantizationError, match="do not fit 0 bits"):
        pack(torch.ones((1, 1), dtype=torch.int8), torch.zeros(1, dtype=torch.uint8))


def test_of_several_columns_that_do_not_fit_the_first_is_named():
    codes = torch.tensor([[0, 9, -2, 1], [1, -3, 9, 9]], dtype=torch.int8)
    widths_C = torch.tensor([2, 4, 4, 4], dtype=torch.uint8)
    with pytest.raises(QuantizationError, match="codes -3 to 9 of column 1 do not fit 4 bits"):
        pack(codes, widths_C)


@pytest.mark.parametrize("num_widths", [0, 1, 3])
def test_as_many_widths_as_columns(num_widths):
    codes = torch.zeros((4, 2), dtype=torch.int8)
    words = f"2 columns of codes but {num_widths} bit-widths"
    with pytest.raises(QuantizationError, match=words):
        pack(codes, torch.full((num_widths,), 3, dtype=torch.uint8))


@pytest.mark.parametrize("length", [7, 9])
def test_wrong_number_of_bytes_is_refused(length):
    data = torch.zeros(length, dtype=torch.uint8)
    with pytest.raises(QuantizationError, match=f"{length} bytes of codes where 8"):
        unpack(data, 3, torch.tensor([8], dtype=torch.uint8))
    with pytest.raises(QuantizationError, match=f"{length} bytes of codes where 8"):
        PackedCodes(data, 3, BitAllocation.uniform(8, 1))


@pytest.mark.parametrize("width", [9, 15, 17, 255])
def test_allocation_refuses_unknown_widths(width):
    with pytest.raises(QuantizationError, match=f"bit-width {width}"):
        BitAllocation(torch.tensor([4, width], dtype=torch.uint8), "channel")


@pytest.mark.parametrize(
    ("widths", "got"),
    [
        (torch.tensor([4, 2]), r"torch.int64 of shape \(2,\) on cpu"),
        (torch.tensor(4, dtype=torch.uint8), r"torch.uint8 of shape \(\) on cpu"),
        (torch.ones((1, 2), dtype=torch.uint8), r"torch.uint8 of shape \(1, 2\) on cpu"),
        (torch.ones(2, dtype=torch.uint8, device="meta"), r"torch.uint8 of shape \(2,\) on meta"),
    ],
)
def test_allocation_refuses_what_is_no_vector_of_widths(widths, got):
    with pytest.raises(QuantizationError, match=f"a uint8 vector on the CPU, got {got}"):
        BitAllocation(widths, "channel")


def test_allocations_are_equal_by_widths_and_axis():
    one, same, other = (
        BitAllocation(torch.tensor(widths, dtype=torch.uint8), "channel")
        for widths in ([0, 8], [0, 8], [0, 4])
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    lookalike = SimpleNamespace(axis="channel", widths_C=one.widths_C)
    assert one != lookalike


def test_allocation_figures():
    mixed = BitAllocation(torch.tensor([0, 8, 4], dtype=torch.uint8), "channel")
    assert (mixed.mean_bits, mixed.uniform_width, mixed.num_columns) == (4.0, None, 3)
    assert BitAllocation.uniform(3, 5).uniform_width == 3
    assert BitAllocation.uniform(3, 0).mean_bits == 0.0
    assert mixed != BitAllocation(mixed.widths_C, "position")


@pytest.mark.parametrize("bits", range(2, 9))
def test_grid_is_symmetric_with_an_exact_zero_and_half_even_rounding(bits):
    n = 2 ** (bits - 1) - 1
    scale = torch.tensor([[0.5]])
    allocation = BitAllocation.uniform(bits, 1)
    values = torch.tensor([[0.0], [0.25], [0.75], [-0.25], [1e9], [-1e9], [n * 0.5]])
    codes = nearest_codes(values, scale, allocation)[:, 0].tolist()
    assert codes == [0, 0, min(2, n), 0, n, -n, n]
    decoded = decode(encode(values, scale, allocation), scale)[:, 0]
    assert torch.equal(decoded, torch.tensor(codes) * 0.5)


def test_one_bit_sends_the_sign_and_zero_bits_nothing():
    allocation = BitAllocation(torch.tensor([1, 0], dtype=torch.uint8), "channel")
    values = torch.tensor([[-3.0, 5.0], [0.0, 6.0], [2.0, 7.0]])
    packed = encode(values, torch.tensor([[2.0, 9.0]]), allocation)
    assert packed.data.tolist() == [1]
    expected = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    assert torch.equal(decode(packed, torch.tensor([[2.0, 9.0]])), expected)


@pytest.mark.parametrize("zero_point", [None, torch.tensor([[3.0, 3.0]])])
def test_a_column_that_is_not_sent_is_zero_whatever_its_scale(zero_point):
    allocation = BitAllocation(torch.tensor([0, 4], dtype=torch.uint8), "channel")
    packed = PackedCodes.pack(torch.tensor([[0, 5], [0, -2]], dtype=torch.int8), allocation)
    decoded = decode(packed, torch.tensor([[torch.inf, 1.0]]), zero_point=zero_point)
    shift = 0.0 if zero_point is None else 3.0
    assert decoded.tolist() == [[0.0, 5.0 - shift], [0.0, -2.0 - shift]]


def test_zero_scale_gives_zeros():
    allocation = BitAllocation.uniform(4, 2)
    packed = encode(torch.ones((3, 2)), torch.zeros((1, 2)), allocation)
    assert torch.equal(decode(packed, torch.zeros((1, 2))), torch.zeros((3, 2)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), bits=st.integers(2, 8), stochastic=st.booleans())
def test_decoded_values_are_within_one_step(seed, bits, stochastic):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((17, 5), generator=generator)
    allocation = BitAllocation.uniform(bits, 5)
    scale = step_size(values.abs().amax(0, keepdim=True), allocation)
    noise = torch.rand(values.shape, generator=generator) if stochastic else None
    error = (decode(encode(values, scale, allocation, noise=noise), scale) - values).abs()
    assert bool((error <= scale * ((1.0 if stochastic else 0.5) + 1e-5)).all())


def test_stochastic_rounding_is_unbiased():
    noise = torch.rand((100_000, 1), generator=torch.Generator().manual_seed(0))
    values = torch.full((100_000, 1), 0.3)
    scale = torch.ones((1, 1))
    decoded = decode(encode(values, scale, BitAllocation.uniform(4, 1), noise=noise), scale)
    assert float(decoded.mean()) == pytest.approx(0.3, abs=0.01)


def test_zero_point_keeps_zero_exact():
    allocation = BitAllocation.uniform(4, 1)
    zero_point = torch.tensor([[-8.0]])  # all sixteen codes on the positive side
    values = torch.tensor([[0.0], [15.0], [7.4], [20.0], [-1.0]])
    packed = encode(values, torch.ones((1, 1)), allocation, zero_point=zero_point)
    decoded = decode(packed, torch.ones((1, 1)), zero_point=zero_point)
    assert decoded[:, 0].tolist() == [0.0, 15.0, 7.0, 15.0, 0.0]


@pytest.mark.parametrize("shape", [(3, 1), (2, 3), (2, 2, 1), (1, 1, 1), (3,)])
@pytest.mark.parametrize("name", ["scale", "zero point"])
def test_what_does_not_broadcast_to_the_codes_is_refused(name, shape):
    packed = PackedCodes.pack(torch.ones((2, 2), dtype=torch.int8), BitAllocation.uniform(4, 2))
    fitting, other = torch.ones((1, 2)), torch.ones(shape)
    scale, zero_point = (other, fitting) if name == "scale" else (fitting, other)
    message = rf"a {name} of shape \({', '.join(map(str, shape))},?\) for codes of \(2, 2\)"
    with pytest.raises(QuantizationError, match=message):
        decode(packed, scale, zero_point=zero_point)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 3), (2, 3)])
def test_what_broadcasts_to_the_codes_is_taken(shape):
    codes = torch.tensor([[1, -2, 3], [0, 4, -5]], dtype=torch.int8)
    packed = PackedCodes.pack(codes, BitAllocation.uniform(4, 3))
    scale = torch.arange(1, 1 + math.prod(shape)).reshape(shape) * 0.5
    zero_point = torch.full(shape, 2.0)
    assert torch.equal(decode(packed, scale), codes * scale)
    assert torch.equal(decode(packed, scale, zero_point=zero_point), (codes - 2.0) * scale)


def test_half_range():
    widths = torch.tensor(WIDTHS, dtype=torch.uint8)
    assert half_range(widths).tolist() == [0, 1, 2, 4, 8, 16, 32, 64, 128, 2**15]


def test_largest_code():
    widths = torch.tensor([0, 1, 2, 3, 8], dtype=torch.uint8)
    assert largest_code(widths).tolist() == [1.0, 1.0, 1.0, 3.0, 127.0]


def test_a_message_of_16_bit_words_decodes_as_numbers_too() -> None:
    """A peer may send any width to a quantizer that declares no layout."""
    codes = torch.tensor([[-32768, 3], [32767, -4], [5, 1]], dtype=torch.int16)
    packed = PackedCodes.pack(
        codes, BitAllocation(torch.tensor([16, 3], dtype=torch.uint8), "channel")
    )
    decoded = decode(packed, torch.tensor([0.5, 2.0]))
    assert decoded.tolist() == [[-16384.0, 6.0], [16383.5, -8.0], [2.5, 2.0]]


def test_distinct_widths_are_those_that_there_are() -> None:
    widths_C = torch.tensor([4, 16, 0, 4, 3, 16], dtype=torch.uint8)
    allocation = BitAllocation(widths_C, "channel")
    assert allocation.distinct == (0, 3, 4, 16)
    assert allocation.uniform_width is None
    assert BitAllocation.uniform(7, 5).distinct == (7,)
    assert BitAllocation.uniform(7, 0).distinct == ()
    assert BitAllocation.uniform(7, 0).uniform_width is None
