"""The learning rate by step, and that it reaches the adapters and not the gates."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaqctl.build import build
from amaqctl.engine.learning_rate import LearningRate
from amaqctl.profile import load_profile
from amaqctl.tasks.batch import batch_at


@pytest.mark.parametrize(
    ("shape", "warmup_steps", "expected"),
    [
        ("constant", 0, [8, 8, 8, 8]),
        ("constant", 1, [4, 8, 8, 8]),
        ("constant", 3, [2, 4, 6, 8]),
        ("linear", 0, [8, 6, 4, 2]),
        ("linear", 2, [8 / 3, 16 / 3, 8, 4]),
        ("linear", 9, [0.8, 1.6, 2.4, 3.2]),
    ],
)
def test_the_rate_by_step(
    shape: Literal["constant", "linear"], warmup_steps: int, expected: list[float]
) -> None:
    rate = LearningRate(8.0, shape, warmup_steps, max_steps=4)
    assert [rate.at(step) for step in range(4)] == pytest.approx(expected)


@given(st.integers(0, 30), st.integers(1, 60))
def test_it_rises_in_the_warmup_then_falls_and_is_never_zero(warmup: int, max_steps: int) -> None:
    rates = [LearningRate(1.0, "linear", warmup, max_steps).at(s) for s in range(max_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[: warmup + 1]))
    assert all(a > b for a, b in pairwise(rates[warmup:]))


def test_adapters_follow_it_and_gates_do_not() -> None:
    changes = [
        "model.id=tiny",
        "model.dtype=float32",
        "split.cuts=[1]",
        "optimizer.lr=0.5",
        "optimizer.schedule=linear",
        "train.max_steps=4",
        "train.max_length=32",
        "quantizers.activation.options={target_bits: 4, allocation: learned}",
    ]
    built = build(load_profile("quickstart", changes))
    batch = batch_at(built.task.train, 0, 4, 17, built.tokenizer.pad_token_id)
    for step, expected in enumerate((0.5, 0.375, 0.25)):
        built.engine.train_step(batch, step)
        front, back = (built.engine.stages[index].optimizer for index in (0, 1))
        assert front is not None
        assert back is not None
        assert [group["lr"] for group in front.param_groups] == [expected, 0.1]
        assert [group["lr"] for group in back.param_groups] == [expected]
