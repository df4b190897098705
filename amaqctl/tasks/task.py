"""The public contract of a task, and the checks that every task's examples pass before step 1.

A task turns its data into token ids once, at the start. Truncation and masks are therefore the
same in every epoch and every run, which methods that remember a sample's activations rely on.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from amaqctl.errors import InputError, PluginError
from amaqctl.tasks.answers import normalise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
"""Label of a position that carries no loss; the value torch and transformers leave out."""

Metric = Literal["perplexity", "accuracy", "exact_match"]


@dataclass(frozen=True)
class Example:
    """One sample as token ids.

    Attributes:
        sample_id: index, unique inside its split, stable over epochs and runs.
        input_ids: the tokens, prompt first.
        labels: as long as ``input_ids`` and not shifted; ``IGNORE_INDEX`` where no loss.
        answer: reference text or label name for scoring.
        prompt_length: tokens of the prompt; a model generates from ``input_ids[:prompt_length]``.
        choice: index of the right choice (classification).
    """

    sample_id: int
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    answer: str | None = None
    prompt_length: int = 0
    choice: int | None = None

    @property
    def num_loss_tokens(self) -> int:
        """Labels that carry loss. The first never does: nothing comes before it."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])


@dataclass(frozen=True)
class Split:
    """What ``Task.load`` hands over for train or validation.

    Attributes:
        examples: in a stable order.
        place: file, or other source, that messages name.
        num_dropped: rows left out, by reason ("longer than 128 tokens").
        warnings: what else the user should know of the data, a sentence without full stop each.
    """

    examples: Sequence[Example]
    place: str
    num_dropped: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class Task(ABC):
    """Data, prompt and score. A subclass sets ``metric`` and ``Config`` and writes ``load``.

    Args:
        config: an instance of this class's ``Config``.
        tokenizer: the model's own.
        max_length: the most tokens an example may have.
        seed: the run's seed. The built-in tasks do not draw from it, so that runs that differ
            in nothing but the seed see the same examples and can be compared.

    Attributes:
        train, validation: checked examples: not empty, short enough, with loss somewhere.
        num_dropped: rows left out, by "split: reason".
        warnings: what the user should know of the data, each once: those of both splits, and
            that validation examples are trained on.
        metric: how ``validation`` is scored; an instance may choose by its options.
        choice_token_ids: first token of each label's text (classification), otherwise empty.
        max_new_tokens: tokens to generate for a score; 0 for a task that generates nothing.

    Raises:
        InputError: the data cannot be used; says where and what to do.
        PluginError: the task made examples that break the contract.
    """

    class Config(BaseModel):
        """Options of a task. Subclasses describe every field."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric
    choice_token_ids: tuple[int, ...] = ()
    max_new_tokens: int = 0

    def __init__(
        self, config: Config, tokenizer: PreTrainedTokenizerBase, *, max_length: int, seed: int
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.seed = seed
        splits = dict(zip(("train", "validation"), self._loaded(), strict=True))
        for name, split in splits.items():
            _check(name, split, max_length, type(self).__name__)
        self.train: Sequence[Example] = splits["train"].examples
        self.validation: Sequence[Example] = splits["validation"].examples
        self.num_dropped = {
            f"{name}: {reason}": count
            for name, split in splits.items()
            for reason, count in split.num_dropped.items()
        }
        said = [*splits["train"].warnings, *splits["validation"].warnings]
        self.warnings = tuple(dict.fromkeys([*said, *_overlap(self.train, self.validation)]))

    def _loaded(self) -> tuple[Split, Split]:
        loaded = self.load()
        is_pair = isinstance(loaded, tuple) and len(loaded) == 2
        if not (is_pair and all(isinstance(split, Split) for split in loaded)):
            raise PluginError(
                f"{type(self).__name__}.load returned something else than two Splits",
                hint="report it to the author of the task",
                error_id="PLUGIN-TASK",
            )
        return loaded

    @abstractmethod
    def load(self) -> tuple[Split, Split]:
        """Read and tokenize: the train split and the validation split."""

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of generated tokens: up to the end-of-sequence token, no special tokens.

        A reference answer is compared in the same form when it is made from its own tokens by
        this method; text that holds ``</s>`` would never equal what a model generates.
        """
        ids = list(token_ids)
        end = self.tokenizer.eos_token_id
        if end is not None and end in ids:
            ids = ids[: ids.index(end)]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def is_match(self, example: Example, generated_text: str) -> bool:
        """Whether generated text, as ``text_of`` makes it, equals the answer; numbers by value."""
        assert example.answer is not None, f"example {example.sample_id} has no answer to match"
        return normalise(generated_text) == normalise(example.answer)

    def used_tokens(self) -> Iterator[int]:
        """The token of every place of the examples and of every choice."""
        yield from self.choice_token_ids
        for example in (*self.train, *self.validation):
            yield from example.input_ids
            yield from (label for label in example.labels if label != IGNORE_INDEX)

    def fingerprint(self) -> str:
        """SHA-256, in hex, over the examples of both splits: which data a run has seen."""
        digest = hashlib.sha256()
        for name, examples in (("train", self.train), ("validation", self.validation)):
            digest.update(f"{name} {len(examples)}\n".encode())
            for e in examples:
                values = (e.sample_id, e.input_ids, e.labels, e.answer, e.prompt_length, e.choice)
                digest.update(json.dumps(values).encode() + b"\n")
        return digest.hexdigest()


def _overlap(train: Sequence[Example], validation: Sequence[Example]) -> list[str]:
    """The warning that validation examples stand in train too; nothing where none does."""
    trained_on = {(example.input_ids, example.labels) for example in train}
    num_seen = sum((example.input_ids, example.labels) in trained_on for example in validation)
    if not num_seen:
        return []
    return [
        f"{num_seen:,} of {len(validation):,} validation examples are in train too; "
        "their score says little about new data"
    ]


def _check(name: str, split: Split, max_length: int, task: str) -> None:
    if not split.examples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in split.num_dropped.items())
        raise InputError(
            f"no usable {name} example ({reasons or 'no rows'})",
            where=split.place,
            hint="raise train.max_length, or give more or shorter rows",
            error_id="INPUT-NO-EXAMPLE",
        )
    _check_form(name, split, max_length, task)
    if not any(example.num_loss_tokens for example in split.examples):
        raise InputError(
            f"none of the {len(split.examples)} {name} examples has a token that carries loss",
            where=split.place,
            hint="check that the completion is not empty",
            error_id="INPUT-NO-LOSS",
        )


def _check_form(name: str, split: Split, max_length: int, task: str) -> None:
    for index, example in enumerate(split.examples):
        fault = _fault(example, max_length)
        if fault:
            raise PluginError(
                f"{name} example {index} of {task} {fault}",
                where=split.place,
                hint="report it to the author of the task",
                error_id="PLUGIN-TASK",
            )
    if len({example.sample_id for example in split.examples}) != len(split.examples):
        raise PluginError(
            f"the {name} examples of {task} repeat a sample_id",
            where=split.place,
            hint="report it to the author of the task",
            error_id="PLUGIN-TASK",
        )


def _fault(example: Example, max_length: int) -> str | None:
    if not isinstance(example, Example):
        return "is no Example"
    numbers = (example.sample_id, example.prompt_length, *example.input_ids, *example.labels)
    if not all(type(number) is int for number in numbers):
        return "holds something else than whole numbers"
    if min((example.sample_id, *example.input_ids)) < 0:
        return "has a negative token or sample_id"
    if len(example.labels) != len(example.input_ids):
        return f"has {len(example.labels)} labels for {len(example.input_ids)} tokens"
    if len(example.input_ids) > max_length:
        return f"has {len(example.input_ids)} tokens, more than {max_length}"
    return None
