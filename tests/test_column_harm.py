"""What `amaq` measures of its columns: running means, harm, and error curves of the real grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from column_grids import GridOverTensors
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.errors import DivergedError
from amaqctl.quantizers.column_harm import STEPS_BETWEEN_ERRORS, ColumnHarm

ALL = slice(None)


def _harm(num_columns: int = 2, memory: float = 0.5, axis: Any = "channel") -> ColumnHarm:
    return ColumnHarm(num_columns, 2, 4, memory, axis)


def _all(num_columns: int) -> Tensor:
    return torch.ones(num_columns, dtype=torch.bool)


def _none(num_columns: int) -> Tensor:
    return ~_all(num_columns)


def _feel(harm: ColumnHarm, gradient: Tensor, columns: slice = ALL, axis: str = "channel") -> None:
    """One step of one batch, every column of it with a real token."""
    harm.begin_step()
    num_columns = gradient.shape[-1 if axis == "channel" else -2]
    harm.observe_gradient(gradient, columns, _all(num_columns), _none(num_columns))


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


def _random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- running means ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "means"),
    [
        (0.0, [4.0, 0.0, 8.0, 2.0]),  # the last one
        (0.5, [4.0, 2.0, 5.0, 3.5]),  # a plain mean of two, then by halves
        (0.9, [4.0, 2.0, 4.0, 3.5]),  # a plain mean of the first ten
    ],
)
def test_a_mean_is_plain_until_its_memory_is_full(memory, means):
    harm = _harm(1, memory)
    found = []
    for energy in (4.0, 0.0, 8.0, 2.0):
        _feel(harm, torch.tensor([[energy**0.5]]))
        found.append(float(harm.gradient_energy_K))
    assert found == pytest.approx(means)
    for _ in range(200):
        _feel(harm, torch.tensor([[3.0]]))
    assert float(harm.gradient_energy_K) == pytest.approx(9.0, rel=1e-5)


def test_errors_and_ranges_have_means_of_their_own():
    harm = _harm(2)
    for scale in (1.0, 3.0):
        curve_WK = torch.tensor([[4.0, 8.0], [2.0, 4.0], [1.0, 2.0]]) * scale
        harm.observe_error(curve_WK, torch.tensor([1.0, 2.0]) * scale, ALL, _all(2))
    assert harm.error_WK.tolist() == [[8.0, 16.0], [4.0, 8.0], [2.0, 4.0]]
    assert harm.range_energy_K.tolist() == [5.0, 20.0]  # means of squares: (1 + 9) / 2
    assert harm.gradient_energy_K.tolist() == [0.0, 0.0]


def test_a_gradients_energy_is_the_mean_square_of_a_column():
    gradient = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]], [[1.0, 2.0, 4.0], [3.0, 0, 0]]])
    channels, positions = _harm(3), _harm(5, axis="position")
    _feel(channels, gradient)
    assert channels.gradient_energy_K.tolist() == [5.0, 2.0, 4.0]
    positions.observe_gradient(gradient, slice(1, 3), _all(2), _none(2))
    expected = [0.0, (1 + 4 + 1 + 4 + 16) / 6, 18 / 6, 0.0, 0.0]
    assert positions.gradient_energy_K.tolist() == pytest.approx(expected)
    assert positions.num_gradients_K.tolist() == [0, 1, 1, 0, 0]


def test_each_column_counts_its_own_observations():
    harm = _harm(3, 0.9, "position")
    for columns, value in ((slice(0, 2), 2.0), (slice(1, 3), 4.0)):
        _feel(harm, torch.full((1, 2, 4), value), columns, "position")
    assert harm.gradient_energy_K.tolist() == [4.0, 10.0, 16.0]
    assert harm.num_gradients_K.tolist() == [1, 2, 1]


def test_half_precision_gradients_are_squared_in_float32():
    harm = _harm(1)
    _feel(harm, torch.full((1, 8, 1), 2.0**-14, dtype=torch.float16))
    assert float(harm.gradient_energy_K) == 2.0**-28
    _feel(harm, torch.zeros((0, 8, 1)))  # an empty batch has no mean
    assert harm.num_gradients_K.tolist() == [1]


@pytest.mark.parametrize("axis", ["channel", "position"])
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_the_micro_batches_of_a_step_are_one_observation(axis, memory):
    harms = {num: _harm(6, memory, axis) for num in (1, 2, 4)}
    for step in range(12):
        gradient = _random((4, 6, 6), step) * torch.logspace(-2, 2, 6) * 1.5**step
        for num, harm in harms.items():
            harm.begin_step()
            for part in gradient.chunk(num):
                harm.observe_gradient(part, ALL, _all(6), _none(6))
            assert torch.allclose(harm.gradient_energy_K, harms[1].gradient_energy_K, rtol=1e-5)
            assert harm.num_gradients_K.tolist() == [step + 1] * 6


def test_the_mean_of_a_step_is_right_after_each_of_its_micro_batches():
    harm, found = _harm(1, 0.5), []
    for energies in ((4.0, 0.0), (8.0, 2.0, 5.0), (1.0,)):
        harm.begin_step()
        for energy in energies:
            harm.observe_gradient(torch.tensor([[energy**0.5]]), ALL, _all(1), _none(1))
            found.append(float(harm.gradient_energy_K))
    # 2 after the first step, (2 + 5) / 2 after the second
    assert found == pytest.approx([4, 2, (2 + 8) / 2, (2 + 5) / 2, (2 + 5) / 2, (3.5 + 1) / 2])


def test_a_column_of_padding_alone_keeps_its_mean_and_its_count():
    harm = _harm(4, 0.5, "position")
    _feel(harm, torch.full((2, 3, 5), 2.0), slice(0, 3), "position")
    harm.observe_error(torch.full((3, 3), 6.0), torch.full((3,), 2.0), slice(0, 3), _all(3))
    is_sent_K = torch.tensor([True, False, True, False])
    for _ in range(3):
        harm.begin_step()
        harm.observe_gradient(torch.full((2, 4, 5), 4.0), ALL, is_sent_K, ~is_sent_K)
        harm.observe_error(torch.full((3, 4), 2.0), torch.zeros(4), ALL, is_sent_K)
    # (4 + 16) / 2, then half the way to 16 twice; 4, 3, 2.5 likewise, and 2, 1, 0.5
    assert harm.gradient_energy_K.tolist() == [14.5, 4.0, 14.5, 0.0]
    assert harm.error_WK.tolist() == [[2.5, 6.0, 2.5, 0.0]] * 3
    assert harm.range_energy_K.tolist() == [0.5, 4.0, 0.5, 0.0]
    assert harm.num_gradients_K.tolist() == harm.num_errors_K.tolist() == [4, 1, 4, 0]


def test_zeros_that_come_back_for_a_column_without_bits_say_nothing():
    harm = _harm(3, 0.0)
    _feel(harm, torch.full((2, 4, 3), 2.0))
    harm.begin_step()
    gradient = torch.tensor([0.0, 0.0, 3.0]).expand(2, 4, 3)
    harm.observe_gradient(gradient, ALL, _all(3), torch.tensor([True, False, True]))
    assert harm.gradient_energy_K.tolist() == [4.0, 0.0, 9.0]
    assert harm.num_gradients_K.tolist() == [1, 2, 2]


@pytest.mark.parametrize(("error", "largest"), [(torch.inf, 1.0), (torch.nan, 1.0), (1.0, 3e19)])
def test_an_error_that_is_not_finite_is_refused_and_changes_nothing(error, largest):
    harm = _harm(2)
    with pytest.raises(DivergedError, match="too large to be squared"):
        harm.observe_error(torch.full((3, 2), error), torch.full((2,), largest), ALL, _all(2))
    assert harm.num_errors_K.tolist() == [0, 0]
    assert not harm.error_WK.any()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_column_that_only_some_micro_batches_hold_is_counted_once(order):
    harm = _harm(3, 0.0, "position")
    parts = (
        (torch.full((1, 3, 2), 2.0), [True, True, False]),
        (torch.full((1, 3, 2), 4.0), [True, False, False]),
    )
    for step in range(1, 4):
        harm.begin_step()
        for index in order:
            gradient, is_sent = parts[index]
            harm.observe_gradient(gradient, ALL, torch.tensor(is_sent), _none(len(is_sent)))
        assert harm.gradient_energy_K.tolist() == [10.0, 2.0, 0.0]
        assert harm.num_gradients_K.tolist() == [step, step, 0]


# --- harm ---------------------------------------------------------------------------------------

_CURVE_WK = torch.tensor([[9.0, 8.0, 1.0], [3.0, 4.0, 1.0], [1.0, 2.0, 1.0]])


def test_harm_is_error_times_energy():
    harm = _harm(3)
    assert harm.harm_WK().tolist() == torch.zeros(3, 3).tolist()
    harm.observe_error(_CURVE_WK, torch.ones(3), ALL, _all(3))
    assert torch.equal(harm.harm_WK(), _CURVE_WK)  # no gradient yet: all matter alike
    _feel(harm, torch.tensor([[[2.0, 1.0, 0.0]]]))
    assert torch.equal(harm.harm_WK(), _CURVE_WK * torch.tensor([4.0, 1.0, 0.0]))


def test_gradients_alone_tell_nothing():
    harm = _harm(3)
    _feel(harm, torch.ones(1, 1, 3))
    assert harm.harm_WK().tolist() == torch.zeros(3, 3).tolist()


def test_a_column_that_was_never_sent_is_a_usual_one():
    harm = _harm(5, axis="position")
    harm.observe_error(_CURVE_WK, torch.ones(3), slice(0, 3), _all(3))
    median_W = _CURVE_WK.median(1).values
    assert torch.allclose(harm.harm_WK()[:, 3:], median_W.unsqueeze(1).expand(-1, 2))
    # Position 2 came, but no gradient for it: it is as unknown as positions 3 and 4.
    _feel(harm, torch.tensor([[[2.0], [1.0]]]), slice(0, 2), "position")
    expected_WK = _CURVE_WK[:, :2] * torch.tensor([4.0, 1.0])
    assert torch.allclose(harm.harm_WK()[:, :2], expected_WK)
    unknown = expected_WK.median(1, keepdim=True).values.expand(-1, 3)
    assert torch.allclose(harm.harm_WK()[:, 2:], unknown)


def test_errors_are_due_at_every_eighth_step_and_where_there_are_none():
    harm = _harm(3)
    assert STEPS_BETWEEN_ERRORS == 8
    assert all(harm.is_error_due(step) for step in range(20))
    harm.observe_error(_CURVE_WK, torch.ones(3), ALL, _all(3))
    assert [step for step in range(20) if harm.is_error_due(step)] == [0, 8, 16]


# --- error curves -------------------------------------------------------------------------------

GRIDS = [
    {},
    {"clip": "search"},
    {"spare_code": True},
    {"clip": "search", "center": False, "spare_code": True},
    {"clip": 2.0, "scale_dtype": "bfloat16"},
    {"center": False, "clip": "search"},
    {"center": False},
    {"scale": "token", "center": False},
    {"scale": "channel-token", "scale_dtype": "bfloat16"},
    {"axis": "position"},
    {"axis": "position", "scale": "token"},
]


def _tried(grid: GridOverTensors) -> range:
    return range(0 if grid.axis == grid.scale == "channel" else 2, 9)


@pytest.mark.parametrize("shape", [(2, 9, 5), (1, 1, 3), (7, 4)], ids=str)
@pytest.mark.parametrize("options", GRIDS, ids=str)
def test_error_curves_are_the_squared_errors_of_what_would_be_sent(options, shape):
    grid = _grid(**options)
    x = _random(shape) * torch.logspace(-1, 1, shape[-1]) + torch.linspace(-1, 1, shape[-1])
    before = x.clone()
    curves_WK, range_K = grid.error_curves(x, _tried(grid))
    assert torch.equal(x, before)
    num_columns = shape[-1] if grid.axis == "channel" else shape[-2]
    assert (curves_WK.dtype, range_K.shape) == (torch.float32, (num_columns,))
    others = tuple(d for d in range(x.dim()) if d != x.dim() - (1 if grid.axis == "channel" else 2))
    for bits, found_K in zip(_tried(grid), curves_WK, strict=True):
        quantized = grid.encode(x, BitAllocation.uniform(bits, num_columns, grid.axis))
        expected_K = (grid.decode(quantized) - x).double().square().mean(others)
        atol = 1e-9
        if grid.axis == grid.scale == "channel":  # squares count in 2048ths of a squared step
            largest = float(x.abs().max())
            atol = (
                (largest / (2.0 ** (bits - 1) - 1)) ** 2 / 2048 if bits > 1 else 1e-5 * largest**2
            )
        assert torch.allclose(found_K.double(), expected_K, rtol=1e-3, atol=atol)
    if grid.axis == grid.scale == "channel":
        assert torch.equal(range_K, quantized.side["range"].float().abs())  # that of 8 bits
    elif grid.scale == "token":
        assert float(range_K.max()) == float(quantized.side["token_range"].max())


@pytest.mark.parametrize("options", GRIDS, ids=str)
def test_padding_is_in_no_error_curve(options):
    grid = _grid(**options)
    x = _random((2, 6, 4)) * torch.tensor([1.0, 2.0, 4.0, 8.0])
    padded = torch.cat([x, torch.zeros(2, 5, 4)], dim=1)
    curves_WK, range_K = grid.error_curves(x, _tried(grid))
    padded_WK, padded_range_K = grid.error_curves(padded, _tried(grid))
    num_columns = curves_WK.shape[1]
    assert torch.allclose(padded_WK[:, :num_columns], curves_WK, rtol=1e-4)
    assert torch.allclose(padded_range_K[:num_columns], range_K)


def test_a_tensor_of_padding_alone_has_no_error():
    curves_WK, range_K = _grid(clip="search").error_curves(torch.zeros(2, 3, 4), range(9))
    assert curves_WK.tolist() == torch.zeros(9, 4).tolist()
    assert range_K.tolist() == [0.0] * 4
