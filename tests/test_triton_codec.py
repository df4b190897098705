"""The Triton kernels give the grid's bytes and values: on a GPU, else in Triton's interpreter.

Triton must know of the interpreter before it is imported, so without a GPU the tests of this file
run in a process of their own; run as `TRITON_INTERPRET=1 pytest` on this file, they run here.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_grids import (
    cast,
    expected_bytes,
    expected_codes,
    expected_values,
    grid_of,
    mixed_widths,
    moved,
)

from amaqctl.bits import BitAllocation, Grid, grid, step_size

HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_GPU = torch.cuda.is_available()
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if HAS_GPU and not IS_INTERPRETED else "cpu"

runs_kernels = pytest.mark.skipif(
    not HAS_TRITON or not (HAS_GPU or IS_INTERPRETED),
    reason="needs triton, and a GPU or its interpreter (TRITON_INTERPRET=1)",
)
needs_gpu = pytest.mark.skipif(DEVICE != "cuda" or not HAS_TRITON, reason="needs a GPU and triton")
needs_compiler = pytest.mark.skipif(
    not HAS_TRITON or IS_INTERPRETED, reason="needs triton, and not its interpreter"
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(rows, columns) for rows in (1, 7, 8, 9, 40) for columns in (1, 3, 64, 130)]


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
@pytest.mark.skipif(HAS_GPU or IS_INTERPRETED, reason="the tests below run without it")
def test_the_kernels_agree_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def _values(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values_RC = torch.randn(shape, generator=generator)
    return (values_RC * torch.logspace(-2, 2, shape[1])).to(dtype)


def _plain(values_RC: Tensor, widths_C: Tensor) -> Grid:
    """One scale a column, from its absolute maximum."""
    peak_C = values_RC.to(torch.float32).abs().amax(dim=0, keepdim=True)
    return grid_of(widths_C, step_size(peak_C, BitAllocation(widths_C, "channel")))


def _check(values_RC: Tensor, tables: Grid, noise: Tensor | None = None) -> Tensor:
    """Bytes, which are returned, and values against the formulas."""
    from amaqctl.bits import triton_codec

    codes_RC = expected_codes(values_RC, tables, noise)
    wanted = expected_bytes(codes_RC, tables.widths_C)
    there = moved(tables, DEVICE)
    data = triton_codec.encode(
        values_RC.to(DEVICE), there, None if noise is None else noise.to(DEVICE)
    )
    assert data.dtype == torch.uint8
    assert torch.equal(data.cpu(), wanted)
    values32_RC = expected_values(codes_RC, tables)
    # Not all dtypes: the interpreter takes its time, and so does compiling.
    for dtype in {torch.float32, values_RC.dtype}:
        decoded_RC = triton_codec.decode(data, values_RC.shape[0], there, dtype)
        _check_same(decoded_RC.cpu(), cast(values32_RC, dtype))
    return data


def _check_same(got: Tensor, wanted: Tensor) -> None:
    assert got.dtype == wanted.dtype
    if got.dtype == torch.bfloat16 and DEVICE == "cpu":
        # The interpreter drops the bits that a GPU rounds.
        steps = got.view(torch.int16).to(torch.int32) - wanted.view(torch.int16).to(torch.int32)
        assert int(steps.abs().max()) <= 1
    else:
        as_bits = {torch.float32: torch.int32}.get(got.dtype, torch.int16)
        assert torch.equal(got.view(as_bits), wanted.view(as_bits)), "signs of zero count too"


def _check_plain(values_RC: Tensor, widths_C: Tensor) -> None:
    """Against the plain torch codec too, for both it and the kernels agree with the formulas."""
    tables = _plain(values_RC, widths_C)
    data = _check(values_RC, tables)
    allocation = BitAllocation(widths_C, "channel")
    packed = grid.encode(values_RC.to(torch.float32), tables.scale, allocation)
    assert torch.equal(data.cpu(), packed.data)
    decoded_RC = expected_values(expected_codes(values_RC, tables), tables)
    assert torch.equal(decoded_RC, grid.decode(packed, tables.scale))


@runs_kernels
@pytest.mark.parametrize("bits", range(9))
def test_every_width(bits: int) -> None:
    _check_plain(_values((9, 130)), torch.full((130,), bits, dtype=torch.uint8))


@runs_kernels
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mixed_widths_in_every_shape(shape: tuple[int, int]) -> None:
    dtype = DTYPES[SHAPES.index(shape) % 3]
    _check_plain(_values(shape, dtype), mixed_widths(shape[1], seed=shape[0]))


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("least,most", [(0, 4), (2, 6), (3, 8)])
def test_every_dtype(dtype: torch.dtype, least: int, most: int) -> None:
    _check_plain(_values((16, 64), dtype), mixed_widths(64, least, most))


@runs_kernels
@pytest.mark.parametrize("columns", [300, 600])
@pytest.mark.parametrize("least,most", [(4, 4), (3, 8)])
def test_more_columns_than_a_program_has(columns: int, least: int, most: int) -> None:
    _check_plain(_values((9, columns)), mixed_widths(columns, least, most))


@runs_kernels
@pytest.mark.parametrize("group_size", [16, 48, 130, 1000])
@pytest.mark.parametrize("scale_rows", [1, 9])
def test_groups_of_columns(group_size: int, scale_rows: int) -> None:
    values_RC = _values((9, 130), torch.bfloat16)
    num_groups = -(-130 // group_size)
    scale = torch.rand(scale_rows, num_groups, generator=torch.Generator().manual_seed(2)) + 0.01
    _check(values_RC, grid_of(mixed_widths(130), scale, group_size))


@runs_kernels
@pytest.mark.parametrize("group_size", [1, 32])
def test_zero_point(group_size: int) -> None:
    values_RC = _values((9, 64)).abs()
    widths_C = mixed_widths(64, 2)
    shape = (9, 64 // group_size)
    generator = torch.Generator().manual_seed(3)
    zero_point = torch.randint(-8, 8, shape, generator=generator).to(torch.float32)
    zero_point[0] = 3.0e7  # past where float32 has every integer
    tables = grid_of(widths_C, torch.rand(shape, generator=generator), group_size, zero_point)
    _check(values_RC, tables)
    _check(values_RC, tables, torch.rand((9, 64), generator=generator))
    # Widths of one and none have no zero point.
    allocation = BitAllocation(mixed_widths(64, 0, 3), "channel")
    _check(values_RC, replace(tables, allocation=allocation))


def _kinds(num_rows: int) -> Tensor:
    """Usual rows, some of a second kind, and padding."""
    kind = torch.zeros(num_rows, dtype=torch.uint8)
    kind[2::5], kind[3::7] = 1, 255
    return kind


@runs_kernels
@pytest.mark.parametrize("offset_rows", [1, 2, None])
@pytest.mark.parametrize("scale_rows", [1, 2])
def test_kinds_of_rows(scale_rows: int, offset_rows: int | None) -> None:
    values_RC = _values((17, 64), torch.bfloat16)
    generator = torch.Generator().manual_seed(4)
    scale = torch.rand(scale_rows, 64, generator=generator) * torch.tensor([[1.0], [9.0]])
    offset = None if offset_rows is None else torch.randn(offset_rows, 64, generator=generator)
    tables = grid_of(mixed_widths(64), scale[:scale_rows], offset=offset, row_kind=_kinds(17))
    _check(values_RC, tables)
    _check(values_RC, replace(tables, zero_point=torch.full((scale_rows, 64), 2.0)))


@runs_kernels
@pytest.mark.parametrize("offset_rows", [1, 9])
def test_offset(offset_rows: int) -> None:
    values_RC = _values((9, 130), torch.float16)
    offset = torch.randn(offset_rows, 130, generator=torch.Generator().manual_seed(5))
    _check(values_RC, replace(_plain(values_RC, mixed_widths(130)), offset=offset))


@runs_kernels
@pytest.mark.parametrize("scale_rows,group_size", [(1, 1), (9, 1), (9, 64)])
def test_all_codes_with_negative_scales(scale_rows: int, group_size: int) -> None:
    values_RC = _values((9, 64))
    generator = torch.Generator().manual_seed(6)
    scale = torch.randn(scale_rows, 64 // group_size, generator=generator)
    tables = grid_of(mixed_widths(64), scale, group_size, all_codes=True)
    _check(values_RC, tables)
    _check(values_RC, replace(tables, all_codes=False))
    _check(values_RC, tables, torch.rand((9, 64), generator=generator))


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise(dtype: torch.dtype) -> None:
    values_RC = _values((16, 130), dtype)
    noise = torch.rand((16, 130), generator=torch.Generator().manual_seed(7))
    noise[::3] = 0.0
    _check(values_RC, _plain(values_RC, mixed_widths(130)), noise)


@runs_kernels
def test_zero_scales_and_zero_values() -> None:
    values_RC = _values((9, 64))
    values_RC[::2, ::3] = 0.0
    values_RC[1::2, ::3] = -0.0
    tables = _plain(values_RC, mixed_widths(64))
    tables.scale[:, ::2] = 0.0
    _check(values_RC, tables)
    tables.scale[:, ::4] = -0.0
    _check(values_RC, tables)


@runs_kernels
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("scale", [0.5, 0.1, 3.0e-39, 1.0e30])
def test_halves_and_quotients_of_all_sizes(scale: float) -> None:
    halves = torch.arange(-80, 80, dtype=torch.float32) / 2
    values_RC = (halves * scale).repeat(9, 1)
    # A step of float32 to either side of what may be half a step of the grid.
    values_RC[1::3] = torch.nextafter(values_RC[1::3], torch.tensor(torch.inf))
    values_RC[2::3] = torch.nextafter(values_RC[2::3], torch.tensor(-torch.inf))
    values_RC[7], values_RC[8] = halves * 1.0e-10, halves * 1.0e36
    tables = grid_of(mixed_widths(160, 1), torch.full((1, 160), scale), all_codes=True)
    _check(values_RC, tables)
    _check(values_RC, replace(tables, zero_point=torch.full((1, 160), -3.0)))
    _check(values_RC, tables, torch.zeros(9, 160))


@runs_kernels
def test_a_slice_of_a_message_and_columns_of_a_larger_tensor() -> None:
    from amaqctl.bits import triton_codec

    values_RC = _values((9, 80))[:, 8:72]
    tables = _plain(values_RC, torch.full((64,), 4, dtype=torch.uint8))
    data = triton_codec.encode(values_RC.to(DEVICE), moved(tables, DEVICE))
    message = torch.cat([data[:3], data])
    sliced_RC = triton_codec.decode(message[3:], 9, moved(tables, DEVICE))
    codes_RC = expected_codes(values_RC, tables)
    _check_same(sliced_RC.cpu(), expected_values(codes_RC, tables))


@runs_kernels
@pytest.mark.parametrize("shape", [(0, 4), (4, 0)], ids=str)
def test_nothing_to_do(shape: tuple[int, int]) -> None:
    from amaqctl.bits import triton_codec, triton_stats

    tables = grid_of(torch.full(shape[1:], 4, dtype=torch.uint8), torch.ones(1, 1), 4).to(DEVICE)
    data = triton_codec.encode(torch.zeros(shape, device=DEVICE), tables)
    assert data.shape == (0,)
    assert triton_codec.decode(data, shape[0], tables).shape == shape
    assert triton_stats.row_peak(torch.zeros(shape, device=DEVICE)).tolist() == [0.0] * shape[0]
    low_C, high_C = triton_stats.column_bounds(torch.zeros(shape, device=DEVICE), None)
    assert low_C.tolist() == [torch.inf] * shape[1]
    assert high_C.tolist() == [-torch.inf] * shape[1]


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (9, 130), (2, 2100)], ids=str)
def test_peaks_of_rows(shape: tuple[int, int], dtype: torch.dtype) -> None:
    from amaqctl.bits import triton_stats

    values_RC = _values(shape, dtype)
    peak_R = triton_stats.row_peak(values_RC.to(DEVICE))
    assert torch.equal(peak_R.cpu(), values_RC.to(torch.float32).abs().amax(dim=1))


@runs_kernels
@pytest.mark.parametrize("shape", [(1, 1), (9, 130), (70, 600)], ids=str)
def test_bounds_of_columns(shape: tuple[int, int]) -> None:
    from amaqctl.bits import triton_stats

    values_RC = _values(shape, DTYPES[shape[0] % 3])
    values32_RC, there, kind = values_RC.to(torch.float32), values_RC.to(DEVICE), _kinds(shape[0])
    for rows, row_kind in ((kind == 0, kind.to(DEVICE)), (kind >= 0, None)):
        low_C, high_C = triton_stats.column_bounds(there, row_kind)
        assert torch.equal(low_C.cpu(), values32_RC[rows].amin(dim=0))
        assert torch.equal(high_C.cpu(), values32_RC[rows].amax(dim=0))
    low_C, high_C = triton_stats.column_bounds(there, torch.ones_like(kind).to(DEVICE))
    assert bool((low_C == torch.inf).all() and (high_C == -torch.inf).all())


@needs_gpu
@pytest.mark.parametrize("least,most", [(4, 4), (3, 8), (0, 8)])
def test_a_large_tensor_on_the_gpu(least: int, most: int) -> None:
    from amaqctl.bits import triton_codec

    generator = torch.Generator("cuda").manual_seed(8)
    values_RC = torch.randn((4 * 2048, 4096), generator=generator, device="cuda").bfloat16()
    widths_C = mixed_widths(4096, least, most)
    peak_C = values_RC.float().abs().amax(dim=0, keepdim=True)
    scale = step_size(peak_C, BitAllocation(widths_C, "channel"))
    tables = grid_of(widths_C, scale)
    codes_RC = expected_codes(values_RC, tables)
    data = triton_codec.encode(values_RC, tables)
    assert torch.equal(data, expected_bytes(codes_RC, widths_C))
    for dtype in DTYPES:
        decoded_RC = triton_codec.decode(data, len(values_RC), tables, dtype)
        assert torch.equal(decoded_RC, cast(expected_values(codes_RC, tables), dtype))


def _compiled(kernel: Any, absent: set[str], constants: dict[str, Any]) -> str:
    """PTX for a GPU of compute capability 9.0, which need not be here."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    pointers = {"values_ptr": "*bf16", "data_ptr": "*u8", "kind_ptr": "*u8"}
    pointers |= {"bits_ptr": "*i32", "starts_ptr": "*i32"}
    signature, values = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants or name in absent:
            signature[name], values[(place,)] = "constexpr", constants.get(name)
        else:
            signature[name] = pointers.get(name, "*fp32" if name.endswith("_ptr") else "i32")
    source = ASTSource(kernel, signature, values)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    ptx: str = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    return ptx


@needs_compiler
@pytest.mark.parametrize(
    "absent",
    [set(), {"noise_ptr"}, {"zero_ptr", "kind_ptr"}],
    ids=["all", "no noise", "no zero point and kinds"],
)
@pytest.mark.parametrize("name", ["encode_kernel", "decode_kernel"])
def test_compiled_code_divides_exactly_and_fuses_nothing(
    name: str, absent: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from triton.backends import backends

    from amaqctl.bits import triton_kernels

    if "nvidia" not in backends:
        pytest.skip("this triton compiles for no NVIDIA GPU")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rule = "first" if "kind_ptr" in absent else "kind"
    constants = {
        "SCALE_ROW": rule, "OFFSET_ROW": rule, "ONE_SCALE": False, "LEAST": 0, "MOST": 8,
        "SHARED": 0, "FULL": False, "TILE": 256, "BLOCKS": 4, "ALL_CODES": True,
    }  # fmt: skip
    ptx = _compiled(getattr(triton_kernels, name), absent, constants)
    assert "fma.rn.f32" not in ptx
    assert "div.full" not in ptx
    assert ".ftz" not in ptx
    assert ("div.rn.f32" in ptx) == (name == "encode_kernel")
