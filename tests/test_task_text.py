from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from test_task_encode import BEGINNING, BOS, EOS, PLAIN

from amaqctl.errors import InputError
from amaqctl.tasks import windows
from amaqctl.tasks.text import TextTask


def make(max_length: int = 4, tokenizer: Any = PLAIN, **options: Any) -> TextTask:
    config = TextTask.Config(**options)
    return TextTask(config, tokenizer, max_length=max_length, seed=1)


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def fault(**options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        make(**options)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


def test_windows_by_hand(tmp_path: Path) -> None:
    task = make(train=write(tmp_path / "t.txt", "abcdef"), validation=write(tmp_path / "v", "xy"))
    assert [e.input_ids for e in task.train] == [(97, 98, 99, 100), (101, 102, EOS)]
    assert [e.labels for e in task.train] == [e.input_ids for e in task.train]
    assert [e.sample_id for e in task.train] == [0, 1]
    assert [e.num_loss_tokens for e in task.train] == [3, 2]
    assert [e.input_ids for e in task.validation] == [(120, 121, EOS)]
    assert (task.metric, task.num_dropped, task.max_new_tokens) == ("perplexity", {}, 0)


def test_every_window_begins_as_the_tokenizer_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "abcdef")
    task = make(train=path, validation=path, tokenizer=BEGINNING)
    assert [e.input_ids for e in task.train] == [
        (BOS, 97, 98, 99),
        (BOS, 100, 101, 102),
        (BOS, EOS),
    ]


def test_a_last_window_of_one_token_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "abcd")
    task = make(train=path, validation=path)
    assert [e.input_ids for e in task.train] == [(97, 98, 99, 100)]


def test_several_files_and_the_end_held_out(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.txt", "abc"), write(tmp_path / "b.txt", "defg")]
    task = make(train=paths, validation=0.5, max_length=3)
    assert [e.input_ids for e in task.train] == [(97, 98, 99)]
    assert [e.input_ids for e in task.validation] == [(EOS, 100, 101), (102, 103, EOS)]
    assert [e.sample_id for e in task.validation] == [0, 1]


def test_a_column_of_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"t": "ab"}\n{"t": " "}\n{"t": "c"}\n')
    task = make(train=path, validation=path, column="t", max_length=9)
    assert [e.input_ids for e in task.train] == [(97, 98, EOS, 99, EOS)]
    assert task.num_dropped == {"train: blank rows": 1, "validation: blank rows": 1}
    held_out = make(train=path, validation=0.5, column="t", max_length=3)
    assert held_out.num_dropped == {"train: blank rows": 1}


def test_limits_count_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "a" * 40)
    task = make(train=path, validation=0.5, train_limit=3, validation_limit=2)
    assert (len(task.train), len(task.validation)) == (3, 2)


def test_column_of_a_row_file_must_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"t": "ab", "u": 1}\n')
    error = fault(train=path)
    assert str(error) == f"{path}: which column of the .jsonl file holds the text is not set"
    assert error.hint == "set task.options.column to one of: t, u"
    assert error.error_id == "INPUT-COLUMN"


def test_plain_text_has_no_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "ab")
    error = fault(train=path, column="t")
    assert str(error) == f"{path}: a plain text file has no column 't'"
    assert error.hint == "set task.options.column to null, or give .jsonl, .json, .csv"


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    blank = write(tmp_path / "blank.jsonl", '{"t": ""}\n')
    error = fault(train=blank, column="t")
    assert str(error) == f"{blank}: no usable train example (1 blank rows)"
    short = write(tmp_path / "t.txt", "ab")
    error = fault(train=short)
    assert str(error) == f"{short}: holding out 0.05 of 1 windows leaves none to train on"
    assert error.error_id == "INPUT-EMPTY"
    error = fault(train=short, max_length=1)
    assert str(error) == "train.max_length: a window of 1 token has nothing to predict"
    assert error.error_id == "INPUT-NO-LOSS"
    empty = write(tmp_path / "empty.txt", "")
    assert str(fault(train=empty)) == f"{empty}: the file is empty"


@pytest.mark.parametrize("options", [{"train": []}, {"train": ""}, {"validation": 1.5}, {"x": 1}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TextTask.Config(**({"train": "t.txt"} | options))


def test_tokens_that_begin_and_end_documents_already_are_not_added_again(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "<bos>ab<eos>\n")
    other = write(tmp_path / "u.txt", "xyz")
    task = make(train=[path, path], validation=other, tokenizer=BEGINNING, max_length=5)
    assert [e.input_ids for e in task.train] == [
        (BOS, 97, 98, EOS, BOS),
        (BOS, 97, 98, EOS),
    ]
    assert task.warnings == ("where a document ends in '<eos>' already, no second one is added",)


@pytest.mark.parametrize("text", ["one two\nthree\n\nfour " * 9, "one two three " * 9, "x" * 99])
def test_a_long_document_is_tokenized_in_parts_to_the_same_tokens(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_MOST_CHARACTERS", 20)
    parts = list(windows._parts(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 20
    assert windows.token_stream(PLAIN, [text])[0] == [*text.encode(), EOS]
