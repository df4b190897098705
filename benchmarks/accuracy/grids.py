"""What is compared: tasks, methods, widths, seeds. A cell is one training run.

Training sets are small enough for every sample to come round three times: AQ-SGD sends the first
visit in full, and its savings begin with the second.

Every cell of a task has the same model, data, steps, data order and gradient quantizer; only the
activation quantizer differs. Settings were chosen on validation data.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

GRADIENT = {"name": "group", "options": {"bits": 6, "group_size": 64}}


@dataclass(frozen=True)
class TaskCase:
    """One task: how its data become a profile's `task`, and how long it trains."""

    name: str
    options: dict[str, object]
    train: dict[str, object]
    eval_examples: int
    task: str

    def profile_task(self, data: Path) -> dict[str, object]:
        """The profile's `task` section, with paths below ``data``."""
        options = {
            key: str(data / str(value)) if key in ("train", "validation") else value
            for key, value in self.options.items()
        }
        return {"name": self.task, "options": options}


GSM8K = TaskCase(
    "gsm8k",
    {
        "train": "gsm8k/train.jsonl",
        "validation": "gsm8k/test.jsonl",
        "prompt": "question",
        "completion": "answer",
        "train_limit": 80,
        "truncation": "left",
    },
    {"max_steps": 60, "batch_size": 4, "max_length": 128},
    64,
    "prompt-completion",
)

TREC = TaskCase(
    "trec",
    {
        "train": "trec/train.jsonl",
        "validation": "trec/test.jsonl",
        "text": "text",
        "label": "label",
        "train_limit": 160,
        "verbalizers": {
            "ABBR": "abbreviation",
            "DESC": "description",
            "ENTY": "entity",
            "HUM": "person",
            "LOC": "location",
            "NUM": "number",
        },
    },
    {"max_steps": 60, "batch_size": 8, "max_length": 64},
    250,
    "classification",
)


@dataclass(frozen=True)
class Method:
    """A quantizer and how a width becomes its options."""

    name: str
    quantizer: str
    options: dict[str, object] = field(default_factory=dict)
    width_option: str | None = "bits"
    gradient: dict[str, object] = field(default_factory=lambda: dict(GRADIENT))

    def quantizers(self, bits: int) -> dict[str, object]:
        """The profile's `quantizers` section."""
        options = dict(self.options)
        if self.width_option:
            options[self.width_option] = bits
        activation = {"name": self.quantizer, "options": options}
        return {"activation": activation, "gradient": self.gradient}


NONE = Method("none", "none", {}, None, {"name": "none", "options": {}})
METHODS = (
    Method("fixed-token", "fixed", {"scale": "token"}),
    Method("fixed-channel", "fixed", {"scale": "channel"}),
    Method("group-64", "group", {"group_size": 64}),
    Method("aq-sgd", "aq-sgd"),
    Method("amaq", "amaq", {}, "target_bits"),
)


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    task: TaskCase
    method: Method
    bits: int
    cuts: tuple[int, ...]
    seed: int

    @property
    def key(self) -> str:
        """Folder name of the cell."""
        cuts = "-".join(map(str, self.cuts))
        width = f"{self.bits}bit" if self.method.width_option else "full"
        return f"{self.task.name}_cut{cuts}_{self.method.name}_{width}_seed{self.seed}"

    def overrides(self, data: Path) -> list[str]:
        """`--set` items on top of the quickstart profile."""
        values: dict[str, object] = {
            "task": self.task.profile_task(data),
            "split.cuts": list(self.cuts),
            "quantizers": self.method.quantizers(self.bits),
            "train.seed": self.seed,
            "optimizer.lr": 5e-4,
            "eval.max_examples": self.task.eval_examples,
            "eval.every": 10_000,
            "checkpoint.every": 10_000,
            **{f"train.{key}": value for key, value in self.task.train.items()},
        }
        return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _cells(
    tasks: tuple[TaskCase, ...], widths: tuple[int, ...], seeds: tuple[int, ...]
) -> Iterator[Cell]:
    for task, seed in itertools.product(tasks, seeds):
        yield Cell(task, NONE, 16, (5,), seed)
        for bits, method in itertools.product(widths, METHODS):
            yield Cell(task, method, bits, (5,), seed)


GRIDS = {
    "three-bits": list(_cells((GSM8K, TREC), (3,), (17,))),
    "small": list(_cells((GSM8K, TREC), (4, 3, 2), (17, 18, 19))),
}
