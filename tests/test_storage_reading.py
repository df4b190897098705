"""What is said of a file of ours that cannot be read or written: its place and the first reason."""

import errno
import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from amaqctl import storage
from amaqctl.errors import InputError


class Pair(BaseModel):
    first: int
    second: int


def test_json_that_is_none_is_said_with_the_reason(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1,}')
    with pytest.raises(InputError) as caught:
        storage.read_json(path)
    words = "cannot be read: no legal JSON: trailing comma at line 1 column 9"
    assert caught.value.message == words
    assert (caught.value.where, caught.value.error_id) == (str(path), "INPUT-FILE")


def test_of_several_faults_the_first_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"first": "x", "second": "y"}')
    with pytest.raises(InputError, match=r"cannot be read: first: Input should be a valid integer"):
        storage.read_document(path, Pair)
    path.write_text('{"first": 1, "second": 2}')
    assert storage.read_document(path, Pair) == Pair(first=1, second=2)
    assert storage.read_json(path, Pair) == {"first": 1, "second": 2}


def test_a_place_below_a_file_cannot_be_read(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        storage.read_bytes(tmp_path / "file" / "below", 10)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(tmp_path / "none", 10)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails to read")
def test_a_read_that_fails_is_explained():
    with pytest.raises(InputError, match="cannot be read: Input/output error"):
        storage.read_bytes(Path("/proc/self/mem"), 10)


def test_what_is_refused_is_not_left_open(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    before = sorted(os.listdir("/proc/self/fd"))
    for refused, limit in ((path, 4), (tmp_path, 10)):
        with pytest.raises(InputError):
            storage.read_bytes(refused, limit)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert storage.read_bytes(path, 5) == b"12345"


def test_json_is_written_to_be_read(tmp_path):
    storage.write_json(tmp_path / "a.json", {"a": [1], "b": "ü"})
    text = '{\n  "a": [\n    1\n  ],\n  "b": "\\u00fc"\n}\n'
    assert (tmp_path / "a.json").read_text() == text
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(tmp_path / "a.json", float("inf"))
    assert (tmp_path / "a.json").read_text() == text


def test_what_is_appended_follows_what_is_there(tmp_path):
    for part in ("one\n", "zwölf\n"):
        with storage.open_to_append(tmp_path / "log") as file:
            file.write(part)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwölf\n"
    os.link(tmp_path / "log", tmp_path / "second")
    for refused in (tmp_path / "log", Path(os.devnull)):
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="no regular file of one name"):
            storage.open_to_append(refused)
        assert sorted(os.listdir("/proc/self/fd")) == before


def test_what_was_written_and_swept_is_not_left_open(tmp_path):
    (tmp_path / ".tmp-old").mkdir()
    before = sorted(os.listdir("/proc/self/fd"))
    storage.write_text(tmp_path / "a", "text")
    with pytest.raises(storage.AlreadyThere):
        storage.write_text(tmp_path / "a", "other", replace=False)
    storage.write_folder(tmp_path / "b", lambda made: (made / "c").touch())
    storage.remove_folder(tmp_path / "b")
    storage.sweep(tmp_path, (".tmp-*",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "the disk is full"),
        (errno.EEXIST, "cannot be written: a file stands where a folder is needed"),
        (
            errno.ELOOP,
            "cannot be written: a symbolic link stands where a file or folder of ours is needed",
        ),
        (errno.EACCES, "cannot be written: Permission denied"),
    ],
)
@pytest.mark.parametrize("is_of_rust", [False, True])
def test_what_a_disk_says_in_one_line(number, message, is_of_rust):
    text = f"Error {{ code: {number} }} (os error {number})"
    error = RuntimeError(text) if is_of_rust else OSError(number, os.strerror(number))
    explained = storage.disk_error(error, Path("/a/b"))
    assert (explained.message, explained.where, explained.exit_code) == (message, "/a/b", 7)


def test_an_error_without_a_number_is_said_as_it_is():
    explained = storage.disk_error(OSError("odd"), Path("/a/b"))
    assert explained.message == "cannot be written: odd"
