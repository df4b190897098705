"""One stage's own arithmetic: the loss, the mask, the norm and the clip, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from amaqctl.engine.gradient_norm import total_norm
from amaqctl.engine.learning_rate import LearningRate
from amaqctl.engine.stage import Stage, padding_mask, token_loss
from amaqctl.errors import DivergedError
from amaqctl.model.dropout import SeededDropout
from amaqctl.quantizer import TensorContext
from amaqctl.tasks.task import IGNORE_INDEX


def test_the_loss_is_of_the_next_token_summed_where_there_is_a_label() -> None:
    logits_BTV = torch.randn((2, 4, 5), generator=torch.Generator().manual_seed(0))
    labels_BT = torch.tensor([[1, 2, IGNORE_INDEX, 4], [IGNORE_INDEX, IGNORE_INDEX, 3, 0]])
    log_BTV = torch.log_softmax(logits_BTV, -1)
    due = [(0, 0, 2), (0, 2, 4), (1, 1, 3), (1, 2, 0)]  # row, position before, label
    expected = -sum(float(log_BTV[place]) for place in due)
    assert float(token_loss(logits_BTV, labels_BT)) == pytest.approx(expected, rel=1e-6)
    assert token_loss(logits_BTV.bfloat16(), labels_BT).dtype == torch.float32
    assert float(token_loss(logits_BTV, torch.full((2, 4), IGNORE_INDEX))) == 0.0
    first_only = torch.tensor([[1, *[IGNORE_INDEX] * 3]] * 2)
    assert float(token_loss(logits_BTV, first_only)) == 0.0  # nothing stands before it


def context(**changes: Any) -> TensorContext:
    return TensorContext("activation", 0, step=0, total_steps=1, **changes)


@pytest.mark.parametrize(
    ("changes", "num_new", "mask"),
    [
        ({}, 3, ["111", "111"]),
        ({"first_position": 2}, 1, ["111", "111"]),
        ({"lengths": (3, 1)}, 3, ["111", "100"]),
        ({"lengths": (0, 2)}, 3, ["000", "110"]),
        ({"lengths": (3, 1), "left_padded": True}, 3, ["111", "001"]),
        ({"lengths": (0, 2), "left_padded": True}, 3, ["000", "011"]),
        ({"lengths": (4, 2), "left_padded": True, "first_position": 3}, 1, ["1111", "0011"]),
        ({"lengths": (4, 2), "first_position": 2}, 2, ["1111", "1100"]),
    ],
)
def test_the_mask(changes: dict[str, Any], num_new: int, mask: list[str]) -> None:
    found = padding_mask(context(**changes), 2, num_new)
    assert found.dtype == torch.int64
    assert ["".join(map(str, row)) for row in found.tolist()] == mask


CPU = torch.device("cpu")


def stage(weights: list[nn.Parameter], gates: list[nn.Parameter], limit: float | None) -> Stage:
    groups = [{"params": part, "lr": 0.5} for part in (weights, gates) if part]
    return Stage(
        nn.Identity(),  # type: ignore[arg-type]
        incoming=None,
        outgoing=None,
        optimizer=torch.optim.SGD(groups) if groups else None,
        lora_parameters=dict(enumerate(weights)),
        learning_rate=LearningRate(8.0, "linear", 1, 5),
        max_grad_norm=limit,
        dropout=SeededDropout({}, 0),
    )


def parameter(*gradient: float) -> nn.Parameter:
    made = nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    return made


@pytest.mark.parametrize(
    ("limit", "scale"), [(None, 1.0), (5.0, 1.0), (6.0, 1.0), (4.0, 0.8), (0.5, 0.1)]
)
def test_a_norm_above_the_limit_is_brought_to_it(limit: float | None, scale: float) -> None:
    first, second, silent = parameter(3.0, 0.0), parameter(4.0), nn.Parameter(torch.zeros(1))
    gate = parameter(100.0)  # gates are no part of the norm, and not clipped
    made = stage([first, second, silent], [gate], limit)
    norms = made.gradient_norms()
    assert norms == {0: 3.0, 1: 4.0}
    norm = total_norm(norms, 0, CPU)
    assert norm == 5.0
    made.clip(norm)
    made.update(step=1)
    rate = 8.0  # the peak, after one step of warmup
    assert first.tolist() == pytest.approx([-3 * scale * rate, 0.0], rel=1e-5)
    assert second.tolist() == pytest.approx([-4 * scale * rate], rel=1e-5)
    assert silent.tolist() == [0.0]
    assert gate.tolist() == [-50.0]  # at a rate of their own
    assert all(p.grad is None for p in (first, second, gate))


def test_the_rate_follows_the_step_and_only_for_lora_weights() -> None:
    weight, gate = parameter(1.0), parameter(1.0)
    made = stage([weight], [gate], None)
    for step, rate in enumerate([4.0, 8.0, 6.0, 4.0, 2.0]):
        weight.grad = torch.ones(1)
        before = float(weight.detach())
        made.update(step)
        assert before - float(weight.detach()) == rate
    alone = stage([], [gate], 1.0)
    gate.grad = torch.ones(1)
    before = float(gate.detach())
    assert alone.gradient_norms() == {}
    assert total_norm({}, 0, CPU) == 0.0
    alone.clip(0.0)
    alone.update(0)
    assert before - float(gate.detach()) == 0.5
    stage([], [], None).update(0)  # a stage with nothing to learn


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_run(bad: float) -> None:
    with pytest.raises(DivergedError, match="a gradient is not finite") as caught:
        total_norm(stage([parameter(1.0), parameter(bad)], [], None).gradient_norms(), 7, CPU)
    assert caught.value.where == "step 7"
