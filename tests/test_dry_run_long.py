"""`train --dry-run` of long runs: bounded work, and the forecast of a shorter one."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from amaqctl.cli.main import app
from amaqctl.forecast import rehearsal, wire
from amaqctl.forecast.data_order import MOST_COUNTED, DataOrder, spread
from amaqctl.tasks.task import Example

data_order = sys.modules["amaqctl.forecast.data_order"]  # the package has a function so named

TINY = ["--set", "model.id=tiny", "--set", "eval.max_examples=2"]
WORDS = [*TINY, "--set", "task.options={num_train: 90, num_validation: 6}",
         "--set", "train.batch_size=4"]  # fmt: skip
EPOCH_STEPS = 22


def dry(*arguments: str):
    result = CliRunner().invoke(
        app, ["train", *arguments, "--dry-run", "--json"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["data"]


@pytest.fixture
def num_batches(monkeypatch) -> list[int]:
    """Steps whose batches were built, one entry each time."""
    built: list[int] = []
    real = rehearsal.batch_at

    def batch_at(examples, step, *rest):
        built.append(step)
        return real(examples, step, *rest)

    monkeypatch.setattr(rehearsal, "batch_at", batch_at)
    return built


def test_twenty_million_steps_cost_what_twenty_thousand_do(num_batches):
    found = {}
    for num_steps in (20_000, 20_000_000):
        num_batches.clear()
        data = dry("quickstart", *TINY, "--max-steps", str(num_steps))
        assert MOST_COUNTED < len(num_batches) < MOST_COUNTED + 100
        assert data["forecast"]["counted_steps"] == MOST_COUNTED
        found[num_steps] = {
            key: data["forecast"][key] / num_steps for key in ("run_bytes", "run_values")
        }
        assert data["time"]["num_steps"] == num_steps
    assert found[20_000_000] == pytest.approx(found[20_000], rel=0.01)


@pytest.mark.parametrize("counted", [EPOCH_STEPS // 2, EPOCH_STEPS, 3 * EPOCH_STEPS])
def test_what_is_extrapolated_is_near_what_is_counted(monkeypatch, counted):
    """A memory of samples: full values in the first epoch alone, wherever the counting ends."""
    arguments = ["words-aq-sgd", *WORDS, "--max-steps", str(8 * EPOCH_STEPS)]
    exact = dry(*arguments)
    assert exact["forecast"]["counted_steps"] == 8 * EPOCH_STEPS
    monkeypatch.setattr(data_order, "MOST_COUNTED", counted)
    near = dry(*arguments)
    assert near["forecast"]["counted_steps"] == counted
    for key in ("run_bytes", "run_values", "activation_bits_at_end"):
        assert near["forecast"][key] == pytest.approx(exact["forecast"][key], rel=0.05), key
    assert near["disk"]["state_bytes"] == pytest.approx(exact["disk"]["state_bytes"], rel=0.05)


def test_learned_widths_move_a_bounded_number_of_times(monkeypatch):
    moves = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *rest: (moves.append(0), real(self, *rest))[1]
    )
    monkeypatch.setattr(data_order, "MOST_COUNTED", 50)
    monkeypatch.setattr(wire, "_MOST_MOVES", 40)
    found = [
        dry("words-amaq-paper", *WORDS, "--max-steps", str(steps)) for steps in (2000, 20_000_000)
    ]
    assert 40 < len(moves) < 2 * 26 * 40
    ends = [data["forecast"]["activation_bits_at_end"] for data in found]
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_the_screen_says_what_is_extrapolated(monkeypatch):
    monkeypatch.setattr(data_order, "MOST_COUNTED", 50)
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["train", "words-fixed", *WORDS, "--dry-run", "--max-steps"]
    long, short = (CliRunner().invoke(app, [*arguments, n]).stdout for n in ("3000000", "50"))
    assert "          data counted for 50 steps, extrapolated to 3,000,000\n" in long
    assert "extrapolated" not in short


@pytest.mark.parametrize(
    ("first", "num_steps", "expected"),
    [
        (3, 0, []),
        (3, -2, []),
        (3, 4, [3, 4, 5, 6]),
        (0, 5, [0, 1, 2, 3, 4]),
        (10, 101, [10, 35, 60, 85, 110]),
    ],
)
def test_steps_are_spread_with_both_ends(first, num_steps, expected):
    assert spread(first, num_steps, 5).tolist() == expected


def test_each_step_looked_at_stands_for_its_neighbours(monkeypatch):
    monkeypatch.setattr(data_order, "MOST_COUNTED", 11)
    order: DataOrder = data_order.data_order(
        built_of(num_examples=43, batch_size=2, max_steps=1000)
    )
    assert order.steps_S[:22].tolist() == list(range(22))
    assert order.steps_S[-1] == 999
    assert order.weights_S.tolist() == pytest.approx([1.0] * 21 + [979 / 11] * 11)
    assert order.total(np.ones(32)) == pytest.approx(1000)
    assert order.num_steps == 1000
    assert order.first_visits_S.tolist() == [1.0] * 21 + [0.0] * 11  # an epoch has 21 steps
    assert (order.num_samples, len(order.first_steps)) == (43, 22)
    assert not order.is_old(99, 20)
    assert order.is_old(99, 21)


def built_of(num_examples: int, batch_size: int, max_steps: int):
    """As much of what is built as the order of data needs."""
    train = SimpleNamespace(max_steps=max_steps, batch_size=batch_size, seed=17)
    examples = [Example(i, (1, 2, 3), (-100, 2, 3)) for i in range(num_examples)]
    return SimpleNamespace(
        loaded=SimpleNamespace(profile=SimpleNamespace(train=train)),
        task=SimpleNamespace(train=examples),
        pad_token_id=0,
    )
