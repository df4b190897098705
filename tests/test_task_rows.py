"""Reading data files: every fault is named with its place."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaqctl.errors import InputError
from amaqctl.tasks.files import FileConfig, hold_out, load_rows
from amaqctl.tasks.groups import choose_groups
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
    assert str(error) == f"{tmp_path}/d.csv: cannot be read: it is no regular file"
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


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": ' + "1" * 100_000 + "}", "holds a whole number of thousands of digits"),
        ("[" * 200_000, "nested deeper than 100 levels"),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", "nested deeper than 100 levels"),
        ('{"a": ' + '{"b": ' * 400 + "1" + "}" * 401, "nested deeper than 100 levels"),
        ('{"a": NaN}', "not JSON: NaN is no number there; write null"),
        ('{"a": [-Infinity]}', "not JSON: -Infinity is no number there; write null"),
        ('{"a": 1, "a": 1}', 'not JSON that is clear: key "a" is given twice'),
        ('{"b": {"a": 1, "a": 1}}', 'not JSON that is clear: key "a" is given twice'),
        ('{"a": "x\0"}', "byte 0x00 is no text"),
    ],
)
def test_rows_that_python_would_take_or_choke_on(
    tmp_path: Path, content: str, message: str
) -> None:
    path = write(tmp_path, "d.jsonl", '{"a": 1}\n' + content)
    error = fault(path)
    assert str(error) == f"{path}:2: {message}"


def test_many_brackets_side_by_side_are_no_depth(tmp_path: Path) -> None:
    path = write(tmp_path, "d.jsonl", '{"a": [' + ", ".join(["[]"] * 500) + "]}")
    assert read_rows(path)[0].values == {"a": [[]] * 500}


@pytest.mark.parametrize("encoding, words", [("utf-16", "UTF-16"), ("utf-32", "UTF-32")])
def test_another_unicode_encoding_is_named(tmp_path: Path, encoding: str, words: str) -> None:
    path = write(tmp_path, "d.jsonl", '{"a": 1}\n'.encode(encoding))
    assert str(fault(path)) == f"{path}:1: not UTF-8: byte 0xff; it looks like {words}"


def test_utf_16_without_its_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", "a,b\n1,2\n".encode("utf-16-le"))
    assert str(fault(path)) == f"{path}:1: byte 0x00 is no text"


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.jsonl")
    (tmp_path / "d.csv").symlink_to("/dev/zero")
    assert str(fault(tmp_path / "d.jsonl")).endswith(
        "d.jsonl: cannot be read: it is no regular file"
    )
    assert str(fault(tmp_path / "d.csv")).endswith("d.csv: cannot be read: it is no regular file")


def test_a_file_larger_than_memory_is_not_begun(tmp_path: Path) -> None:
    with open(tmp_path / "d.jsonl", "wb") as file:
        file.truncate(10 << 40)
    error = fault(tmp_path / "d.jsonl")
    assert f"it has {10 << 40} bytes, more than the " in error.message
    assert error.hint is not None
    assert "free memory" in error.hint


def test_a_field_and_a_header_of_any_length(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", 'a,b\n"' + "x, " * 100_000 + '",y\n')
    assert read_rows(path)[0].values == {"a": "x, " * 100_000, "b": "y"}
    assert csv.field_size_limit() == 131_072  # of the whole process: as it was
    names = [f"c{i}" for i in range(40_000)]
    path = write(tmp_path, "w.csv", ",".join(names) + "\n" + ",".join(names) + "\n")
    row = read_rows(path)[0]
    assert row.values == dict(zip(names, names, strict=True))
    error = text_fault(row, "prompt")
    assert error.message.endswith("c18, c19 and 39,980 more")


@pytest.mark.parametrize("sign, words", [(";", "';'"), ("\t", "tabs"), ("|", "'|'")])
def test_another_separator_is_named(tmp_path: Path, sign: str, words: str) -> None:
    hint = f"the fields seem to be separated by {words}; save the file with commas, or as .jsonl"
    for content in ("prompt;completion\na;b\n", '"prompt";"completion"\n"a";"b"\n',
                    "prompt;completion\na, b;c\n"):  # fmt: skip
        path = write(tmp_path, "d.csv", content.replace(";", sign))
        with pytest.raises(InputError) as caught:
            read_rows(path)[0].text("completion")
        assert caught.value.hint == hint


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
    other = "add it to the row, or name another column in task.options"
    assert text_fault(row, "zzz").hint == other
    wanting = Row({"prompt": "x", "id": 1}, "d.jsonl:4", wanted=("prompt", "completion"))
    assert text_fault(wanting, "completion").hint == other
    two = Row({"answer": "x"}, "d.jsonl:4", wanted=("answer", "answers"))
    assert text_fault(two, "answers").hint == other
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
@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_hold_out_keeps_equal_rows_together(values: list[int], fraction: float) -> None:
    rows = rows_of(values)
    if len(set(values)) == 1:
        with pytest.raises(InputError, match=f"of {len(rows)} equal rows leaves none to train on"):
            hold_out(rows, fraction, "d")
        return
    rest, held_out, warnings = hold_out(rows, fraction, "d")
    assert rest
    assert held_out
    assert {row.values["a"] for row in rest}.isdisjoint(row.values["a"] for row in held_out)
    assert bool(warnings) == (len(set(values)) < len(values))
    order = {row.place: index for index, row in enumerate(rows)}
    for part in (rest, held_out):
        assert [order[row.place] for row in part] == sorted(order[row.place] for row in part)
    assert sorted(order[row.place] for row in rest + held_out) == list(range(len(rows)))


@pytest.mark.parametrize(
    "sizes, target, held",
    [
        ((90, *[1] * 10), 20, 10),
        ((7, 5, 5, 1), 10, 10),
        ((6, 5, 5), 10, 10),
        ((50, 50), 1, 50),
        ((3, 3, 3), 4, 3),
        ((4, 4, 1), 6, 5),
        ((2, 10), 7, 10),
        ((2, 12), 7, 2),
    ],
)
def test_the_fraction_is_met_as_near_as_whole_groups_allow(
    sizes: tuple[int, ...], target: int, held: int
) -> None:
    chosen = choose_groups(sizes, target)
    assert sum(sizes[index] for index in chosen) == held
    assert len(set(chosen)) == len(chosen)


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.data())
def test_no_other_choice_of_groups_is_nearer(sizes: list[int], data: st.DataObject) -> None:
    target = data.draw(st.integers(1, sum(sizes) - 1))
    sums = {
        sum(size for index, size in enumerate(sizes) if choice >> index & 1)
        for choice in range(1, 2 ** len(sizes) - 1)
    }
    held = sum(sizes[index] for index in choose_groups(sizes, target))
    assert held in sums
    assert abs(held - target) == min(abs(other - target) for other in sums)


def test_what_repeated_rows_did_is_said() -> None:
    rest, held_out, warnings = hold_out(rows_of([0] * 90 + list(range(1, 11))), 0.2, "d")
    assert (len(rest), len(held_out)) == (90, 10)
    assert warnings == (
        "89 of 100 rows repeat another; equal rows stay on one side, so 10 are held out, not the "
        "20 asked for",
    )


def test_rows_are_equal_where_the_columns_that_are_read_are() -> None:
    rows = [Row({"a": str(i % 2), "id": str(i)}, f"d:{i}") for i in range(10)]
    rest, held_out, warnings = hold_out(rows, 0.5, "d", ["a"])
    assert {row.values["a"] for row in rest}.isdisjoint(row.values["a"] for row in held_out)
    assert warnings == (
        "8 of 10 rows repeat another; equal rows stay on one side, so 5 are held out",
    )


def test_hold_out_does_not_depend_on_the_order() -> None:
    rows = rows_of(list(range(40)))
    _, held_out, _ = hold_out(rows, 0.1, "d")
    _, reversed_held_out, _ = hold_out(rows[::-1], 0.1, "d")
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
    rows = load_rows(config, ["a"])
    assert [row.values["a"] for row in rows.train] == ["1", "2"]
    assert [row.values["a"] for row in rows.validation] == ["7"]
    assert (rows.train_place, rows.validation_place) == ("t.csv", "v.csv")
    rows = load_rows(FileConfig(train="t.csv", validation=0.4), ["a"])
    assert sorted(row.values["a"] for row in rows.train + rows.validation) == ["1", "2", "3"]
    assert rows.validation_place == "t.csv (0.4 held out)"
