"""The mixed-width grid of `amaq` by hand, and the solvers of its widths against brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from column_grids import GridOverTensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.quantizer import QuantizedTensor
from amaqctl.quantizers.bit_budget import round_to_mean, shift_to_mean, water_filling
from amaqctl.quantizers.column_sample import SHARES, ColumnSample


def _grid(**changes: Any) -> GridOverTensors:
    options = {
        "axis": "channel",
        "scale": "channel",
        "center": True,
        "clip": None,
        "scale_dtype": "float32",
        "spare_code": False,
        "outlier_tokens": False,
    }
    return GridOverTensors(**{**options, **changes})


def _round_trip(
    grid: GridOverTensors, x: Tensor, widths: list[int]
) -> tuple[Tensor, QuantizedTensor]:
    allocation = BitAllocation(torch.tensor(widths, dtype=torch.uint8), grid.axis)
    quantized = grid.encode(x, allocation)
    return grid.decode(quantized), quantized


# Four tokens, channel means 10, -2, 3 and 1.
X = torch.tensor(
    [
        [
            [10.0, -5.0, 10.0, 128.0],
            [12.0, 1.0, -4.0, -62.0],
            [8.0, -4.0, 3.0, -62.0],
            [10.0, 0.0, 3.0, 0.0],
        ]
    ]
)


def test_widths_of_zero_one_and_more_by_hand_with_centring():
    decoded, quantized = _round_trip(_grid(), X, [0, 1, 2, 8])
    assert quantized.side["mean"].tolist() == [10.0, -2.0, 3.0, 1.0]
    # Without the mean, channel 1 is -3, 3, -2, 2: mean magnitude 2.5. Nothing for channel 0.
    assert quantized.side["range"].tolist() == [2.5, 7.0, 127.0]
    assert decoded[0, :, 0].tolist() == [10.0] * 4
    assert decoded[0, :, 1].tolist() == [-4.5, 0.5, -4.5, 0.5]
    assert decoded[0, :, 2].tolist() == [10.0, -4.0, 3.0, 3.0]
    assert decoded[0, :, 3].tolist() == [128.0, -62.0, -62.0, 0.0]


def test_without_centring_only_channels_of_zero_bits_send_a_mean():
    decoded, quantized = _round_trip(_grid(center=False), X, [0, 1, 2, 8])
    assert quantized.side["mean"].tolist() == [10.0]
    assert quantized.side["range"].tolist() == [2.5, 10.0, 128.0]
    assert decoded[0, :, 0].tolist() == [10.0] * 4
    assert decoded[0, :, 1].tolist() == [-2.5, 2.5, -2.5, 2.5]
    assert decoded[0, :, 2].tolist() == [10.0, 0.0, 0.0, 0.0]
    assert "mean" not in _round_trip(_grid(center=False), X, [1, 1, 2, 8])[1].side


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("clip", [None, 1.5, "search"])
@pytest.mark.parametrize("widths", [[0, 1, 2, 8], [4, 4, 4, 4]])
def test_padding_shifts_no_centre_and_sets_no_range(center, clip, widths):
    grid = _grid(center=center, clip=clip)
    decoded, alone = _round_trip(grid, X, widths)
    padded = torch.cat([X, torch.zeros(1, 12, 4)], dim=1)
    decoded_padded, beside = _round_trip(grid, padded, widths)
    assert {k: v.tolist() for k, v in alone.side.items()} == {
        k: v.tolist() for k, v in beside.side.items()
    }
    assert torch.equal(decoded_padded[:, :4], decoded)


def test_clip_limits_a_range_and_what_it_clipped_has_no_residual():
    x = torch.tensor([[[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [9.0, 1.0]]])
    allocation = BitAllocation.uniform(8, 2, "channel")
    grid = _grid(center=False, clip=2.0)
    quantized = grid.encode(x, allocation)
    assert quantized.side["range"].tolist() == [6.0, 1.0]  # 2 · mean 3; max
    step = 6.0 / 127  # 1.0 is 21.17 steps
    residual_C = grid.rounding_residual(x, quantized)[0, :, 0].tolist()
    assert residual_C == pytest.approx([1 - 21 * step, 21 * step - 1, 1 - 21 * step, 0.0])
    assert float(grid.decode(quantized)[0, 3, 0]) == pytest.approx(6.0)


def test_channels_below_two_bits_are_not_called_clipped():
    widths_C = torch.tensor([0, 1, 2, 8], dtype=torch.uint8)
    grid = _grid(clip=1.0)
    quantized = grid.encode(X, BitAllocation(widths_C, "channel"))
    residual = grid.rounding_residual(X, quantized)
    error = X - grid.decode(quantized)
    assert torch.equal(residual[..., :2], error[..., :2])
    assert float(error[0, 0, 2]) == pytest.approx(3.5)  # 7 above the mean, with a range of 3.5
    assert float(residual[0, 0, 2]) == 0.0


@pytest.mark.parametrize("spare_code", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 5])
def test_a_value_was_clipped_where_it_is_more_than_half_a_step_off(bits, spare_code):
    skewed = torch.randn((1, 256, 8), generator=torch.Generator().manual_seed(bits)).exp()
    grid = _grid(clip="search", spare_code=spare_code)
    quantized = grid.encode(skewed, BitAllocation.uniform(bits, 8, "channel"))
    error = skewed - grid.decode(quantized)
    step_C = quantized.side["range"].abs() / (2 ** (bits - 1) - 1)
    is_rounded = error.abs() <= 0.5005 * step_C
    assert 0.5 < float(is_rounded.float().mean()) < 1.0  # the search clipped something
    residual = grid.rounding_residual(skewed, quantized)
    assert torch.allclose(residual, error * is_rounded, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_search_takes_the_tried_range_of_least_squared_error(bits):
    x = torch.randn((1, 512, 2), generator=torch.Generator().manual_seed(bits))
    x[0, 7, 1] = 900.0  # an outlier that must survive
    decoded, quantized = _round_trip(_grid(center=False, clip="search"), x, [bits, bits])
    unclipped, _ = _round_trip(_grid(center=False), x, [bits, bits])
    error_C = (decoded - x).square().sum((0, 1))
    plain_C = (unclipped - x).square().sum((0, 1))
    n = 2 ** (bits - 1) - 1
    for channel in range(2):
        values = x[0, :, channel]
        tried = []
        for share in SHARES:
            step = share * values.abs().max() / n
            tried.append(
                float(((values / step).round().clamp(-n, n) * step - values).square().sum())
            )
        assert float(error_C[channel]) == pytest.approx(min(tried), rel=1e-4)
    assert float(error_C[0]) < 0.7 * float(plain_C[0])
    assert quantized.side["range"][1] == 900.0
    assert float(decoded[0, 7, 1]) == 900.0


def test_clip_holds_for_a_scale_a_channel_and_token():
    x = torch.tensor([[[1.0], [-1.0], [1.0], [9.0]]])
    decoded, quantized = _round_trip(_grid(center=False, clip=2.0, scale="channel-token"), x, [8])
    assert quantized.side["range"].tolist() == [6.0]
    assert quantized.side["token_share"][0].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1.0])
    assert decoded[0, :, 0].tolist() == pytest.approx([1.0, -1.0, 1.0, 6.0])


def test_a_channel_range_that_rounds_to_zero_does_not_blow_up_its_token():
    x = torch.tensor([[[1e-9, 4.0, 7.0], [0.0, -4.0, 3.5]]])
    grid = _grid(center=False, scale="channel-token", scale_dtype="float16")
    decoded, quantized = _round_trip(grid, x, [8, 8, 8])
    assert quantized.side["range"].tolist() == [0.0, 4.0, 7.0]
    assert quantized.side["token_share"].tolist() == [[1.0, 1.0]]
    assert decoded[0, 0].tolist() == [0.0, 4.0, 7.0]


def test_scale_a_token_by_hand():
    x = torch.tensor([[[14.0, -4.0, 0.0, 1.0], [7.0, 3.4, 0.0, -7.0]]])
    decoded, quantized = _round_trip(_grid(center=False, scale="token"), x, [4, 4, 4, 2])
    assert quantized.side["token_range"].tolist() == [[14.0, 7.0]]
    assert decoded[0].tolist() == [[14.0, -4.0, 0.0, 0.0], [7.0, 3.0, 0.0, -7.0]]


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 3), (5, 3), (3, 9, 1), (2, 13, 17)])
@pytest.mark.parametrize("scale", ["channel", "token", "channel-token"])
@pytest.mark.parametrize("axis", ["channel", "position"])
def test_each_value_has_the_width_of_its_column(shape, scale, axis):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grid = _grid(axis=axis, scale=scale, center=False)
    num_columns = shape[-1] if axis == "channel" else shape[-2]
    widths = [2 + 3 * (k % 3) for k in range(num_columns)]
    decoded, quantized = _round_trip(grid, x, widths)
    num_rows = x.numel() // num_columns
    assert quantized.codes.data.numel() == -(-num_rows // 8) * sum(widths)
    if scale == "channel":
        range_ = quantized.side["range"].expand(shape)
    elif scale == "token":
        range_ = quantized.side["token_range"].reshape(*shape[:-1], 1).expand(shape)
    else:
        share = quantized.side["token_share"].reshape(*shape[:-1], 1)
        range_ = quantized.side["range"] * share
    n = 2.0 ** (torch.tensor(widths) - 1) - 1
    half_step = range_ / (n if axis == "channel" else n.unsqueeze(-1)) / 2
    assert bool(((decoded - x).abs() <= half_step * (1 + 1e-4)).all())


# --- solvers ------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    harm=st.integers(1, 4).flatmap(
        lambda num_columns: st.lists(
            st.lists(st.floats(0, 1e4), min_size=num_columns, max_size=num_columns),
            min_size=4,
            max_size=4,
        )
    ),
    mean_bits=st.floats(1, 4),
)
def test_water_filling_is_the_best_of_all_integer_widths_with_its_sum(harm, mean_bits):
    harm_WC = torch.tensor(harm, dtype=torch.float64).cummin(0).values
    num_columns = harm_WC.shape[1]
    widths_C = water_filling(torch.tensor(harm), 1, mean_bits)
    assert float(widths_C.mean()) <= max(mean_bits, 1.0) + 1e-9
    assert set(widths_C.tolist()) <= {1.0, 2.0, 3.0, 4.0}

    def total_harm(widths: tuple[int, ...]) -> float:
        return sum(float(harm_WC[b - 1, c]) for c, b in enumerate(widths))

    chosen = tuple(int(b) for b in widths_C)
    best = min(
        total_harm(widths)
        for widths in itertools.product(range(1, 5), repeat=num_columns)
        if sum(widths) <= sum(chosen)
    )
    assert total_harm(chosen) <= best * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("total", range(0, 31))
def test_water_filling_of_the_classical_curve_meets_the_sum_with_equal_marginal_harm(total):
    sensitivity_C = torch.tensor([1.0, 3.0, 7.0, 20.0, 50.0], dtype=torch.float64)
    harm_WC = sensitivity_C * 4.0 ** -torch.arange(7, dtype=torch.float64).unsqueeze(1)
    widths_C = water_filling(harm_WC, 0, total / 5)
    assert int(widths_C.sum()) == total
    assert widths_C.tolist() == sorted(widths_C.tolist())  # more sensitive, more bits
    inside = (widths_C > 0) & (widths_C < 6)
    marginal_C = (sensitivity_C * 4.0**-widths_C)[inside]
    if marginal_C.numel():
        assert float(marginal_C.max() / marginal_C.min()) < 4.0 + 1e-9


@pytest.mark.parametrize("mean_bits", [3.5, 3.18, 4.0])
def test_columns_that_are_alike_share_what_the_budget_has(mean_bits):
    alike_WC = (4.0 ** -torch.arange(9)).unsqueeze(1).expand(9, 32)
    widths_C = water_filling(alike_WC, 0, mean_bits)
    assert int(widths_C.sum()) == int(32 * mean_bits)
    assert int(widths_C.max() - widths_C.min()) <= 1
    assert widths_C.tolist() == sorted(widths_C.tolist(), reverse=True)


def test_water_filling_without_any_gradient_gives_the_least():
    assert water_filling(torch.zeros(5, 3), 2, 4.0).tolist() == [2.0, 2.0, 2.0]
    harm_WC = torch.tensor([[0.0, 64.0], [0.0, 16.0], [0.0, 4.0]])
    assert water_filling(harm_WC, 0, 1.0).tolist() == [0.0, 2.0]


@settings(max_examples=150, deadline=None)
@given(
    bits=st.lists(st.floats(0, 8), min_size=1, max_size=30),
    share=st.floats(0, 1),
    low=st.integers(0, 3),
    high=st.integers(4, 8),
)
def test_round_to_mean_meets_the_sum_within_the_bounds(bits, share, low, high):
    mean_bits = low + share * (high - low)
    widths_C = round_to_mean(torch.tensor(bits), low, high, mean_bits)
    assert widths_C.dtype == torch.uint8
    assert int(widths_C.sum(dtype=torch.int64)) == round(len(bits) * mean_bits)
    assert low <= int(widths_C.min()) <= int(widths_C.max()) <= high


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-20, 20), min_size=1, max_size=20), mean_bits=st.floats(2.01, 7.99)
)
def test_rounding_after_the_shift_moves_no_width_by_a_bit_or_more(logits, mean_bits):
    logits_C = torch.tensor(logits, dtype=torch.float64)
    shift = shift_to_mean(logits_C, 2, 8, mean_bits)
    bits_C = 2 + 6 * torch.sigmoid(logits_C + shift)
    assert float(bits_C.mean()) == pytest.approx(mean_bits, abs=1e-9)
    widths_C = round_to_mean(bits_C, 2, 8, mean_bits)
    assert float((widths_C.double() - bits_C).abs().max()) <= 1.0
    more = bits_C.unsqueeze(0) > bits_C.unsqueeze(1) + 1e-9
    as_many = widths_C.unsqueeze(0) >= widths_C.unsqueeze(1)
    assert bool((as_many | ~more).all())


@pytest.mark.parametrize("mean_bits", [2.0, 8.0])
def test_shift_at_the_ends_saturates_every_gate(mean_bits):
    logits_C = torch.tensor([-9.0, 0.0, 14.0])
    shift = shift_to_mean(logits_C, 2, 8, mean_bits)
    bits_C = 2 + 6 * torch.sigmoid(logits_C.double() + shift)
    assert bits_C.tolist() == pytest.approx([mean_bits] * 3, abs=1e-6)


# --- the spare code -----------------------------------------------------------------------------


@pytest.mark.parametrize("longer_side", [1.0, -1.0])
def test_the_spare_code_is_on_the_longer_side(longer_side: float) -> None:
    grid = _grid(center=False, clip=None, spare_code=True)
    # At two bits: codes -2 to 1 of a step of 1, so the longer side reaches 2.
    side = {"range": torch.tensor([1.0]).copysign(torch.tensor(-longer_side))}
    x = longer_side * torch.tensor([[[-9.0], [-0.8], [0.2], [0.9], [1.6], [9.0]]])
    allocation = BitAllocation(torch.tensor([2], dtype=torch.uint8), "channel")
    quantized = grid.inner.encode(grid.inner.measure(x), allocation, side)
    decoded = grid.decode(replace(quantized, side=side))
    expected = longer_side * torch.tensor([-1.0, -1.0, 0.0, 1.0, 2.0, 2.0])
    assert decoded.flatten().tolist() == expected.tolist()


def test_the_sign_of_the_range_names_the_longer_side() -> None:
    grid = _grid(center=False, clip="search", spare_code=True)
    x = torch.tensor([[[3.0, -3.0, 0.0], [-1.0, 1.0, 0.0], [0.5, -0.5, 0.0]]])
    _, quantized = _round_trip(grid, x, [3, 3, 3])
    assert quantized.side["range"].sign().tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.parametrize("bits", range(9))
def test_the_spare_code_never_adds_error(bits: int) -> None:
    x = torch.randn((2, 64, 8), generator=torch.Generator().manual_seed(3)).exp() - 1
    errors = []
    for spare_code in (False, True):
        grid = _grid(clip="search", spare_code=spare_code)
        decoded, _ = _round_trip(grid, x, [bits] * 8)
        errors.append((decoded - x).square().mean((0, 1)))
    assert bool((errors[1] <= errors[0] * (1 + 1e-6)).all())
    if bits in (2, 3):
        assert float(errors[1].mean()) < 0.8 * float(errors[0].mean())


def test_without_a_clip_the_spare_code_changes_no_value() -> None:
    x = torch.randn((2, 16, 4), generator=torch.Generator().manual_seed(4))
    decoded = [
        _round_trip(_grid(clip=None, spare_code=spare_code), x, [2, 3, 4, 8])[0]
        for spare_code in (False, True)
    ]
    assert torch.equal(*decoded)


@pytest.mark.parametrize(("mean_bits", "width"), [(9.0, 8), (1.0, 2)])
def test_a_budget_outside_the_widths_gives_the_nearest_bound(mean_bits: float, width: int) -> None:
    bits_C = torch.tensor([2.5, 7.5, 4.0])
    assert round_to_mean(bits_C, 2, 8, mean_bits).tolist() == [width] * 3


def test_the_ranges_that_are_tried_are_part_of_the_format_of_a_run() -> None:
    """Other ones would give a seed other bytes."""
    assert SHARES == (1.0, 0.8, 0.64, 0.5, 0.36, 0.25)


def test_without_rows_there_is_a_range_and_a_side_for_each_column() -> None:
    nothing = torch.zeros((0, 3))
    sample = ColumnSample.of(nothing, torch.zeros(0, dtype=torch.uint8), 0)
    tried_HC = torch.zeros(6, 3)
    widths_WC = torch.full((1, 3), 3, dtype=torch.uint8)
    assert sample.best_ranges(tried_HC, widths_WC, spare_code=True)[0].tolist() == [[0.0] * 3]
    assert (sample.side_C.tolist(), sample.mean_C().tolist()) == ([1.0] * 3, [0.0] * 3)
