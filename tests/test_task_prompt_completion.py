from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from test_task_encode import EOS, NONE, PLAIN

from amaqctl.errors import InputError
from amaqctl.tasks.encode import token_ids
from amaqctl.tasks.prompt_completion import PromptCompletionTask
from amaqctl.tasks.task import Example

GENERATE = {"max_new_tokens": 5, "answer_after": "####"}


def write_rows(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make(path: Path, *rows: dict[str, Any], max_length: int = 64, **options: Any) -> Any:
    train = write_rows(path / "t.jsonl", *rows)
    validation = write_rows(path / "v.jsonl", rows[0])
    config = PromptCompletionTask.Config(**({"train": train, "validation": validation} | options))
    return PromptCompletionTask(config, PLAIN, max_length=max_length, seed=1)


def fault(path: Path, *rows: dict[str, Any], **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        make(path, *rows, **options)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


def pair(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def test_one_row_by_hand(tmp_path: Path) -> None:
    task = make(tmp_path, pair("Hi {x}", "ok"))
    assert task.train == [
        Example(
            sample_id=0,
            input_ids=(72, 105, 32, 123, 120, 125, 10, 111, 107, EOS),
            labels=(NONE,) * 7 + (111, 107, EOS),
            prompt_length=7,
        )
    ]
    assert task.validation == task.train
    assert (task.metric, task.max_new_tokens, task.choice_token_ids) == ("perplexity", 0, ())
    assert task.num_dropped == {}


def test_template_and_columns(tmp_path: Path) -> None:
    task = make(
        tmp_path, {"q": "1", "a": "2"}, prompt="q", completion="a", template="{q}:{prompt}="
    )
    assert bytes(task.train[0].input_ids[:-1]) == b"{q}:1=2"
    assert task.train[0].prompt_length == 6


def test_long_rows_are_counted(tmp_path: Path) -> None:
    task = make(tmp_path, pair("a", "b"), pair("a" * 9, "b"), max_length=8)
    assert len(task.train) == 1
    assert task.num_dropped == {"train: longer than 8 tokens": 1}


def test_long_rows_can_be_cut_on_the_left(tmp_path: Path) -> None:
    task = make(tmp_path, pair("abcdefghi", "z"), max_length=5, truncation="left")
    assert task.train[0].input_ids == (104, 105, 10, 122, EOS)
    assert task.num_dropped == {}


def test_every_row_too_long(tmp_path: Path) -> None:
    error = fault(tmp_path, pair("abcdefghi", "z"), pair("abcdefghij", "z"), max_length=5)
    assert str(error) == (f"{tmp_path}/t.jsonl: no usable train example (2 longer than 5 tokens)")
    assert error.hint == "raise train.max_length, or give more or shorter rows"
    assert error.error_id == "INPUT-NO-EXAMPLE"


def test_every_validation_row_too_long(tmp_path: Path) -> None:
    long = write_rows(tmp_path / "long.jsonl", pair("a" * 20, "b"))
    error = fault(tmp_path, pair("a", "b"), max_length=8, validation=long)
    assert str(error) == f"{long}: no usable validation example (1 longer than 8 tokens)"


@pytest.mark.parametrize(
    "row, message, error_id",
    [
        ({"prompt": "a"}, "no column 'completion'; columns here: prompt", "INPUT-COLUMN"),
        ({"prompt": "a", "completion": 3}, "column 'completion' holds a number, not a string",
         "INPUT-VALUE"),
        ({"prompt": "", "completion": "b"}, "column 'prompt' is blank", "INPUT-EMPTY"),
        ({"prompt": "a", "completion": " "}, "column 'completion' is blank", "INPUT-EMPTY"),
    ],
)  # fmt: skip
def test_bad_rows(tmp_path: Path, row: dict[str, Any], message: str, error_id: str) -> None:
    error = fault(tmp_path, pair("a", "b"), row)
    assert str(error) == f"{tmp_path}/t.jsonl:2: {message}"
    assert error.error_id == error_id


def test_generated_answers(tmp_path: Path) -> None:
    task = make(tmp_path, pair("a", "2 * 600 = 1200\n#### 1,200"), generate=GENERATE)
    assert (task.metric, task.max_new_tokens) == ("exact_match", 5)
    example = task.validation[0]
    assert example.answer == "1,200"
    assert task.is_match(example, "so\n#### $1200.00\nNext question")
    assert not task.is_match(example, "so\n#### 120")
    assert not task.is_match(example, "1200")
    assert not task.is_match(example, "")


def test_generated_text_without_a_marker(tmp_path: Path) -> None:
    task = make(tmp_path, pair("a", "the  answer"), generate={"max_new_tokens": 3})
    assert task.is_match(task.validation[0], " the answer.\n")
    assert not task.is_match(task.validation[0], "The answer")


@pytest.mark.parametrize("completion", ["7", "####", "#### \n"])
def test_a_completion_without_an_answer(tmp_path: Path, completion: str) -> None:
    error = fault(tmp_path, pair("a", "#### 1"), pair("a", completion), generate=GENERATE)
    assert str(error) == (f"{tmp_path}/t.jsonl:2: column 'completion' has no answer after '####'")
    assert error.hint == "correct the row or task.options.generate.answer_after"
    assert error.error_id == "INPUT-ANSWER"


@pytest.mark.parametrize(
    "options",
    [
        {"template": "no place"},
        {"template": "{prompt}{prompt}"},
        {"validation": 1.0},
        {"validation": 0},
        {"train_limit": 0},
        {"truncation": "right"},
        {"generate": {"max_new_tokens": 0}},
        {"generate": {"max_new_tokens": 1, "answer_after": ""}},
        {"promt": "q"},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PromptCompletionTask.Config(**({"train": "t.jsonl"} | options))


def test_fingerprint_follows_the_data(tmp_path: Path) -> None:
    first = make(tmp_path, pair("a", "b"), pair("c", "d")).fingerprint()
    assert first == make(tmp_path, pair("a", "b"), pair("c", "d")).fingerprint()
    others = [
        make(tmp_path, pair("a", "b"), pair("c", "e")),
        make(tmp_path, pair("c", "d"), pair("a", "b")),
        make(tmp_path, pair("a", "b"), pair("c", "d"), template="{prompt} "),
        make(tmp_path, pair("a", "b"), pair("c", "d"), train_limit=1),
        make(tmp_path, pair("a", "b"), pair("c", "d"), generate={"max_new_tokens": 1}),
        make(tmp_path, pair("a", "b"), pair("c", "d"),
             validation=write_rows(tmp_path / "w.jsonl", pair("c", "d"))),
    ]  # fmt: skip
    assert len({first, *(task.fingerprint() for task in others)}) == 1 + len(others)
    assert len(first) == 64


@pytest.mark.parametrize(
    "completion, generated, right",
    [
        ("ok<eos>", "ok<eos><pad><pad>", True),
        ("ok", "ok<eos>", True),
        ("ok<eos>\n", "ok<eos>", True),
        ("ok<eos><eos>", "ok<eos>more", True),
        ("<bos>ok", "<bos>ok<eos>", True),
        ("o<pad>k", "ok<eos>", True),
        ("ok<eos>more", "ok<eos>", True),
        ("ok<eos>", "ko<eos>", False),
        ("ok", "okmore<eos>", False),
    ],
)
def test_answer_and_generated_text_are_compared_in_one_form(
    tmp_path: Path, completion: str, generated: str, right: bool
) -> None:
    task = make(tmp_path, pair("q", completion), generate={"max_new_tokens": 5})
    text = task.text_of(token_ids(PLAIN, generated))
    assert task.is_match(task.validation[0], text) is right


@pytest.mark.parametrize(
    "marker, completion, generated, right",
    [
        ("####", "so #### 4<eos>", "well #### 4<eos><pad>", True),
        ("####", "so #### <bos>4", "#### 4<eos>", True),
        ("<pad>", "so <pad> 4<eos>", "well <pad> 4<eos>", True),
        ("<pad>", "so <pad> 4<eos>", "well 4<eos>", False),
        ("<pad>", "so <pad> 4<eos>", "<pad>5<eos>", False),
    ],
)
def test_a_marker_may_be_a_special_token(
    tmp_path: Path, marker: str, completion: str, generated: str, right: bool
) -> None:
    generate = {"max_new_tokens": 5, "answer_after": marker}
    task = make(tmp_path, pair("q", completion), generate=generate)
    assert task.validation[0].answer == "4"
    assert task.is_match(task.validation[0], task.text_of(token_ids(PLAIN, generated))) is right


def test_a_marker_that_ends_generation_is_refused(tmp_path: Path) -> None:
    generate = {"max_new_tokens": 5, "answer_after": "x<eos>"}
    error = fault(tmp_path, pair("q", "x<eos>4"), generate=generate)
    assert str(error).startswith("task.options.generate.answer_after: the marker 'x<eos>' holds")


def test_a_row_without_its_completion_gets_no_other_column_as_a_hint(tmp_path: Path) -> None:
    error = fault(tmp_path, {"prompt": "a"})
    assert error.hint == "add it to the row, or name another column in task.options"
