"""Reading profiles: YAML 1.2, positions, faults gathered, and nothing but clear errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from amaqctl.errors import InputError, ProfileError
from amaqctl.profile import Profile, load_profile
from amaqctl.profile.scalars import resolve
from amaqctl.profile.tree import Mark, to_plain
from amaqctl.profile.yaml12 import YamlDocument, dump

MINIMAL = "amaqctl: 1\ntask: {name: text}\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def faults(folder: Path, text: str | bytes) -> list[tuple[int, int, str]]:
    path = write(folder, text)
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert caught.value.exit_code == 3
    assert all(p.file == str(path) for p in caught.value.problems)
    return [(p.line, p.column, p.message) for p in caught.value.problems]


def test_many_faults_are_gathered_with_exact_positions(tmp_path: Path) -> None:
    text = """\
# a comment
amaqctl: 1
model: {id: 5, id: x, dtype: fp8}
split:
  cuts:
    - 5
    - 3
lora:
  alhpa: 3
  r: '3'
lr: 3
train:
  batch_size: -x
optimizer: {lr: .nan, quantizer_lr: true}
quantizers: {activation: {options: {}}}
output: &a {root: runs}
eval: *a
transport: !!str x
checkpoint:
3: 3
"""
    assert faults(tmp_path, text) == [
        (2, 1, "task: required key is missing"),
        (3, 9, "model.id: text needed, got 5 (put it in quotes)"),
        (3, 16, "key 'id' is given twice, first in line 3"),
        (3, 23, "model.dtype: float32, bfloat16 or float16 needed, got 'fp8'"),
        (
            5,
            3,
            "split.cuts: all, or a list of strictly rising whole numbers >= 1 such as [4, 8], "
            "needed, got [5, 3]",
        ),
        (9, 3, "lora.alhpa: unknown key, did you mean 'alpha'?"),
        (10, 3, "lora.r: whole number >= 1 needed, got '3'"),
        (11, 1, "lr: unknown key, did you mean 'optimizer.lr'?"),
        (13, 3, "train.batch_size: whole number >= 1 needed, got '-x'"),
        (14, 17, "optimizer.lr: finite number needed, got .nan"),
        (14, 23, "optimizer.quantizer_lr: number >= 0 and <= 1,000,000 needed, got true"),
        (15, 14, "quantizers.activation.name: required key is missing"),
        (16, 9, "anchor &a is not allowed in a profile"),
        (17, 7, "eval: alias *a is not allowed in a profile"),
        (18, 12, "transport: tag !!str is not allowed in a profile"),
        (19, 1, "checkpoint: mapping needed, got null"),
        (20, 1, "a key must be text, got 3"),
    ]


def test_error_text_counts_and_places(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "lora: {rank: 1, alhpa: 2}\n")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert str(caught.value) == (
        f"{path}: 2 faults; the first: lora.rank: unknown key, "
        "known here: r, alpha, dropout, target_modules"
    )
    assert str(caught.value.problems[1]) == (
        f"{path}:3:17: lora.alhpa: unknown key, did you mean 'alpha'?"
    )
    path = write(tmp_path, MINIMAL + "lora: {alhpa: 2}\n")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert str(caught.value) == f"{path}:3:8: lora.alhpa: unknown key, did you mean 'alpha'?"
    assert caught.value.error_id == "PROFILE-INVALID"


def test_duplicate_keys_are_reported_once_each(tmp_path: Path) -> None:
    text = MINIMAL + "lora:\n  r: 4\n  r: 8\n  r: 9\ntask: {name: other}\n"
    assert faults(tmp_path, text) == [
        (5, 3, "key 'r' is given twice, first in line 4"),
        (6, 3, "key 'r' is given twice, first in line 4"),
        (7, 1, "key 'task' is given twice, first in line 2"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (1, 1, "a mapping of sections is needed, got null")),
        ("# only this\n", (1, 1, "a mapping of sections is needed, got null")),
        ("- 1\n- 2\n", (1, 1, "a mapping of sections is needed, got [1, 2]")),
        ("\nhello\n", (2, 1, "a mapping of sections is needed, got 'hello'")),
        (MINIMAL + "---\na: 1\n", (3, 1, "a second document starts here")),
        ("%YAML 1.1\n---\na: no\n", (2, 1, "profiles are written in YAML 1.2")),
        (MINIMAL + "lora: {r: 3\n", None),
        ("a: \x01b", (1, 4, "character U+0001 is not allowed in YAML")),
        ("#\n" * 2000 + "a: \x7fb", (2001, 4, "character U+007F is not allowed in YAML")),
        ("a:\n\tb: 1", None),
        ('amaqctl: "\\U99999999"', (1, 1, "not valid YAML after this point")),
        ("a: " + "[" * 50, (1, 23, "nested deeper than 20 levels")),
        (b"a: 1\nb: \xc3\xa9\xff\n", (2, 5, "byte 0xff is not UTF-8")),
        ("a: 1\n".encode("utf-16"), (1, 1, "byte 0xff is not UTF-8")),
    ],
)
def test_text_that_is_no_profile(
    tmp_path: Path, text: str | bytes, expected: tuple[int, int, str] | None
) -> None:
    found = faults(tmp_path, text)
    if expected is None:
        assert found[0][2].startswith("not valid YAML: ")
        assert found[0][0] >= 2
    else:
        assert found[-1] == expected
    assert all("\n" not in message for _, _, message in found)


def test_files_that_are_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as folder:
        load_profile(f"{tmp_path}{os.sep}")
    assert folder.value.message == "is a folder, not a profile"
    assert folder.value.where == str(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    for place in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(ProfileError) as odd:
            load_profile(place)
        assert odd.value.message == "cannot be read: it is no regular file"
    large = write(tmp_path, "# x\n" * 100_000)
    with pytest.raises(
        ProfileError, match="it has 400000 bytes, more than the 65536 that are legal"
    ):
        load_profile(large)
    with pytest.raises(InputError) as missing:
        load_profile(tmp_path / "quickstrat.yaml")
    assert missing.value.exit_code == 4
    assert missing.value.hint is not None
    assert missing.value.hint.startswith("did you mean 'quickstart'? shipped profiles: ")


@pytest.mark.parametrize(
    "text, last",
    [
        (
            "b: [" + ", ".join(["*x"] * 9_000) + "]",
            "too many faults; nothing from here on was read",
        ),
        ("b: [" + ", ".join(["&x 1"] * 9_000) + "]", "too many faults; nothing from here on was"),
        ("b: 1\n" * 9_000, "too many faults; nothing from here on was read"),
        ("".join(f"k{i}: 1\n" for i in range(5_000)), "and 4,901 more faults from here on"),
        ("lora: {" + ", ".join(f"r{i}: 1" for i in range(5_000)) + "}", "and 4,901 more faults"),
    ],
    ids=["aliases", "anchors", "equal keys", "unknown keys", "unknown keys of a section"],
)
def test_of_very_many_faults_the_first_hundred_are_told(
    tmp_path: Path, text: str, last: str
) -> None:
    found = faults(tmp_path, MINIMAL + text)
    assert len(found) == 100
    assert found[-1][2].startswith(last)
    assert all(message != found[-1][2] for _, _, message in found[:-1])


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_profile(path).profile.task.name == "text"
    assert faults(tmp_path, "amaqctl: 1\r\ntask: {name: text}\r\nlora: {x: 1}\r\n")[0][:2] == (3, 8)


def test_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x]"]
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]")
    found = faults(tmp_path, "\n".join(lines))
    assert (2, 8, "b[0]: alias *a is not allowed in a profile") in found


def test_python_tags_make_nothing(tmp_path: Path) -> None:
    text = MINIMAL + 'description: !!python/object/apply:os.system ["exit 3"]\n'
    assert faults(tmp_path, text) == [
        (3, 14, "description: tag !!python/object/apply:os.system is not allowed in a profile")
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("2E+3", 2000.0), (".5", 0.5), ("1.", 1.0), ("-0.0", -0.0),
        ("5", 5), ("-3", -3), ("+3", 3), ("017", 17), ("0o17", 15), ("0x1F", 31),
        ("no", "no"), ("on", "on"), ("y", "y"), ("12:30", "12:30"), ("1_000", "1_000"),
        ("2026-11-21", "2026-11-21"), ("=", "="), ("<<", "<<"), ("0b1", "0b1"),
        ("true", True), ("False", False), ("~", None), ("", None), ("null", None),
        ("1e-", "1e-"), ("-", "-"), (".", "."), ("१", "१"),
    ],
)  # fmt: skip
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_numbers_and_text_in_a_profile(tmp_path: Path) -> None:
    text = MINIMAL + "optimizer: {lr: 1e-4}\nmodel: {revision: no}\ndescription: 12:30\n"
    profile = load_profile(write(tmp_path, text)).profile
    assert profile.optimizer.lr == 0.0001
    assert profile.model.revision == "no"
    assert profile.description == "12:30"


def _is_profile_or_profile_error(folder: Path, data: str | bytes) -> None:
    path = write(folder, data)
    try:
        assert isinstance(load_profile(path).profile, Profile)
        return
    except ProfileError as error:
        problems = error.problems
    assert len(problems) >= 1
    assert list(problems) == sorted(problems)
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert "\n" not in problem.message


PIECES = st.sampled_from([
    "amaqctl: 1\n", "task: ", "{name: text}\n", "lora:\n", "  r: 4\n", "  alhpa: x\n", "[", "]",
    "{", "}", "- ", "? ", ": ", ", ", "&a ", "*a ", "!!str ", "!<x> ", "|\n", ">-\n", "'", '"',
    "#", "%YAML 1.2\n", "---\n", "...\n", "<<: ", "\t", "\r", "\\U99999999", "1e-4", ".inf",
    "\n", "  ", "split: {cuts: [1, 3]}\n", "null", "\x85", "\u2028", "é",
])  # fmt: skip
QUICK = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(st.text(st.characters(codec="utf-8")) | st.lists(PIECES, max_size=25).map("".join))
@example("amaqctl: 1\ntask: {name: text}\n")
@example("? ? a\n: b\n")
@example("!!map {a: 1}")
def test_any_text_is_a_profile_or_a_profile_error(tmp_path: Path, text: str) -> None:
    _is_profile_or_profile_error(tmp_path, text)


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes_are_a_profile_or_a_profile_error(tmp_path: Path, data: bytes) -> None:
    _is_profile_or_profile_error(tmp_path, data)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Z", "Cc"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@QUICK
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), PLAIN, max_size=4))
@example({"a": ".5e3", "b": "1_000", "c": "0o17", "d": "null", "e": "x" * 300, "k" * 300: 1})
@example({"": [[], {}, ["\x00\ufffe\n\t \u2028"]], "0": {"": ""}})
def test_dumped_values_read_back_equal(value: dict[str, object]) -> None:
    document = YamlDocument(dump(value), lambda line, column: Mark("f", line, column))
    assert document.problems == []
    assert repr(to_plain(document.node)) == repr(value)
