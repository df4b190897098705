"""The tasks of the grids: their data, what stands in a profile, and how long they train.

Every set has three parts. Settings are chosen on *validation*, a fixed part of the source's train
file; tables report *test*, the source's own. Training sets are small enough for every sample
to come round at least three times: AQ-SGD sends the first visit in full, and saves only then.
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Part = Literal["validation", "test"]

NUM_VALIDATION_ROWS = 256
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class TaskCase:
    """One task.

    Args:
        name: of the task in tables.
        task: registered task.
        options: of the task, data files left out.
        train: keys of the profile's `train` section.
        lr: peak learning rate, chosen for the row without quantization and used for all.
        score: metric that tables show first.
        num_test: examples that are scored.
        source: (folder, train file, test file) below the data folder; None for generated data.
    """

    name: str
    task: str
    options: dict[str, Any]
    train: dict[str, int]
    lr: float
    score: Literal["perplexity", "accuracy", "exact_match"]
    num_test: int
    source: tuple[str, str, str] | None = None
    part_options: dict[Part, dict[str, Any]] = field(default_factory=dict)

    def profile_task(self, prepared: Path) -> dict[str, Any]:
        """The profile's `task` section for training, with files below ``prepared``."""
        options = dict(self.options)
        if self.source:
            options["train"] = str(self._file(prepared, "train"))
        return {"name": self.task, "options": {**options, **self.scored_on("validation", prepared)}}

    def scored_on(self, part: Part, prepared: Path) -> dict[str, Any]:
        """Options of the task that make ``part`` the validation set."""
        if self.source:
            return {"validation": str(self._file(prepared, part))}
        return self.part_options[part]

    def prepare(self, data: Path, prepared: Path) -> None:
        """Write the parts of the set below ``prepared``, whatever is there."""
        if not self.source:
            return
        folder, train_name, test_name = self.source
        whole = (data / folder / train_name).read_text(encoding="utf-8")
        cut = _cut_text if train_name.endswith(".txt") else _cut_rows
        train, validation = cut(whole)
        test = (data / folder / test_name).read_text(encoding="utf-8")
        prepared.mkdir(parents=True, exist_ok=True)
        for part, text in (("train", train), ("validation", validation), ("test", test)):
            path = self._file(prepared, part)
            partial = path.with_suffix(".partial")
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)

    def _file(self, prepared: Path, part: str) -> Path:
        assert self.source
        return prepared / f"{self.name}.{part}{Path(self.source[1]).suffix}"


def larger(task: TaskCase, num_test: int | None = None) -> TaskCase:
    """The same task for a GPU: eight times the batch, three times the steps, and data for them.

    Args:
        num_test: examples that are scored, instead of those of ``task``.
    """
    options = dict(task.options)
    for key in ("train_limit", "num_train"):
        if key in options:
            options[key] *= 24
    train = {
        **task.train,
        "max_steps": 3 * task.train["max_steps"],
        "batch_size": 8 * task.train["batch_size"],
    }
    return replace(
        task,
        name=f"{task.name}-large",
        options=options,
        train=train,
        num_test=num_test or task.num_test,
    )


def _cut_rows(whole: str) -> tuple[str, str]:
    # Not splitlines: a text in a row may hold other signs for the end of a line.
    rows = [row for row in whole.split("\n") if row.strip()]
    random.Random(0).shuffle(rows)
    validation, train = rows[:NUM_VALIDATION_ROWS], rows[NUM_VALIDATION_ROWS:]
    return "\n".join(train) + "\n", "\n".join(validation) + "\n"


def _cut_text(whole: str) -> tuple[str, str]:
    """Cut before the first article that begins in the last tenth."""
    heading = re.compile(r"\n = [^=]")  # of an article; its sections have more signs
    found = heading.search(whole, int(len(whole) * (1 - VALIDATION_SHARE)))
    assert found, "no article begins in the last tenth"
    return whole[: found.start()], whole[found.start() :]


WIKITEXT = TaskCase(
    "wikitext2",
    "text",
    {"train_limit": 64},
    {"max_steps": 48, "batch_size": 4, "max_length": 128},
    lr=5e-4,
    score="perplexity",
    num_test=96,
    source=("wikitext2", "train.txt", "test.txt"),
)

WORDS = TaskCase(
    "words",
    "word-problems",
    {"num_train": 200},
    {"max_steps": 100, "batch_size": 8, "max_length": 64},
    lr=1e-3,
    score="exact_match",
    num_test=400,
    # Problems of another seed; none of those trained on is among them (a test says so).
    part_options={
        "validation": {"num_validation": 256},
        "test": {"num_validation": 400, "seed": 1},
    },
)

GSM8K = TaskCase(
    "gsm8k",
    "prompt-completion",
    {"prompt": "question", "completion": "answer", "truncation": "left", "train_limit": 64},
    {"max_steps": 48, "batch_size": 4, "max_length": 128},
    lr=5e-4,
    score="perplexity",
    num_test=96,
    source=("gsm8k", "train.jsonl", "test.jsonl"),
)

TREC = TaskCase(
    "trec",
    "classification",
    {
        "train_limit": 200,
        "template": "Question: {text}\nType:",
        "verbalizers": {
            "ABBR": "abbreviation",
            "DESC": "description",
            "ENTY": "entity",
            "HUM": "person",
            "LOC": "location",
            "NUM": "number",
        },
    },
    {"max_steps": 80, "batch_size": 8, "max_length": 64},
    lr=1e-3,
    score="accuracy",
    num_test=250,
    source=("trec", "train.jsonl", "test.jsonl"),
)

SST2 = TaskCase(
    "sst2",
    "classification",
    {"train_limit": 120},
    {"max_steps": 48, "batch_size": 8, "max_length": 64},
    lr=1e-3,
    score="accuracy",
    num_test=250,
    source=("sst2", "train.jsonl", "test.jsonl"),
)
