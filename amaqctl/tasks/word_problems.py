"""Generated word problems with exact answers: a task that ships with the package, no data file.

Everything drawn comes from ``random.Random.random``, the one method whose values Python
promises to keep, so the problems are the same everywhere. The task's own seed, not the run's,
decides them: runs with different seeds are trained and scored on the same problems.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from pydantic import Field

from amaqctl.tasks.answers import after_marker, normalise
from amaqctl.tasks.encode import Pair, encode_pairs, end_id
from amaqctl.tasks.task import Example, Metric, Split, Task

ANSWER_MARKER = "####"
_NAMES = ("Ada", "Ben", "Eva", "Ian", "Kim", "Leo", "Mia", "Noa", "Sam", "Zoe")
_THINGS = ("apples", "books", "cards", "coins", "eggs", "figs", "keys", "maps", "nuts", "pens")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Problem:
    """A question in words and its answer, a whole number that is never negative."""

    question: str
    answer: int


class _Draw:
    """Uniform draws built on ``Random.random`` alone."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, options: Sequence[_T]) -> _T:
        """One of ``options``."""
        return options[self.integer(0, len(options) - 1)]


class _Kind(Protocol):
    def __call__(self, draw: _Draw, name: str, things: str) -> Problem: ...


def _get(draw: _Draw, name: str, things: str) -> Problem:
    a, b = draw.integer(2, 50), draw.integer(2, 50)
    return Problem(f"{name} has {a} {things} and gets {b} more. How many in all?", a + b)


def _give(draw: _Draw, name: str, things: str) -> Problem:
    a = draw.integer(5, 60)
    b = draw.integer(2, a)
    return Problem(f"{name} has {a} {things} and gives {b} away. How many are left?", a - b)


def _boxes(draw: _Draw, name: str, things: str) -> Problem:
    a, b = draw.integer(2, 12), draw.integer(2, 12)
    return Problem(f"{name} fills {a} boxes with {b} {things} each. How many in all?", a * b)


def _get_and_give(draw: _Draw, name: str, things: str) -> Problem:
    a, b = draw.integer(2, 40), draw.integer(2, 40)
    c = draw.integer(2, a + b)
    question = f"{name} has {a} {things}, gets {b} more and gives {c} away. How many are left?"
    return Problem(question, a + b - c)


def _boxes_and_more(draw: _Draw, name: str, things: str) -> Problem:
    a, b, c = draw.integer(2, 9), draw.integer(2, 9), draw.integer(2, 30)
    question = f"{name} has {a} boxes of {b} {things} and {c} loose {things}. How many in all?"
    return Problem(question, a * b + c)


def _boxes_and_give(draw: _Draw, name: str, things: str) -> Problem:
    a, b = draw.integer(2, 9), draw.integer(2, 9)
    c = draw.integer(2, a * b)
    question = f"{name} has {a} boxes of {b} {things} and gives {c} {things} away. How many left?"
    return Problem(question, a * b - c)


_KINDS: tuple[_Kind, ...] = (
    _get,
    _give,
    _boxes,
    _get_and_give,
    _boxes_and_more,
    _boxes_and_give,
)


def problems(seed: int) -> Iterator[Problem]:
    """Problems without end, no question twice; the same for one seed on every machine."""
    draw = _Draw(seed)
    seen: set[str] = set()
    while True:
        problem = draw.pick(_KINDS)(draw, draw.pick(_NAMES), draw.pick(_THINGS))
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem


class WordProblemsTask(Task):
    """Question, newline, ``#### answer``; scored by exact match of what is generated."""

    class Config(Task.Config):
        """Options of the task ``word-problems``."""

        # The upper bounds keep far away from the several million questions there are.
        num_train: int = Field(default=2000, ge=1, le=100_000, description="train problems")
        num_validation: int = Field(
            default=200, ge=1, le=100_000, description="validation problems, none of them in train"
        )
        seed: int = Field(default=0, ge=0, description="decides the problems; not the run's seed")

    config: Config
    metric: Metric = "exact_match"

    def load(self) -> tuple[Split, Split]:
        """Make the problems and tokenize them; see ``Task``.

        Validation is drawn first, so it stays the same when ``num_train`` changes.
        """
        source = problems(self.config.seed)
        validation = self._encode(list(islice(source, self.config.num_validation)))
        train = self._encode(list(islice(source, self.config.num_train)))
        self.max_new_tokens = max(
            (len(e.input_ids) - e.prompt_length for e in validation.examples), default=0
        )
        return train, validation

    def is_match(self, example: Example, generated_text: str) -> bool:
        """Whether the number behind ``####`` is the answer."""
        found = after_marker(generated_text, ANSWER_MARKER)
        return found is not None and normalise(found) == normalise(example.answer or "")

    def _encode(self, made: list[Problem]) -> Split:
        return encode_pairs(
            (_pair(problem) for problem in made),
            self.tokenizer,
            max_length=self.max_length,
            truncation="drop",
            ending=(end_id(self.tokenizer),),
            place="generated word problems",
        )


def _pair(problem: Problem) -> Pair:
    return Pair(
        prompt=problem.question + "\n",
        completion=f"{ANSWER_MARKER} {problem.answer}",
        place="generated word problems",
        answer=str(problem.answer),
    )
