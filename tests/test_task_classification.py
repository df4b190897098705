from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from test_task_encode import NONE, PLAIN

from amaqctl.errors import InputError
from amaqctl.tasks.classification import ClassificationTask
from amaqctl.tasks.task import Example

# The byte tokenizer would give every label the space as its first token.
APART = {"separator": ""}
ROWS = ({"text": "fine", "label": "pos"}, {"text": "dull", "label": "neg"})


def make(folder: Path, *rows: dict[str, Any], **options: Any) -> ClassificationTask:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {"train": str(path), "validation": str(path)} | APART | options
    config = ClassificationTask.Config(**given)
    return ClassificationTask(config, PLAIN, max_length=64, seed=1)


def fault(folder: Path, *rows: dict[str, Any], **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        make(folder, *rows, **options)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


def test_one_row_by_hand(tmp_path: Path) -> None:
    task = make(tmp_path, *ROWS, template="{text}?")
    assert task.train[0] == Example(
        sample_id=0,
        input_ids=(102, 105, 110, 101, 63, 112, 111, 115),
        labels=(NONE,) * 5 + (112, 111, 115),
        answer="pos",
        prompt_length=5,
        choice=1,
    )
    assert task.train[1].choice == 0
    assert task.labels == ("neg", "pos")
    assert task.choice_token_ids == (ord("n"), ord("p"))
    assert task.metric == "accuracy"


def test_the_choice_token_is_the_one_after_the_prompt(tmp_path: Path) -> None:
    task = make(tmp_path, *ROWS, verbalizers={"pos": "good"}, labels=["pos", "neg"])
    assert task.choice_token_ids == (ord("g"), ord("n"))
    for example in task.train:
        assert example.choice is not None
        assert example.input_ids[example.prompt_length] == task.choice_token_ids[example.choice]
    assert bytes(task.train[0].input_ids) == b"fine\nAnswer:good"


def test_several_columns_and_labels_that_are_no_strings(tmp_path: Path) -> None:
    rows = ({"a": "x", "b": "y", "label": True}, {"a": "u", "b": "v", "label": False})
    task = make(tmp_path, *rows, text=["a", "b"])
    assert bytes(task.train[0].input_ids) == b"x\ny\nAnswer:true"
    assert [e.answer for e in task.train] == ["true", "false"]
    rows = ({"text": "x", "label": 1}, {"text": "u", "label": 0})
    assert make(tmp_path, *rows).labels == ("0", "1")


def test_default_separator_is_a_space() -> None:
    config = ClassificationTask.Config(train="t.csv")
    assert (config.separator, config.template) == (" ", "{text}\nAnswer:")


def test_colliding_labels_are_refused_by_name(tmp_path: Path) -> None:
    rows = ({"text": "x", "label": "sports"}, {"text": "y", "label": "science"})
    error = fault(tmp_path, *rows)
    assert str(error) == (
        "task.options.labels: labels 'science' and 'sports' begin with the same token 's' and "
        "could not be told apart"
    )
    assert error.hint == "set task.options.verbalizers to texts with different first tokens"
    spaced = fault(tmp_path, *ROWS, separator=" ")
    assert spaced.hint == f"{error.hint}; if all labels begin alike, set separator to ''"
    assert error.error_id == "INPUT-LABEL"
    assert make(tmp_path, *rows, verbalizers={"science": "lab"}).choice_token_ids == (
        ord("l"),
        ord("s"),
    )


def test_unknown_label(tmp_path: Path) -> None:
    error = fault(tmp_path, *ROWS, {"text": "x", "label": "odd"}, labels=["pos", "neg"])
    assert str(error) == f"{tmp_path}/t.jsonl:3: label 'odd' is not one of 'pos', 'neg'"
    assert error.hint == "add it to task.options.labels or correct the row"


def test_one_label_only(tmp_path: Path) -> None:
    error = fault(tmp_path, ROWS[0], ROWS[0])
    assert str(error) == f"{tmp_path}/t.jsonl: every train row has the label 'pos'"


def test_verbalizer_for_no_label(tmp_path: Path) -> None:
    error = fault(tmp_path, *ROWS, verbalizers={"good": "x"})
    assert str(error) == (
        "task.options.verbalizers: verbalizers names 'good', but train has the labels 'neg', 'pos'"
    )


def test_empty_verbalizer(tmp_path: Path) -> None:
    error = fault(tmp_path, *ROWS, verbalizers={"pos": ""})
    assert str(error) == "task.options.verbalizers: the text of label 'pos' tokenizes to nothing"


@pytest.mark.parametrize(
    "row, message",
    [
        ({"text": "x", "label": 1.5}, "column 'label' holds a number, not a string"),
        ({"text": "x", "label": None}, "column 'label' holds null, not a string"),
        ({"text": "x", "label": ""}, "column 'label' is blank"),
        ({"text": "x"}, "no column 'label'; columns here: text"),
        ({"txt": "x", "label": "pos"}, "no column 'text'; columns here: txt, label"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    assert str(fault(tmp_path, *ROWS, row)) == f"{tmp_path}/t.jsonl:3: {message}"


@pytest.mark.parametrize(
    "options",
    [
        {"labels": ["a"]},
        {"labels": ["a", "a"]},
        {"labels": ["a", "b"], "verbalizers": {"c": "x"}},
        {"template": "none"},
        {"text": []},
        {"text": ""},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClassificationTask.Config(**({"train": "t.csv"} | options))


@pytest.mark.parametrize(
    "labels, column",
    [([0, 1], [0, 1]), ([True, False], [True, False]), (["0", 1], ["0", 1]), ([1, 0], ["1", "0"])],
)
def test_labels_may_be_written_as_in_the_column(
    tmp_path: Path, labels: list[Any], column: list[Any]
) -> None:
    rows = [{"text": "a", "label": column[0]}, {"text": "b", "label": column[1]}]
    task = make(tmp_path, *rows, labels=labels)
    assert [example.choice for example in task.train] == [0, 1]
    assert all(isinstance(label, str) for label in task.labels)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0.5, 1], "labels.0: Input should be a valid string"),
        ([1], "labels holds fewer than two labels"),
        ([], "labels holds fewer than two labels"),
        ([1, "1"], "labels holds the same label twice"),
        ([None, 1], "labels.0: Input should be a valid string"),
    ],
)
def test_labels_that_are_none(labels: list[Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ClassificationTask.Config(train="t", labels=labels)
    [found] = caught.value.errors()
    where = ".".join(str(part) for part in found["loc"])
    assert f"{where}: {found['msg']}".removeprefix(": Value error, ") == message
