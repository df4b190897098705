"""What every task must keep, a stranger's included."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_task_encode import PLAIN

from amaqctl import registry
from amaqctl.errors import AmaqError, InputError, PluginError
from amaqctl.tasks.task import Example, Metric, Split, Task

BUILT_IN = ("classification", "prompt-completion", "python-docs", "text", "word-problems")
GOOD = Example(0, (1, 2), (-100, 2))


class Given(Task):
    """Hands over what the test set."""

    metric: Metric = "perplexity"
    splits = (Split([GOOD], "here"), Split([GOOD], "there"))

    def load(self) -> tuple[Split, Split]:
        return self.splits


def make(train: Split, validation: Split | None = None) -> Given:
    kind = type("Given", (Given,), {"splits": (train, validation or Split([GOOD], "there"))})
    task = kind(Task.Config(), PLAIN, max_length=3, seed=5)
    assert isinstance(task, Given)
    return task


def fault(train: Split, validation: Split | None = None) -> AmaqError:
    with pytest.raises(AmaqError) as caught:
        make(train, validation)
    assert caught.value.hint
    return caught.value


def test_attributes() -> None:
    task = make(Split([GOOD], "here", {"odd": 2}), Split([GOOD], "there", {"odd": 1}))
    assert (task.train, task.validation) == ([GOOD], [GOOD])
    assert task.num_dropped == {"train: odd": 2, "validation: odd": 1}
    assert (task.max_length, task.seed, task.tokenizer) == (3, 5, PLAIN)


def test_no_rows() -> None:
    error = fault(Split([], "here"))
    assert isinstance(error, InputError)
    assert str(error) == "here: no usable train example (no rows)"


@pytest.mark.parametrize("labels", [(-100, -100), (1, -100)])
def test_no_loss_anywhere(labels: tuple[int, int]) -> None:
    error = fault(Split([GOOD], "here"), Split([Example(0, (1, 2), labels)], "there"))
    assert isinstance(error, InputError)
    assert str(error) == ("there: none of the 1 validation examples has a token that carries loss")
    assert error.error_id == "INPUT-NO-LOSS"


@pytest.mark.parametrize(
    "example, message",
    [
        (Example(1, (1, 2), (2,)), "train example 1 of Given has 1 labels for 2 tokens"),
        (Example(1, (1, 2, 3, 4), (1, 2, 3, 4)),
         "train example 1 of Given has 4 tokens, more than 3"),
        (GOOD, "the train examples of Given repeat a sample_id"),
    ],
)  # fmt: skip
def test_a_task_that_breaks_the_contract(example: Example, message: str) -> None:
    error = fault(Split([GOOD, example], "here"))
    assert isinstance(error, PluginError)
    assert str(error) == f"here: {message}"
    assert error.error_id == "PLUGIN-TASK"


def test_fingerprint_tells_the_splits_apart() -> None:
    other = Example(0, (1, 3), (-100, 3))
    first = make(Split([GOOD], "a"), Split([other], "b")).fingerprint()
    assert make(Split([other], "a"), Split([GOOD], "b")).fingerprint() != first
    assert make(Split([GOOD], "elsewhere"), Split([other], "b")).fingerprint() == first


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tasks_come_through_the_registry(name: str) -> None:
    kind = registry.load(registry.TASKS, name)
    assert issubclass(kind, Task)
    assert kind.Config.model_config["frozen"]
    assert kind.Config.model_config["extra"] == "forbid"
    assert kind.metric in ("perplexity", "accuracy", "exact_match")
    undescribed = [k for k, field in kind.Config.model_fields.items() if not field.description]
    assert undescribed == []


def test_tasks_are_light_to_import() -> None:
    code = (
        "import sys; from amaqctl import registry\n"
        "for offer in registry.offers(registry.TASKS):\n"
        "    if offer.built_in: registry.load(registry.TASKS, offer.name)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_warnings_of_both_splits_are_given_once() -> None:
    other = Example(0, (1, 1), (-100, 1))
    task = make(
        Split([GOOD], "here", warnings=("odd", "strange")),
        Split([other], "there", warnings=("odd",)),
    )
    assert task.warnings == ("odd", "strange")


def test_validation_examples_that_are_trained_on_are_counted() -> None:
    assert make(Split([GOOD], "here")).warnings == (
        "1 of 1 validation examples are in train too; their score says little about new data",
    )
