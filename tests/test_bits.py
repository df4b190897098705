"""The packed layout and the grid: values and bytes."""

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
    assert torch.equal(unpack(packed, num_rows, widths_C).to(torch.int16), codes)


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


def test_wrong_number_of_bytes_is_refused():
    with pytest.raises(QuantizationError, match="7 bytes of codes where 8"):
        unpack(torch.zeros(7, dtype=torch.uint8), 3, torch.tensor([8], dtype=torch.uint8))
    with pytest.raises(QuantizationError, match="7 bytes of codes where 8"):
        PackedCodes(torch.zeros(7, dtype=torch.uint8), 3, BitAllocation.uniform(8, 1))


@pytest.mark.parametrize("width", [9, 15, 17, 255])
def test_allocation_refuses_unknown_widths(width):
    with pytest.raises(QuantizationError, match=f"bit-width {width}"):
        BitAllocation(torch.tensor([4, width], dtype=torch.uint8), "channel")


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


def test_largest_code():
    widths = torch.tensor([0, 1, 2, 3, 8], dtype=torch.uint8)
    assert largest_code(widths).tolist() == [1.0, 1.0, 1.0, 3.0, 127.0]
