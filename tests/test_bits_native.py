"""The compiled codec gives the bytes and values of plain torch, bit for bit."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amaqctl.bits import PADDING, BitAllocation, Grid, grid_rows, library, native, passes, words

needs_native = pytest.mark.skipif(library.loaded() is None, reason=library.state())
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def table(generator: torch.Generator, rows: int, columns: int, spread: float) -> torch.Tensor:
    return torch.exp(spread * torch.randn(rows, columns, generator=generator))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Grid, torch.Tensor, torch.Tensor | None]:
    """A grid, values of a few magnitudes with ties and zeros, and noise."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.sampled_from([0, 1, 7, 8, 9, 40])), draw(st.integers(1, 150))
    least = draw(st.sampled_from([0, 1, 2]))
    with_zero = least == 2 and draw(st.booleans())
    widths_C = torch.randint(least, 9, (columns,), generator=generator).to(torch.uint8)
    if draw(st.booleans()):
        widths_C[:] = draw(st.integers(max(least, 1), 8))
    kind = None
    if draw(st.booleans()):
        kinds = torch.tensor([0, 0, 1, PADDING], dtype=torch.uint8)
        kind = kinds[torch.randint(4, (rows,), generator=generator)]
    group = draw(st.sampled_from([1, 1, 3, 64, columns]))
    num_groups = -(-columns // group)
    of_rows = draw(st.sampled_from([1, 2 if kind is not None else max(rows, 1)]))
    scale = table(generator, of_rows, num_groups, 2.0)
    scale[torch.rand(scale.shape, generator=generator) < 0.1] = 0.0
    all_codes = draw(st.booleans())
    if all_codes and not with_zero:
        scale *= torch.where(torch.rand(scale.shape, generator=generator) < 0.5, -1.0, 1.0)
    zero_point = None
    if with_zero:
        zero_point = torch.randint(-128, 128, scale.shape, generator=generator).float()
    offset = None
    if draw(st.booleans()):
        offset = torch.randn(draw(st.sampled_from([1, of_rows])), columns, generator=generator)
    values = torch.randn(rows, columns, generator=generator) * table(generator, 1, columns, 2.0)
    values[torch.rand(values.shape, generator=generator) < 0.1] = 0.0
    if group == 1 and of_rows == 1:  # halves of a step, just so
        ties = torch.randint(-9, 9, values.shape, generator=generator) / 2 * scale
        values = torch.where(torch.rand(values.shape, generator=generator) < 0.3, ties, values)
    noise = torch.rand(values.shape, generator=generator) if draw(st.booleans()) else None
    grid = Grid(
        BitAllocation(widths_C, "channel"), scale, group, zero_point, offset, kind, all_codes
    )
    return grid, values.to(draw(st.sampled_from(DTYPES))), noise


@needs_native
@settings(max_examples=400, deadline=None)
@given(cases())
def test_native_and_torch_agree_on_every_byte(case) -> None:
    grid, values, noise = case
    values = values.clamp(-6e4, 6e4)
    plain = grid_rows.encode(values, grid, noise)
    assert torch.equal(native.encode(values, grid, noise), plain)
    for dtype in DTYPES:
        due = grid_rows.decode(plain, values.shape[0], grid, dtype)
        found = native.decode(plain, values.shape[0], grid, dtype)
        assert torch.equal(found.view(torch.uint8), due.view(torch.uint8))


@needs_native
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 512), st.sampled_from(DTYPES))
def test_native_and_torch_measure_the_same(seed, num_columns, num_rows, dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num_rows, num_columns, generator=generator) * 3
    values[torch.rand(values.shape, generator=generator) < 0.01] *= 1000
    values = values.to(dtype)
    kind = torch.randint(0, 3, (num_rows,), generator=generator).to(torch.uint8)
    step = table(generator, 5, num_columns, 2.0)
    step[torch.rand(step.shape, generator=generator) < 0.1] = 0.0
    high = torch.randint(0, 128, step.shape, generator=generator).float()
    found = [
        passes.row_peaks(values),
        *passes.column_bounds(values, kind),
        passes.candidate_errors(values.float(), step, -high - 1, high),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "takes_values", lambda _: False)
        plain = [
            passes.row_peaks(values),
            *passes.column_bounds(values, kind),
            passes.candidate_errors(values.float(), step, -high - 1, high),
        ]
    for a, b in zip(found, plain, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@needs_native
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5), (16, 64), (41, 9)])
def test_words_are_packed_alike(shape) -> None:
    values = torch.randint(-(2**15), 2**15, shape).to(torch.int16)
    packed = words.pack(values)
    assert torch.equal(words.unpack(packed, *shape), values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "loaded", lambda: None)
        assert torch.equal(words.pack(values), packed)
        assert torch.equal(words.unpack(packed, *shape), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen_in_its_row_and_column(dtype, bad) -> None:
    values = torch.ones(9, 130).to(dtype)
    values[3, 70] = bad
    values[5] = bad
    peaks = passes.row_peaks(values)
    assert peaks.isfinite().tolist() == [row not in (3, 5) for row in range(9)]
    low, high = passes.column_bounds(values, None)
    assert not bool((low.isfinite() & high.isfinite()).any())


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
@pytest.mark.skipif("AMAQCTL_NATIVE" in os.environ, reason="chosen by AMAQCTL_NATIVE")
def test_where_there_is_a_compiler_the_codec_was_compiled() -> None:
    """Otherwise every comparison above would be skipped, and nobody would know."""
    assert library.state() in ("AVX2 and BMI2", "AVX2", "portable")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 64, 65), (4100, 1), (1, 5000)])
def test_one_value_that_is_not_finite_is_seen(
    shape: tuple[int, ...], dtype: torch.dtype, bad: float
) -> None:
    values = torch.ones(shape, dtype=dtype)
    assert passes.all_finite(values)
    for place in (0, values.numel() // 2, values.numel() - 1):
        spoiled = values.clone()
        spoiled.view(-1)[place] = bad
        assert not passes.all_finite(spoiled), place


def test_the_peak_of_zeros_is_a_positive_zero() -> None:
    zeros = torch.tensor([[0.0, -0.0], [-0.0, -0.0], [0.0, 0.0]])
    assert not bool(passes.row_peaks(zeros).signbit().any())
    with library.as_on_a_gpu():
        assert not bool(passes.row_peaks(zeros).signbit().any())
