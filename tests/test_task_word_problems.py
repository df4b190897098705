"""Answers are worked out again from the words alone, by rules written apart from the maker's."""

from __future__ import annotations

import re
from itertools import islice

import pytest
from test_task_encode import EOS, PLAIN

from amaqctl.errors import InputError
from amaqctl.tasks.word_problems import Problem, WordProblemsTask, problems


def solve(question: str) -> int:
    """The answer, from the numbers and the verbs of the question."""
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    total = numbers[0]
    if "boxes" in question:
        total *= numbers[1]
        rest = numbers[2:]
    else:
        rest = numbers[1:]
    signs = [{"gets": 1, "loose": 1, "gives": -1}[verb]
             for verb in re.findall(r"gets|gives|loose", question)]  # fmt: skip
    assert len(signs) == len(rest)
    return total + sum(sign * number for sign, number in zip(signs, rest, strict=True))


def make(max_length: int = 128, seed: int = 1, **options: int) -> WordProblemsTask:
    config = WordProblemsTask.Config(**options)
    return WordProblemsTask(config, PLAIN, max_length=max_length, seed=seed)


def test_every_answer_is_right_and_every_question_new() -> None:
    made = list(islice(problems(0), 5000))
    assert [p for p in made if solve(p.question) != p.answer] == []
    assert min(p.answer for p in made) == 0
    assert len({p.question for p in made}) == 5000


def test_questions_are_short() -> None:
    """A byte-level tokenizer must still fit them, with the answer, in 128 tokens."""
    longest = max(len(p.question) for p in islice(problems(3), 5000))
    assert longest <= 96


def test_the_problems_never_change() -> None:
    assert list(islice(problems(0), 4)) == EXPECTED_0
    assert list(islice(problems(12345), 2)) == EXPECTED_12345


EXPECTED_0 = [
    Problem("Noa has 4 boxes of 6 eggs and gives 11 eggs away. How many left?", 13),
    Problem("Ian has 6 boxes of 9 eggs and 16 loose eggs. How many in all?", 70),
    Problem("Noa has 19 keys and gives 18 away. How many are left?", 1),
    Problem("Sam has 4 boxes of 7 pens and gives 26 pens away. How many left?", 2),
]
EXPECTED_12345 = [
    Problem("Ada fills 5 boxes with 6 nuts each. How many in all?", 30),
    Problem("Leo has 11 books and gives 6 away. How many are left?", 5),
]


def test_one_example_by_hand() -> None:
    task = make(num_train=5, num_validation=3)
    first = EXPECTED_0[0]
    example = task.validation[0]
    text = f"{first.question}\n#### {first.answer}"
    assert example.input_ids == (*text.encode(), EOS)
    assert example.prompt_length == len(first.question) + 1
    assert example.answer == str(first.answer)
    assert all(label == -100 for label in example.labels[: example.prompt_length])
    assert example.labels[example.prompt_length :] == example.input_ids[example.prompt_length :]
    assert (len(task.train), len(task.validation), task.num_dropped) == (5, 3, {})
    assert task.metric == "exact_match"
    assert task.max_new_tokens == max(len(f"#### {p.answer}") + 1 for p in islice(problems(0), 3))


def test_scoring() -> None:
    task = make(num_train=1, num_validation=1)
    example = task.validation[0]
    assert task.is_match(example, f"#### {example.answer}")
    assert task.is_match(example, f"#### {example.answer}.0\nAda has")
    assert not task.is_match(example, f"#### {example.answer}1")
    assert not task.is_match(example, str(example.answer))


def test_splits_are_disjoint_and_follow_the_tasks_own_seed() -> None:
    task = make()
    assert (len(task.train), len(task.validation)) == (2000, 200)
    questions = [e.input_ids[: e.prompt_length] for e in (*task.train, *task.validation)]
    assert len(set(questions)) == 2200
    assert make(seed=2).fingerprint() == task.fingerprint()
    assert make(num_train=50).validation == task.validation
    assert WordProblemsTask.Config(seed=1).seed == 1
    config = WordProblemsTask.Config(seed=1)
    other = WordProblemsTask(config, PLAIN, max_length=128, seed=1)
    assert other.fingerprint() != task.fingerprint()


def test_no_room() -> None:
    with pytest.raises(InputError) as caught:
        make(max_length=16, num_train=2, num_validation=2)
    assert str(caught.value) == (
        "generated word problems: no usable train example (2 longer than 16 tokens)"
    )
