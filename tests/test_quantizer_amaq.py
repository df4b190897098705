"""`amaq`: gates that are learned, the paper's widths and loss, the budget."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amaqctl.errors import QuantizationError
from amaqctl.quantizer import Site, TensorContext
from amaqctl.quantizers import bit_budget
from amaqctl.quantizers.amaq import AmaqQuantizer

CONTEXT = TensorContext("activation", link=0, step=0, total_steps=40)
NUM_CHANNELS, NUM_POSITIONS = 6, 10


def _build(num_channels: int = NUM_CHANNELS, **options: Any) -> AmaqQuantizer:
    site = Site(0, "activation", num_channels, NUM_POSITIONS, 4, 17)
    return AmaqQuantizer(AmaqQuantizer.Config(**options), site)


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _set_gates(quantizer: AmaqQuantizer, gates: Tensor | list[float]) -> None:
    with torch.no_grad():
        quantizer.gates_K.copy_(torch.as_tensor(gates))


def _backward(quantizer: AmaqQuantizer, x: Tensor, g: Tensor, context: TensorContext) -> Tensor:
    """One micro-batch at the sender; returns what was decoded."""
    with torch.no_grad():
        quantized = quantizer.quantize(x, context)
    quantizer.surrogate(x.clone().requires_grad_(), context).backward(g)
    return quantizer.dequantize(quantized, context)


def _bits(quantizer: AmaqQuantizer, gates_K: Tensor, mean_bits: float | None) -> Tensor:
    """The paper's widths in float64; with a budget the common shift is solved anew."""
    low, high = quantizer.config.min_bits, quantizer.config.max_bits
    logits_K = quantizer.config.alpha * gates_K
    if mean_bits is not None:
        logits_K = logits_K + bit_budget.shift_to_mean(logits_K, low, high, mean_bits)
    return low + (high - low) * torch.sigmoid(logits_K)


def _loss_of_widths(x: Tensor, decoded: Tensor, g: Tensor, widths: Tensor, moved: Tensor) -> Tensor:
    """sum g · (x + s(b) · rho): the residual rho = (x̂ - x) / s of the rounding stays as it is."""

    def top(bits: Tensor) -> Tensor:
        return torch.where(bits >= 1.5, 2.0 ** (bits - 1) - 1, 2.0 ** (bits - 1))

    return (g * (x + (decoded - x) * top(widths) / top(moved))).sum()


@pytest.mark.parametrize(
    "options",
    [
        {"allocation": "learned", "target_bits": 4.0, "clip": None},
        {"allocation": "learned", "target_bits": 2.0, "alpha": 0.7, "clip": None},
        {"mode": "paper", "alpha": 1.3},
        {"mode": "paper", "min_bits": 0, "scale_dtype": "float32"},
        {"allocation": "learned", "axis": "position", "target_bits": 3.5},
        {"mode": "paper", "axis": "position", "beta": 0.0},
        {"allocation": "learned", "scale": "token", "target_bits": 3.0},
        {"allocation": "learned", "scale": "channel-token", "target_bits": 5.0},
    ],
    ids=str,
)
def test_gate_gradient_is_that_of_central_differences(options):
    quantizer = _build(**options)
    axis, num_tokens = quantizer.config.axis, 7
    num_gates = quantizer.gates_K.numel()
    gates_K = _random((num_gates,), 3)
    _set_gates(quantizer, gates_K)
    x, g = _random((3, num_tokens, NUM_CHANNELS), 0), _random((3, num_tokens, NUM_CHANNELS), 1)
    decoded = _backward(quantizer, x, g, CONTEXT).double()
    sent_K = quantizer.quantize(x, CONTEXT).codes.allocation.widths_C.double()
    num_sent = NUM_CHANNELS if axis == "channel" else num_tokens

    def spread(per_column: Tensor) -> Tensor:
        return per_column if axis == "channel" else per_column.unsqueeze(-1)

    def loss(widths_K: Tensor) -> Tensor:
        return _loss_of_widths(x.double(), decoded, g.double(), spread(sent_K), spread(widths_K))

    step = 1e-5
    by_width_K = torch.zeros(num_sent, dtype=torch.float64)
    for k in range(num_sent):
        e_K = torch.zeros(num_sent, dtype=torch.float64).index_fill(0, torch.tensor([k]), step)
        by_width_K[k] = (loss(sent_K + e_K) - loss(sent_K - e_K)) / (2 * step)
    expected_K = torch.zeros(num_gates, dtype=torch.float64)
    budget = quantizer.config.target_bits
    for k in range(num_gates):
        e_K = torch.zeros(num_gates, dtype=torch.float64).index_fill(0, torch.tensor([k]), step)
        # The budget is that of the positions sent.
        plus = _bits(quantizer, (gates_K.double() + e_K)[:num_sent], budget)
        minus = _bits(quantizer, (gates_K.double() - e_K)[:num_sent], budget)
        expected_K[k] = by_width_K @ (plus - minus) / (2 * step)
    found_K = quantizer.gates_K.grad.double()
    assert float(expected_K.abs().max()) > 1e-3
    assert torch.allclose(found_K, expected_K, rtol=2e-4, atol=2e-5)


def test_budget_gradient_cannot_move_all_gates_together():
    quantizer = _build(allocation="learned", target_bits=3.0)
    x, g = _random((2, 8, NUM_CHANNELS), 0), _random((2, 8, NUM_CHANNELS), 1)
    _backward(quantizer, x, g, CONTEXT)
    # All gates are equal: the projection leaves only what differs between them.
    assert float(quantizer.gates_K.grad.abs().max()) > 1e-3
    assert float(quantizer.gates_K.grad.sum()) == pytest.approx(0.0, abs=1e-5)


def test_clipped_values_do_not_teach():
    options = {"allocation": "learned", "target_bits": 4.0, "clip": 2.0, "center": False}
    quantizer = _build(1, **options, spare_code=False, outlier_tokens=False)
    x = torch.tensor([[[1.0], [1.0], [-1.0], [9.0]]])  # mean magnitude 3: clipped at 6
    decoded = _backward(quantizer, x, torch.tensor([[[0.0], [0.0], [0.0], [1.0]]]), CONTEXT)
    assert decoded[0, 3, 0].item() == pytest.approx(6.0)
    assert quantizer.gates_K.grad.tolist() == [0.0]


def test_bits_loss_and_its_gradient_by_hand():
    quantizer = _build(3, mode="paper", beta=2.0, alpha=1.5)
    _set_gates(quantizer, [0.0, math.log(3.0) / 1.5, -math.log(3.0) / 1.5])  # σ = 1/2, 3/4, 1/4
    penalty = quantizer.penalty(CONTEXT)
    assert penalty.item() == pytest.approx(2.0 * (1 / 4 + 9 / 16 + 1 / 16) / 3)
    penalty.backward()
    # β / C · 2σ · σ(1 - σ) · α
    expected = [2.0 / 3 * 2 * s * s * (1 - s) * 1.5 for s in (1 / 2, 3 / 4, 1 / 4)]
    assert quantizer.gates_K.grad.tolist() == pytest.approx(expected, rel=1e-5)
    assert _build(allocation="learned").penalty(CONTEXT) is None


def test_paper_widths_are_the_rounded_formula():
    quantizer = _build(5, mode="paper", min_bits=3, max_bits=8)
    shares = [0.05, 0.29, 0.31, 0.9, 0.999]
    _set_gates(quantizer, torch.logit(torch.tensor(shares)))
    quantizer.quantize(torch.ones((1, 2, 5)), CONTEXT)
    assert quantizer.allocation().widths_C.tolist() == [3, 4, 5, 8, 8]


@settings(max_examples=60, deadline=None)
@given(
    gates=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=24),
    target=st.integers(0, 80).map(lambda n: n / 10),
    step=st.integers(0, 39),
    fall=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_budget_is_met_to_the_bit_at_every_step(gates, target, step, fall):
    quantizer = _build(len(gates), allocation="learned", target_bits=target, fall=fall)
    _set_gates(quantizer, gates)
    quantizer.quantize(torch.ones((1, 2, len(gates))), replace(CONTEXT, step=step))
    widths_K = quantizer.allocation().widths_C
    done = min(step / (fall * 39), 1.0) if fall else 1.0
    mean = 8.0 + (target - 8.0) * done
    assert int(widths_K.sum(dtype=torch.int64)) == round(len(gates) * mean)
    assert int(widths_K.max()) <= 8


def test_widths_fall_along_the_schedule_and_end_on_target():
    quantizer = _build(allocation="learned", target_bits=2.0, fall=1.0)
    _set_gates(quantizer, _random((NUM_CHANNELS,), 4))
    means = []
    for step in range(40):
        quantizer.quantize(torch.ones((1, 2, NUM_CHANNELS)), replace(CONTEXT, step=step))
        means.append(quantizer.allocation().mean_bits)
    assert means[0] == 8.0
    assert means[-1] == 2.0
    assert means == sorted(means, reverse=True)
    assert len(set(means)) > 20


def test_micro_batches_of_a_step_share_their_widths():
    quantizer = _build(allocation="learned", target_bits=3.0)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.5)
    seen = []
    for step in range(6):
        widths = []
        for micro_batch in range(3):
            context = replace(CONTEXT, step=step, micro_batch=micro_batch)
            x = _random((2, 8, NUM_CHANNELS), 10 * step + micro_batch)
            _backward(quantizer, x, x.square() * torch.arange(NUM_CHANNELS), context)
            widths.append(quantizer.allocation().widths_C.tolist())
        assert widths[0] == widths[1] == widths[2]
        seen.append(widths[0])
        optimizer.step()
        optimizer.zero_grad()
    assert seen[0] == [3] * NUM_CHANNELS
    assert seen[-1] != seen[0]


def test_position_gates_follow_the_first_position():
    quantizer = _build(axis="position", allocation="learned", target_bits=5.0)
    _set_gates(quantizer, torch.linspace(3, -3, NUM_POSITIONS))
    x = _random((1, NUM_POSITIONS, NUM_CHANNELS), 0)
    for first in range(NUM_POSITIONS):
        whole = quantizer.quantize(x[:, : first + 1], CONTEXT).codes.allocation.widths_C
        assert int(whole.sum()) == 5 * (first + 1)
        context = replace(CONTEXT, first_position=first, training=False)
        quantized = quantizer.quantize(x[:, first : first + 1], context)
        assert quantized.codes.allocation.widths_C.tolist() == [int(whole[first])]
    with pytest.raises(QuantizationError, match="11 positions, but gates for 10") as caught:
        quantizer.quantize(x[:, :2], replace(CONTEXT, first_position=9, training=False))
    assert "max_length" in caught.value.hint


def test_a_position_is_sent_where_any_row_has_a_token_of_any_sign():
    site = Site(0, "activation", 3, 8, 4, 17)
    quantizer = AmaqQuantizer(AmaqQuantizer.Config(axis="position", target_bits=4), site)
    x = torch.zeros(2, 4, 3)
    x[0, 0] = 1.0
    x[1, 1] = -1.0
    x[0, 2, 1] = -0.5
    assert quantizer._is_sent_K(x).tolist() == [True, True, True, False]
