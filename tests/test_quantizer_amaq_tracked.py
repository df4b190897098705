"""`amaq` with `allocation: tracked`: widths of least measured harm, set anew at each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amaqctl.errors import DivergedError
from amaqctl.quantizer import Site, TensorContext
from amaqctl.quantizers import bit_budget
from amaqctl.quantizers.amaq import AmaqQuantizer
from amaqctl.wire import Message

CONTEXT = TensorContext("activation", link=0, step=0, total_steps=40)
NUM_CHANNELS, NUM_POSITIONS = 6, 10
STEEP = 2.0 ** torch.arange(NUM_CHANNELS)


def _build(num_channels: int = NUM_CHANNELS, role: Any = "activation", **options: Any) -> Any:
    site = Site(0, role, num_channels, NUM_POSITIONS, 4, 17)
    return AmaqQuantizer(AmaqQuantizer.Config(**options), site)


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _input(step: int, num_rows: int = 2) -> Tensor:
    return _random((num_rows, 8, NUM_CHANNELS), step)


def _sent(quantizer: AmaqQuantizer, x: Tensor, step: int = 0, **context: Any) -> bytes:
    here = replace(CONTEXT, role=quantizer.site.role, step=step, **context)
    with torch.no_grad():
        return Message("amaq", here, quantizer.quantize(x, here)).to_bytes()


def _trained(
    quantizer: AmaqQuantizer, x: Tensor, g: Tensor, step: int = 0, micro_batch: int = 0
) -> bytes:
    """Send a micro-batch, and let its gradient come back."""
    data = _sent(quantizer, x, step, micro_batch=micro_batch)
    context = replace(CONTEXT, step=step, micro_batch=micro_batch)
    quantizer.surrogate(x.clone().requires_grad_(), context).backward(g)
    return data


def _widths(quantizer: AmaqQuantizer) -> list[int]:
    return quantizer.allocation().widths_C.tolist()


def _errors(x: Tensor) -> Tensor:
    """Mean squared error (W, C) of quantizers that give every channel the same width."""
    context = replace(CONTEXT, training=False)
    curves = []
    for bits in range(9):
        equal = _build(allocation="learned", target_bits=bits, scale_dtype="float32")
        off = equal.dequantize(equal.quantize(x, context), context) - x
        curves.append(off.double().square().mean((0, 1)))
    return torch.stack(curves)


class _Mean:
    """A running mean, worked out apart."""

    def __init__(self, memory: float) -> None:
        self.memory, self.num, self.value = memory, 0, torch.tensor(0.0)

    def take(self, new: Tensor) -> None:
        self.num += 1
        weight = max(1 - self.memory, 1 / self.num)
        self.value = (1 - weight) * self.value + weight * new


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_widths_are_those_of_least_harm_by_running_means(memory):
    quantizer = _build(memory=memory, scale_dtype="float32")
    energy, errors, seen = _Mean(memory), _Mean(memory), set()
    for step in range(18):
        x = _input(step) * (1 + step / 8)
        if step % 8 == 0:
            errors.take(_errors(x))
        g = _random((2, 8, NUM_CHANNELS), 50 + step) * STEEP.roll(step // 3)
        _trained(quantizer, x, g, step)
        harm_WC = errors.value * (energy.value if energy.num else 1.0)
        wanted_C = bit_budget.water_filling(harm_WC, 0, 4.0)
        shares_C = (wanted_C / 8).clamp(1e-4, 1 - 1e-4)
        assert torch.allclose(quantizer.gates_K.double(), shares_C.logit(), atol=1e-5)
        off_C = quantizer.allocation().widths_C.double() - wanted_C
        # Water-filling may stop below the budget; bits that are left over are given away.
        assert float(off_C.sum()) == 4 * NUM_CHANNELS - float(wanted_C.sum())
        assert float(off_C.abs().max()) <= 1
        assert off_C.any() == (float(wanted_C.sum()) < 4 * NUM_CHANNELS)
        energy.take(g.double().square().mean((0, 1)))
        seen.add(tuple(_widths(quantizer)))
    assert len(seen) > 3


@pytest.mark.parametrize("target", [0.25, 0.5, 1.0, 3.0, 7.5])
def test_what_is_sent_has_the_harm_of_water_filling_at_any_budget(target):
    """Few channels that matter, and a budget that is spent on them alone."""
    num_channels = 256
    quantizer = _build(num_channels, target_bits=target, scale_dtype="float32")
    size_C = torch.where(torch.arange(num_channels) % 16 == 0, 10.0, 1e-3)
    _sent(quantizer, _random((2, 8, num_channels), 0) * size_C)
    harm_WC = quantizer.harm.harm_WK().double()
    sent_C = quantizer.allocation().widths_C
    wanted_C = bit_budget.water_filling(harm_WC, 0, target)
    sent, wanted = (
        float(harm_WC.gather(0, widths_C.long().unsqueeze(0)).sum())
        for widths_C in (sent_C, wanted_C)
    )
    assert int(sent_C.sum()) == round(target * num_channels)
    assert sent <= 1.001 * wanted


def test_a_channel_without_bits_gets_some_once_it_matters():
    """Though a gradient with `bits: received` has none for it either."""
    quantizer, size_C = _build(target_bits=1, memory=0.0), STEEP
    for step in range(40):
        x = _input(step) * size_C
        _sent(quantizer, x, step)
        has_bits_C = torch.tensor(_widths(quantizer)) > 0
        if step == 15:
            assert has_bits_C[[0, -1]].tolist() == [False, True]
            size_C = STEEP.flip(0)
        context = replace(CONTEXT, step=step)
        gradient = torch.ones_like(x) * has_bits_C
        quantizer.surrogate(x.clone().requires_grad_(), context).backward(gradient)
    assert _widths(quantizer)[0] > 0 == _widths(quantizer)[-1]


@settings(max_examples=40, deadline=None)
@given(
    num_channels=st.integers(1, 24),
    target=st.integers(0, 80).map(lambda n: n / 10),
    fall=st.sampled_from([0.0, 0.4, 1.0]),
    spread=st.floats(0, 6),
    is_felt=st.booleans(),
    steps=st.lists(st.integers(0, 39), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_the_budget_is_met_to_the_bit_at_every_step(
    num_channels, target, fall, spread, is_felt, steps
):
    quantizer = _build(num_channels, target_bits=target, fall=fall)
    spread_C = 10.0 ** torch.linspace(-spread, spread, num_channels)
    for step in steps:
        x = _random((2, 4, num_channels), step) * spread_C
        if is_felt:
            _trained(quantizer, x, _random((2, 4, num_channels), 50 + step), step)
        else:
            _sent(quantizer, x, step)
        done = min(step / (fall * 39), 1.0) if fall else 1.0
        widths = _widths(quantizer)
        assert sum(widths) == round(num_channels * (8.0 + (target - 8.0) * done))
        assert 0 <= min(widths) <= max(widths) <= 8


def test_before_any_gradient_the_error_alone_decides():
    quantizer = _build(scale_dtype="float32")
    x = _input(0) * STEEP
    _sent(quantizer, x)
    assert _widths(quantizer) == sorted(_widths(quantizer))
    assert len(set(_widths(quantizer))) > 2
    wanted_C = bit_budget.water_filling(_errors(x), 0, 4.0)
    assert _widths(quantizer) == wanted_C.tolist()
    assert sum(_widths(quantizer)) == 4 * NUM_CHANNELS


def test_channels_alike_but_for_their_gradients_get_bits_by_these_and_forget_them():
    quantizer = _build(memory=0.5, target_bits=3.5)
    x = _random((2, 8, 1), 0).expand(2, 8, NUM_CHANNELS)
    g = _random((2, 8, 1), 1) * STEEP
    _trained(quantizer, x, g, 0)
    assert max(_widths(quantizer)) - min(_widths(quantizer)) <= 2  # all alike so far
    for step in range(1, 4):
        _trained(quantizer, x, g, step)
        assert _widths(quantizer) == sorted(_widths(quantizer))
    before = _widths(quantizer)
    assert before[-1] - before[0] >= 4  # ½ log2(32²) = 5
    changes = []
    for step in range(4, 30):
        _trained(quantizer, x, g.flip(-1), step)
        changes.append(_widths(quantizer))
    assert changes[0] == before  # a gradient counts from the next step on
    assert changes[-1] == before[::-1]


def test_micro_batches_of_a_step_share_widths_and_all_gradients_count():
    quantizer, memory = _build(memory=0.5), _Mean(0.5)
    for step in range(4):
        widths, energies = [], []
        for micro_batch in range(3):
            x = _input(10 * step + micro_batch) * STEEP.roll(micro_batch)
            g = x.flip(-1) * (1 + micro_batch)
            _trained(quantizer, x, g, step, micro_batch)
            energies.append(g.square().mean((0, 1)))
            widths.append(_widths(quantizer))
        memory.take(torch.stack(energies).mean(0))
        assert widths[0] == widths[1] == widths[2]
    assert torch.allclose(quantizer.harm.gradient_energy_K, memory.value, rtol=1e-5)
    assert quantizer.harm.num_gradients_K.tolist() == [4] * NUM_CHANNELS
    assert quantizer.harm.num_errors_K.tolist() == [1] * NUM_CHANNELS  # the first one's


@pytest.mark.parametrize("memory", [0.0, 0.9])
@pytest.mark.parametrize("axis", ["channel", "position"])
def test_widths_do_not_depend_on_how_a_batch_is_divided(axis, memory):
    quantizers = {num: _build(axis=axis, memory=memory) for num in (1, 2, 4)}
    seen = set()
    for step in range(12):
        # Rows alike, since error curves are those of the first micro-batch; gradients are not.
        x = _input(step, 1).expand(4, -1, -1) * STEEP.roll(step // 2)
        g = _random((4, 8, NUM_CHANNELS), 50 + step) * STEEP.roll(step // 3) * 2.0**step
        for num, quantizer in quantizers.items():
            parts = zip(x.chunk(num), g.chunk(num), strict=True)
            for micro_batch, (part, gradient) in enumerate(parts):
                _trained(quantizer, part, gradient, step, micro_batch)
                assert _widths(quantizer) == _widths(quantizers[1])
            energy_K = quantizer.harm.gradient_energy_K
            assert torch.allclose(energy_K, quantizers[1].harm.gradient_energy_K, rtol=1e-5)
        seen.add(tuple(_widths(quantizers[1])))
    assert len(seen) > 3


@pytest.mark.parametrize("num_micro_batches", [1, 2])
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_positions_after_long_padding_get_the_widths_of_their_own_harm(memory, num_micro_batches):
    # With these the head's errors do not depend on the tail.
    options = {"axis": "position", "scale": "token", "center": False, "memory": memory}
    padded, full = _build(**options), _build(**options)
    # The tail matters most, and is only padding at first: in the message and in its gradient.
    steep_T1 = 4.0 ** (torch.arange(NUM_POSITIONS) - 4).clamp(min=0).unsqueeze(-1)
    x = _random((2, NUM_POSITIONS, NUM_CHANNELS), 0)
    g = _random((2, NUM_POSITIONS, NUM_CHANNELS), 1) * steep_T1
    is_head_T1 = (torch.arange(NUM_POSITIONS) < 5).unsqueeze(-1)

    def trained(quantizer: AmaqQuantizer, step: int, mask: Tensor | float = 1.0) -> list[int]:
        for micro_batch in range(num_micro_batches):
            _trained(quantizer, x * mask, g * mask, step, micro_batch)
        return _widths(quantizer)

    for step in range(16):
        tail = trained(padded, step, is_head_T1)[5:]
        assert max(tail) - min(tail) <= 1  # unknown, hence usual, and not the least
        assert min(tail) > 2
    harm = padded.harm
    assert harm.num_gradients_K.tolist() == [16] * 5 + [0] * 5
    assert harm.num_errors_K.tolist() == [2] * 5 + [0] * 5
    assert float(harm.gradient_energy_K[5:].max()) == float(harm.error_WK[:, 5:].max()) == 0
    for step in range(16, 20):
        widths = trained(padded, step)
        trained(full, step)
    assert torch.allclose(harm.gradient_energy_K, full.harm.gradient_energy_K, rtol=1e-5)
    assert torch.allclose(harm.error_WK, full.harm.error_WK, rtol=1e-5)
    assert widths == _widths(full) == sorted(widths)
    assert widths[-1] > 4
    # And padding again takes nothing away.
    before_K = harm.gradient_energy_K[5:].clone()
    for step in range(20, 30):
        assert trained(padded, step, is_head_T1) == widths
    assert torch.equal(harm.gradient_energy_K[5:], before_K)
    assert harm.num_gradients_K.tolist() == [30] * 5 + [4] * 5


def test_error_curves_are_measured_only_at_due_steps():
    quantizer, counts = _build(), []
    for step in range(3, 20):
        _sent(quantizer, _input(step), step)
        counts.append(int(quantizer.harm.num_errors_K[0]))
    assert counts == [1] * 5 + [2] * 8 + [3] * 4  # at 3, since there were none; at 8; at 16


def test_evaluation_measures_nothing_and_changes_nothing():
    quantizer, twin = _build(), _build()
    evaluated = _build()
    _sent(evaluated, _input(0), 8, training=False)
    assert not evaluated.harm.num_errors_K.any()
    assert _widths(evaluated) == [4] * NUM_CHANNELS
    for step in range(10):
        before = {key: value.clone() for key, value in quantizer.state_dict().items()}
        for rows in (3, 0):
            x, context = _input(99, rows) * STEEP, replace(CONTEXT, step=step, training=False)
            data = _sent(quantizer, x, step, training=False)
            assert data == _sent(quantizer, x, step, training=False)
            assert quantizer.surrogate(x, context) is x
        assert all(torch.equal(before[k], v) for k, v in quantizer.state_dict().items())
        x, g = _input(step), _input(50 + step) * STEEP
        assert _trained(quantizer, x, g, step) == _trained(twin, x, g, step)


@pytest.mark.parametrize("num_micro_batches", [1, 3])
@pytest.mark.parametrize("steps", [0, 1, 5, 8, 9])
@pytest.mark.parametrize("axis", ["channel", "position"])
def test_state_round_trips_at_any_step(axis, steps, num_micro_batches):
    first, second = (_build(axis=axis, fall=0.5, memory=0.5) for _ in range(2))

    def trained(quantizer: AmaqQuantizer, step: int) -> list[bytes]:
        sent = []
        for micro_batch in range(num_micro_batches):
            x, g = (_input(100 * micro_batch + seed + step) * STEEP for seed in (0, 50))
            x[:, 8 - (step + micro_batch) % 4 :] = 0  # padding
            sent.append(_trained(quantizer, x, g * (x != 0), step, micro_batch))
        return sent

    for step in range(steps):
        trained(first, step)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    for step in range(steps, steps + 10):
        assert trained(first, step) == trained(second, step)
    states = (first.state_dict().values(), second.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_an_empty_batch_spoils_nothing():
    quantizer = _build(center=True)
    for micro_batch, rows in enumerate((0, 2, 0)):
        x = _input(0, rows) * STEEP
        _trained(quantizer, x, x.sin(), 0, micro_batch)
        assert _widths(quantizer) == [4] * NUM_CHANNELS  # of the first, which told nothing
    assert quantizer.harm.num_gradients_K.tolist() == [1] * NUM_CHANNELS
    assert quantizer.harm.num_errors_K.tolist() == [0] * NUM_CHANNELS
    for step in (1, 2):
        _trained(quantizer, _input(step) * STEEP, _input(50), step)
        assert _widths(quantizer) == sorted(_widths(quantizer)) != [4] * NUM_CHANNELS
    assert quantizer.harm.num_errors_K.tolist() == [1] * NUM_CHANNELS
    assert all(bool(value.isfinite().all()) for value in quantizer.state_dict().values())


def test_gradients_are_watched_where_nothing_before_the_cut_learns():
    quantizer, twin = _build(), _build()
    for step in range(3):
        x, g = _input(step), _input(50 + step) * STEEP
        data = _sent(quantizer, x, step)
        stand_in = quantizer.surrogate(x, replace(CONTEXT, step=step))  # x needs no gradient
        assert stand_in.requires_grad
        stand_in.backward(g)
        assert data == _trained(twin, x, g, step)
    assert torch.equal(quantizer.harm.gradient_energy_K, twin.harm.gradient_energy_K)
    assert not x.requires_grad


def test_positions_never_seen_get_what_a_usual_one_gets():
    quantizer = _build(axis="position", target_bits=4.0, memory=0.0)
    g = _random((2, 4, NUM_CHANNELS), 1) * torch.tensor([8.0, 4.0, 2.0, 1.0]).unsqueeze(-1)
    for step in range(2):
        _trained(quantizer, _random((2, 4, NUM_CHANNELS), 0), g, step)
    widths_T = _widths(quantizer)
    assert widths_T[:4] == sorted(widths_T[:4], reverse=True)
    assert widths_T[0] > widths_T[3]
    assert sum(widths_T) == 4 * NUM_POSITIONS
    assert max(widths_T[4:]) - min(widths_T[4:]) <= 1  # alike, but for what is left over
    assert widths_T[3] - 1 <= min(widths_T[4:]) <= max(widths_T[4:]) <= widths_T[0]
    # One token of a generation has the width of its position, not of the first.
    context = replace(CONTEXT, step=2, training=False)
    for first in range(NUM_POSITIONS):
        whole = quantizer.quantize(_random((1, first + 1, NUM_CHANNELS), first), context)
        here = replace(context, first_position=first)
        sent = quantizer.quantize(_random((1, 1, NUM_CHANNELS), first), here)
        assert sent.codes.allocation.widths_C.tolist() == [whole.codes.allocation.widths_C[first]]


@pytest.mark.parametrize("allocation", ["tracked", "learned"])
@pytest.mark.parametrize("target_bits", [3.5, 4.0])
def test_short_messages_meet_the_budget_of_their_own_positions(allocation, target_bits):
    quantizer = _build(axis="position", allocation=allocation, target_bits=target_bits)
    for step, num_tokens in enumerate([4, 4, 6, 2, NUM_POSITIONS]):
        x = _random((2, num_tokens, NUM_CHANNELS), step)
        x[:, 0] *= 100  # the first token's massive activation
        here = replace(CONTEXT, step=step)
        widths_T = quantizer.quantize(x, here).codes.allocation.widths_C
        assert int(widths_T.sum()) == round(num_tokens * target_bits)
        surrogate = quantizer.surrogate(x.requires_grad_(), here)
        surrogate.backward(_random(x.shape, 7))


def test_a_gradient_that_cannot_be_squared_ends_the_run():
    quantizer = _build(target_bits=4.0)
    _trained(quantizer, _input(0), _input(1), 0)
    before = quantizer.harm.gradient_energy_K.clone()
    with pytest.raises(DivergedError, match="too large to be squared"):
        _trained(quantizer, _input(0), _input(1) * 1e30, 1)
    assert torch.equal(quantizer.harm.gradient_energy_K, before)


def test_gates_that_are_set_are_not_trained():
    tracked, learned = _build(), _build(allocation="learned")
    assert tracked.param_groups() == []
    assert [parameter for parameter in tracked.parameters() if parameter.requires_grad] == []
    assert [group["params"] for group in learned.param_groups()] == [[learned.gates_K]]
    _trained(tracked, _input(0), _input(1))
    assert tracked.gates_K.grad is None
    assert tracked.penalty(CONTEXT) is None


@pytest.mark.parametrize("options", [{}, {"axis": "position"}, {"scale": "token"}], ids=str)
def test_gradients_can_be_sent_though_no_surrogate_is_ever_asked(options):
    sender, again = (_build(role="gradient", fall=0.5, **options) for _ in range(2))
    receiver = _build(role="gradient", **options)
    for step in range(20):
        x = _random((2, NUM_POSITIONS, NUM_CHANNELS), step) * STEEP * 1e-6
        data = _sent(sender, x, step)
        assert data == _sent(again, x, step)
        message = Message.from_bytes(data)
        decoded = receiver.dequantize(message.quantized, message.context)
        assert float((decoded - x).square().mean()) < 0.1 * float(x.square().mean())
        budget = 8.0 - 4.0 * min(step / 19.5, 1.0)
        assert sum(_widths(sender)) == round(len(_widths(sender)) * budget)
    assert not sender.harm.num_gradients_K.any()


def test_the_slope_of_a_gate_changes_no_width():
    """Gates are set so that they say what water-filling found, whatever `alpha` is."""
    one, other = (_build(target_bits=3.3, alpha=alpha) for alpha in (1.0, 4.0))
    for step in range(4):
        x, g = _input(step) * STEEP, _random((2, 8, NUM_CHANNELS), 50 + step)
        assert _trained(one, x, g, step) == _trained(other, x, g, step)
        assert _widths(one) == _widths(other)
    assert len(set(_widths(one))) > 1


def test_nothing_was_sent_yet():
    quantizer = _build(target_bits=4)
    assert quantizer.allocation() is None
    _sent(quantizer, _input(0))
    assert quantizer.allocation().num_columns == NUM_CHANNELS


def test_widths_of_steps_that_are_over_are_forgotten():
    quantizer = _build(axis="position", target_bits=4)
    for step in range(5):
        for length in (4, 6):
            _trained(quantizer, _input(step)[:, :length], torch.ones(2, length, NUM_CHANNELS), step)
    assert {key[0] for key in quantizer._widths} == {4}
