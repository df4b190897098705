"""Files of ours: whole or not there, by one writer, swept, readable as the umask says, bounded."""

import errno
import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from file_changes import count_into, die_before
from kill_points import forked
from pydantic import BaseModel

from amaqctl import storage
from amaqctl.errors import InputError, ResourceError
from amaqctl.storage import AlreadyThere, workplace
from amaqctl.storage.workplace import sweep


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fill(text: str):
    def write(folder: Path) -> None:
        (folder / "a").write_text(text)
        (folder / "b").mkdir()
        (folder / "b" / "c").write_text(text * 2)

    return write


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


WHOLE = {text: {"a": text, "b/c": text * 2} for text in ("old", "new")}


def test_a_link_under_a_name_of_a_temporary_is_not_written_through(tmp_path, monkeypatch):
    """A maker whose name is taken, by whatever, takes another one."""
    other = tmp_path / "other"
    other.write_text("mine")
    guessed = iter(["guessed", "free"])
    monkeypatch.setattr(workplace.secrets, "token_hex", lambda _: next(guessed))
    taken = tmp_path / f"{workplace._own_prefix()}guessed-a"
    taken.symlink_to(other)
    storage.write_text(tmp_path / "a", "text")
    assert next(guessed, None) is None
    assert (other.read_text(), (tmp_path / "a").read_text()) == ("mine", "text")


def test_a_link_at_the_final_place_is_replaced_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "a").symlink_to(other)
    with pytest.raises(AlreadyThere):
        storage.write_text(tmp_path / "a", "text", replace=False)
    storage.write_text(tmp_path / "a", "text")
    assert (other.read_text(), (tmp_path / "a").read_text()) == ("mine", "text")
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_writers_at_once_exactly_one_puts_its_own_in_place(tmp_path, kind):
    """Each stands ready before it puts anything in place, so that all do it at one moment."""
    place, num_writers = tmp_path / "place", 6
    place.mkdir()

    def write(number: int) -> int:
        def wait(made: Path) -> None:
            made.write_text(str(number)) if kind == "file" else fill(str(number))(made)
            (tmp_path / f"ready-{number}").touch()
            while len(list(tmp_path.glob("ready-*"))) < num_writers:
                time.sleep(0.001)

        try:
            if kind == "file":
                storage.write_file(place / "x", wait, replace=False)
            else:
                storage.write_folder(place / "x", wait)
        except AlreadyThere as error:
            return error.exit_code
        return 0

    pids = [
        forked(lambda n=n: write(n), tmp_path / f"out-{n}")  # type: ignore[misc]
        for n in range(num_writers)
    ]
    codes = [exit_code(pid) for pid in pids]
    assert sorted(codes) == [0, 4, 4, 4, 4, 4]
    winner = str(codes.index(0))
    if kind == "file":
        assert (place / "x").read_text() == winner
    else:
        assert contents(place / "x") == {"a": winner, "b/c": winner * 2}
    assert names(place) == ["x"]


def test_writers_of_one_file_that_may_be_replaced_never_mix(tmp_path):
    def write(letter: str) -> None:
        for _ in range(30):
            storage.write_text(tmp_path / "x" / "file", letter * 100_000)

    pids = [forked(lambda c=c: write(c), tmp_path / f"out-{c}") for c in "abc"]  # type: ignore[misc]
    assert [exit_code(pid) for pid in pids] == [0, 0, 0]
    assert names(tmp_path / "x") == ["file"]
    text = (tmp_path / "x" / "file").read_text()
    assert text in {c * 100_000 for c in "abc"}


def test_a_document_is_put_where_one_is_only_if_it_may_be(tmp_path):
    path = tmp_path / "a.json"
    storage.write_json(path, {"a": 1}, replace=False)
    for write in (storage.write_json, storage.write_text):
        with pytest.raises(AlreadyThere):
            write(path, "other", replace=False)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    storage.write_json(path, [2])
    assert path.read_text() == "[\n  2\n]\n"


def test_where_there_are_no_second_names_nothing_is_replaced_either(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    storage.write_text(tmp_path / "a", "first", replace=False)
    with pytest.raises(AlreadyThere):
        storage.write_text(tmp_path / "a", "second", replace=False)
    assert (tmp_path / "a").read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path):
    target = tmp_path / "x"
    target.mkdir()
    storage.write_folder(target, fill("old"))
    with pytest.raises(AlreadyThere):
        storage.write_folder(target, fill("new"))
    assert contents(target) == WHOLE["old"]
    storage.write_folder(target, fill("new"), replace=True)
    assert contents(target) == WHOLE["new"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AlreadyThere):
        storage.write_folder(tmp_path / "file", fill("new"))
    assert names(tmp_path) == ["file", "x"]


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    place = tmp_path / "place"

    def hold(made: Path) -> None:
        (made / "half").touch()
        (tmp_path / f"at-work-{os.getpid()}").touch()
        time.sleep(60)

    pids = [
        forked(lambda: storage.write_folder(place / "x", hold), tmp_path / f"out-{n}")
        for n in range(2)
    ]
    while len(list(tmp_path.glob("at-work-*"))) < 2:
        time.sleep(0.005)
    os.kill(pids[0], signal.SIGKILL)
    os.waitpid(pids[0], 0)
    try:
        assert len(names(place)) == 2
        storage.write_text(place / "y", "")
        (living, other) = names(place)
        assert living.startswith(".tmp-amaqctl-")
        assert other == "y"
    finally:
        os.kill(pids[1], signal.SIGKILL)
        os.waitpid(pids[1], 0)
    sweep(place)
    assert names(place) == ["y"]


def test_what_is_not_ours_is_not_swept(tmp_path):
    for name in (".tmp-mine", ".tmp-amaqct", ".hidden", "tmp-amaqctl-x"):
        (tmp_path / name).mkdir()
    (tmp_path / f"{workplace._own_prefix()}link").symlink_to(tmp_path / ".hidden")
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == before


def test_a_leftover_of_another_machine_must_be_a_day_old(tmp_path):
    """Its lock may not be seen from here."""
    place = tmp_path / ".tmp-amaqctl-00000000-0123456789abcdef-x"
    (place / "new").mkdir(parents=True)
    sweep(tmp_path)
    assert place.exists()
    yesterday = time.time() - 86_500
    os.utime(place, (yesterday, yesterday))
    sweep(tmp_path)
    assert place.exists()  # what is in it was changed just now
    os.utime(place / "new", (yesterday, yesterday))
    sweep(tmp_path)
    assert not place.exists()


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_sweeper_between_two_calls_of_a_maker_does_no_harm(tmp_path, monkeypatch, is_made_again):
    """The maker has made its folder and not locked it yet: it takes another."""
    real, swept = os.open, []

    def open_after_sweep(path, *arguments, **more):
        if Path(path).name.startswith(".tmp-amaqctl-") and not swept:
            swept.append(path)
            os.rmdir(path)
            if is_made_again:  # even one of the same name is not the one that was made
                os.mkdir(path)
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", open_after_sweep)
    storage.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


class Calls:
    """What was asked of the disk, in order, with what a file held when it was flushed."""

    def __init__(self, monkeypatch, fail_at: int | None = None) -> None:
        self.log: list[tuple[str, str, str]] = []
        self._fail_at = fail_at
        for name in ("mkdir", "rename", "replace", "link", "fsync", "chmod"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, real):
        def call(first, *arguments, **more):
            if len(self.log) + 1 == self._fail_at:
                self._fail_at = None
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")
            place, second = str(first), ""
            if name == "fsync":
                place = os.readlink(f"/proc/self/fd/{first}")
                second = Path(place).read_text() if Path(place).is_file() else ""
            elif name != "mkdir" and name != "chmod":
                second = str(arguments[0])
            self.log.append((name, place, second))
            return real(first, *arguments, **more)

        return call


def test_a_file_is_flushed_before_it_is_put_in_place_and_its_folder_after(tmp_path, monkeypatch):
    for replace, verb in ((True, "replace"), (False, "link")):
        with monkeypatch.context() as context:
            log = Calls(context).log
            storage.write_text(tmp_path / verb, "text", replace=replace)
        (put,) = [i for i, call in enumerate(log) if call[0] == verb]
        made = log[put][1]
        assert log[put][2] == str(tmp_path / verb)
        assert ("fsync", made, "text") in log[:put]
        assert ("fsync", str(tmp_path), "") in log[put:]


@pytest.mark.parametrize("replace", [False, True])
def test_everything_in_a_folder_is_flushed_before_and_what_holds_it_after(
    tmp_path, monkeypatch, replace
):
    target = tmp_path / "x"
    if replace:
        storage.write_folder(target, fill("old"))
    log = Calls(monkeypatch).log
    storage.write_folder(target, fill("new"), replace=replace)
    put = next(i for i, call in enumerate(log) if call[0] == "rename" and call[2] == str(target))
    made = log[put][1]
    flushed = {call[1:] for call in log[:put] if call[0] == "fsync"}
    assert {
        (f"{made}/a", "new"),
        (f"{made}/b/c", "newnew"),
        (f"{made}/b", ""),
        (made, ""),
    } <= flushed
    assert ("fsync", str(tmp_path), "") in log[put:]


@pytest.mark.parametrize("kind", ["file", "new file", "folder", "new folder"])
def test_no_room_at_any_call_leaves_the_old_or_the_new(tmp_path, monkeypatch, kind):
    target, number, num_refused = tmp_path / "x", 0, 0
    replace = not kind.startswith("new")
    while True:
        number += 1
        place = tmp_path / str(number)
        place.mkdir()
        target = place / "x"
        if replace:
            (storage.write_text if kind == "file" else _write_old)(target, "old")
        with monkeypatch.context() as context:
            calls = Calls(context, fail_at=number)
            try:
                if kind.endswith("file"):
                    storage.write_text(target, "new", replace=replace)
                else:
                    storage.write_folder(target, fill("new"), replace=replace)
                failure = None
            except ResourceError as error:
                failure = error
        if calls._fail_at is not None:  # there were fewer calls
            break
        if failure is not None:
            assert (failure.message, failure.where) == ("the disk is full", str(target))
            num_refused += 1
        assert names(place) in ([], ["x"])
        if target.exists():
            found = target.read_text() if target.is_file() else contents(target)
            assert found in ("old", "new", WHOLE["old"], WHOLE["new"])
        else:
            assert failure is not None
            assert not replace
    assert num_refused >= 4


def _write_old(target: Path, text: str) -> None:
    storage.write_folder(target, fill(text))


@pytest.mark.parametrize("kind", ["file", "new file", "folder", "new folder"])
def test_killed_before_any_call_leaves_the_old_or_the_new_and_is_swept(tmp_path, kind):
    replace = not kind.startswith("new")
    number, num_kills = 0, 0

    def write(target: Path, text: str) -> None:
        if kind.endswith("file"):
            storage.write_text(target, text, replace=replace)
        else:
            storage.write_folder(target, fill(text), replace=replace)

    def life(target: Path, number: int) -> None:
        die_before(target.parent, number)
        write(target, "new")

    while True:
        number += 1
        target = tmp_path / str(number) / "x"
        target.parent.mkdir()
        if replace:
            write(target, "old")
        code = exit_code(forked(lambda t=target, n=number: life(t, n), tmp_path / "out"))
        if code == 0:
            break
        assert code == -signal.SIGKILL, (tmp_path / "out").read_text()
        num_kills += 1
        if target.exists():
            found = target.read_text() if target.is_file() else contents(target)
            assert found in ("old", "new", WHOLE["old"], WHOLE["new"])
        sweep(target.parent)
        assert names(target.parent) in ([], ["x"])
    assert num_kills >= 6


def test_changes_are_counted(tmp_path):
    """What the tests of kills rest on: the count is that of the lives that end by a kill."""
    place = tmp_path / "place"

    def life() -> None:
        count_into(place, tmp_path / "count")
        storage.write_text(place / "x", "text")

    assert exit_code(forked(life, tmp_path / "out")) == 0
    assert int((tmp_path / "count").read_text()) >= 6


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o027])
def test_the_umask_decides_who_may_read(tmp_path, mask):
    def private(path: Path) -> None:
        path.write_text("x")
        path.chmod(0o600)

    def private_folder(folder: Path) -> None:
        private(folder / "a")
        (folder / "b").mkdir()
        private(folder / "b" / "c")

    before = os.umask(mask)
    try:
        storage.write_file(tmp_path / "file", private)
        storage.write_folder(tmp_path / "folder", private_folder)
        storage.open_to_append(tmp_path / "log").close()
    finally:
        os.umask(before)
    for name in ("file", "log", "folder/a", "folder/b/c"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask, name
    for name in ("folder", "folder/b"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o777 & ~mask, name


def test_long_names_and_names_of_many_bytes(tmp_path):
    for name in ("n" * 255, "é" * 127, "字" * 85):
        storage.write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name


@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder"])
def test_nothing_is_appended_to_what_is_not_a_file_of_one_name(tmp_path, kind):
    other, path = tmp_path / "other", tmp_path / "log"
    other.write_text("mine")
    make = {"link": path.symlink_to, "second name": path.hardlink_to}
    if kind in make:
        make[kind](other)
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(OSError):
        storage.open_to_append(path)
    assert other.read_text() == "mine"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for read in (storage.read_json, storage.check_regular, lambda p: storage.read_bytes(p, 10)):
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.where == str(path)
        assert caught.value.message == "cannot be read: it is no regular file"


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1" * 10)
    assert storage.read_bytes(path, 10) == b"1" * 10
    with pytest.raises(InputError, match="10 bytes, more than the 9"):
        storage.read_bytes(path, 9)
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(InputError, match="more than the"):
        storage.read_json(path)
    with pytest.raises(InputError, match="has more than 3 bytes"):
        storage.read_bytes(Path("/proc/self/status"), 3)  # says it has none
    with pytest.raises(FileNotFoundError):
        storage.read_json(tmp_path / "nowhere")


class Point(BaseModel):
    x: int


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, "", "{", "nul", '"\\ud800"', "NaN", "\x00", "9" * 5000],
)
def test_what_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "x"
    path.write_text(text)
    for read in (storage.read_json, lambda p: storage.read_document(p, Point)):
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.message.startswith("cannot be read: ")
        assert len(caught.value.message) < 300
        assert "\n" not in caught.value.message


def test_a_document_of_another_form_names_the_key(tmp_path):
    path = tmp_path / "x"
    path.write_text(json.dumps({"x": "one"}))
    with pytest.raises(InputError, match=r"^cannot be read: x: Input should be a valid integer"):
        try:
            storage.read_document(path, Point)
        except InputError as error:
            raise InputError(error.message) from None
    path.write_text('{"x": 3, "y": [1]}')
    assert storage.read_document(path, Point).x == 3
    assert storage.read_json(path, Point) == {"x": 3, "y": [1]}
