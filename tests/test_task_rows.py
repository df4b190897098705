"""Reading data files: every fault is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaqctl.errors import InputError
from amaqctl.tasks.files import FileConfig, hold_out, load_rows
from amaqctl.tasks.rows import Row, read_rows


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fault(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


def test_json_lines(tmp_path: Path) -> None:
    content = '\ufeff{"a": "x\u2028y"}\n\n  {"a": "é", "b": 1}\r\n'
    path = write(tmp_path, "d.jsonl", content)
    assert read_rows(path) == [
        Row({"a": "x\u2028y"}, f"{path}:1"),
        Row({"a": "é", "b": 1}, f"{path}:3"),
    ]
    assert read_rows(write(tmp_path, "d.json", content))[1].values == {"a": "é", "b": 1}


def test_csv(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", 'a,b\r\n"x, ""y""\nz",2\r\n\r\nu,\r\n')
    assert read_rows(path) == [
        Row({"a": 'x, "y"\nz', "b": "2"}, f"{path}:3"),
        Row({"a": "u", "b": ""}, f"{path}:5"),
    ]


def test_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = fault(Path("none.jsonl"))
    assert str(error) == "none.jsonl: no such file"
    assert error.hint == f"relative paths start at the current directory, {tmp_path}"
    assert error.error_id == "INPUT-FILE"


def test_folder_instead_of_file(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    error = fault(tmp_path / "d.csv")
    assert str(error) == f"{tmp_path}/d.csv: cannot be read: Is a directory"
    assert error.error_id == "INPUT-FILE"


def test_unknown_format(tmp_path: Path) -> None:
    error = fault(tmp_path / "d.parquet")
    assert str(error) == f"{tmp_path}/d.parquet: unknown data format '.parquet'"
    assert error.hint == "known are .jsonl, .json, .csv"


@pytest.mark.parametrize(
    "name, content, place, message, error_id",
    [
        ("d.jsonl", "", "", "the file is empty", "INPUT-EMPTY"),
        ("d.jsonl", " \n\n", "", "the file is empty", "INPUT-EMPTY"),
        ("d.csv", "a,b\n", "", "the file has no rows", "INPUT-EMPTY"),
        ("d.jsonl", b'{"a": "x"}\n{"a": "\xe9"}\n', ":2", "not UTF-8: byte 0xe9",
         "INPUT-ENCODING"),
        ("d.jsonl", b'\xef\xbb\xbf{"a": "\xff"}\n', ":1", "not UTF-8: byte 0xff",
         "INPUT-ENCODING"),
        ("d.jsonl", '{"a": "x"}\n{"a": x}\n', ":2", "not JSON: Expecting value at column 7",
         "INPUT-FORMAT"),
        ("d.jsonl", '[{"a": "x"}]', ":1", "holds a list, not an object", "INPUT-FORMAT"),
        ("d.jsonl", '{"a": "x"}\nnull', ":2", "holds null, not an object", "INPUT-FORMAT"),
        ("d.jsonl", "3", ":1", "holds a number, not an object", "INPUT-FORMAT"),
        ("d.csv", "a,b\nx\n", ":2", "1 fields under a header of 2", "INPUT-FORMAT"),
        ("d.csv", "a,b\nx,y\nx,y,z\n", ":3", "3 fields under a header of 2", "INPUT-FORMAT"),
        ("d.csv", "a,b,a\nx,y,z\n", ":1", "the header repeats column 'a'", "INPUT-FORMAT"),
        ("d.csv", 'a\n"x\n', ":2", "not CSV: unexpected end of data", "INPUT-FORMAT"),
    ],
)  # fmt: skip
def test_bad_content(
    tmp_path: Path, name: str, content: str | bytes, place: str, message: str, error_id: str
) -> None:
    path = write(tmp_path, name, content)
    error = fault(path)
    assert str(error) == f"{path}{place}: {message}"
    assert error.error_id == error_id


@pytest.mark.parametrize("content", ['{"a": ' + "1" * 5000 + "}", "[" * 100_000])
def test_json_that_python_refuses(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, "d.jsonl", content)
    error = fault(path)
    assert str(error).startswith(f"{path}:1: not JSON that can be read: ")
    assert error.error_id == "INPUT-FORMAT"


def text_fault(row: Row, column: str) -> InputError:
    with pytest.raises(InputError) as caught:
        row.text(column)
    assert caught.value.exit_code == 4
    return caught.value


def test_missing_column_names_those_that_exist() -> None:
    row = Row({"question": "x", "answer": "y"}, "d.jsonl:4")
    assert row.text("answer") == "y"
    error = text_fault(row, "qestion")
    assert str(error) == "d.jsonl:4: no column 'qestion'; columns here: question, answer"
    assert error.hint == "did you mean 'question'?"
    assert error.error_id == "INPUT-COLUMN"
    assert text_fault(row, "zzz").hint == "name one of these in task.options"
    assert str(text_fault(Row({}, "d:1"), "a")) == "d:1: no column 'a'; columns here: none"


@pytest.mark.parametrize(
    "value, kind",
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "a number"),
        (1.5, "a number"),
        (["x"], "a list"),
        ({"x": 1}, "an object"),
    ],
)
def test_values_that_are_no_strings(value: object, kind: str) -> None:
    error = text_fault(Row({"a": value}, "d:1"), "a")
    assert str(error) == f"d:1: column 'a' holds {kind}, not a string"
    assert error.hint == "write the value as a string"
    assert error.error_id == "INPUT-VALUE"


def test_blank_and_broken_strings() -> None:
    error = text_fault(Row({"a": " \n"}, "d:1"), "a")
    assert (str(error), error.error_id) == ("d:1: column 'a' is blank", "INPUT-EMPTY")
    assert Row({"a": " \n"}, "d:1").text("a", may_be_blank=True) == " \n"
    error = text_fault(Row({"a": "ab\ud800"}, "d:1"), "a")
    assert str(error) == "d:1: column 'a' holds half of a surrogate pair at character 2"
    assert error.error_id == "INPUT-ENCODING"


def rows_of(values: list[int]) -> list[Row]:
    return [Row({"a": value}, f"d:{index}") for index, value in enumerate(values)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.floats(0.01, 0.5))
def test_hold_out_keeps_equal_rows_together(values: list[int], fraction: float) -> None:
    rows = rows_of(values)
    try:
        rest, held_out = hold_out(rows, fraction, "d")
    except InputError:
        # One group of equal rows held everything, or the rest was in the groups taken.
        assert len(set(values)) <= max(1, round(fraction * len(rows)))
        return
    assert held_out
    assert len(held_out) >= round(fraction * len(rows))
    assert {row.values["a"] for row in rest}.isdisjoint(row.values["a"] for row in held_out)
    order = {row.place: index for index, row in enumerate(rows)}
    for part in (rest, held_out):
        assert [order[row.place] for row in part] == sorted(order[row.place] for row in part)
    assert sorted(order[row.place] for row in rest + held_out) == list(range(len(rows)))


def test_hold_out_does_not_depend_on_the_order() -> None:
    rows = rows_of(list(range(40)))
    _, held_out = hold_out(rows, 0.1, "d")
    _, reversed_held_out = hold_out(rows[::-1], 0.1, "d")
    assert {r.values["a"] for r in held_out} == {r.values["a"] for r in reversed_held_out}
    assert len(held_out) == 4


def test_hold_out_of_everything_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        hold_out(rows_of([1]), 0.5, "d.csv")
    assert str(caught.value) == "d.csv: holding out 0.5 of 1 rows leaves none to train on"
    assert caught.value.error_id == "INPUT-EMPTY"


def test_limits_and_validation_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "t.csv", "a\n1\n2\n3\n")
    write(tmp_path, "v.csv", "a\n7\n8\n")
    config = FileConfig(train="t.csv", validation="v.csv", train_limit=2, validation_limit=1)
    train, validation, train_place, validation_place = load_rows(config)
    assert [row.values["a"] for row in train] == ["1", "2"]
    assert [row.values["a"] for row in validation] == ["7"]
    assert (train_place, validation_place) == ("t.csv", "v.csv")
    train, validation, _, validation_place = load_rows(FileConfig(train="t.csv", validation=0.4))
    assert sorted(row.values["a"] for row in train + validation) == ["1", "2", "3"]
    assert validation_place == "t.csv (0.4 held out)"
