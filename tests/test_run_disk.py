"""Processes at once on one run, order of what is flushed to disk, and disks that get full."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from kill_points import forked, settings
from run_files import NEWEST, amaqctl, state

from amaqctl.engine.outputs import drop_later
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError


def test_of_two_that_make_one_run_folder_one_succeeds(tmp_path: Path) -> None:
    place = tmp_path / "run"

    def make(number: int) -> int:
        (tmp_path / f"ready-{number}").touch()
        while len(list(tmp_path.glob("ready-*"))) < 4:
            time.sleep(0.0005)
        try:
            RunFolder.create("r", tmp_path, place, f"a: {number}", {"number": number})
        except InputError as error:
            return error.exit_code
        return 0

    pids = [forked(lambda n=n: make(n), tmp_path / f"out-{n}") for n in range(4)]  # type: ignore[misc]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [0, 4, 4, 4]
    winner = codes.index(0)
    assert (place / "profile.yaml").read_text() == f"a: {winner}"
    assert RunFolder(place).run["number"] == winner
    names = ["environment.json", "profile.yaml", "run.json"]
    assert sorted(path.name for path in place.iterdir()) == names


def test_what_was_saved_after_a_step_goes_and_that_step_stays(tmp_path: Path) -> None:
    for step in range(5):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        (tmp_path / "bits").mkdir(exist_ok=True)
        (tmp_path / "bits" / f"step-{step:06d}.npz").touch()
    (tmp_path / "bits" / "final.npz").touch()
    drop_later(tmp_path, 3)
    kept = [f"step-{step:06d}" for step in range(4)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept
    assert sorted(path.stem for path in (tmp_path / "bits").iterdir()) == ["final", *kept]


def test_what_belongs_to_a_step_is_on_disk_before_its_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics and widths are flushed, as they are then, before the checkpoint has its name."""
    flushed: dict[str, int] = {}
    checked: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        place = os.readlink(f"/proc/self/fd/{handle}")
        flushed[place] = os.fstat(handle).st_size
        real_fsync(handle)

    def rename(source: Any, target: Any) -> None:
        if Path(target).parent.name == "checkpoints" and Path(source).name == "new":
            for path in Path(source).rglob("*"):
                assert str(path) in flushed
                assert path.is_dir() or flushed[str(path)] == path.stat().st_size
            metrics = run / "metrics.jsonl"
            assert flushed[str(metrics)] == metrics.stat().st_size
            assert (run / "bits" / f"{Path(target).name}.npz").exists()
            flushed.pop(str(run / "checkpoints"), None)
            checked.append(Path(target).name)
        real_rename(source, target)
        if checked and Path(target).name == checked[-1]:
            flushed.pop(str(run / "checkpoints"), None)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    assert amaqctl("train", "--resume", run, "--max-steps", 8).exit_code == 0
    assert checked == ["step-000006", "step-000008"]
    assert str(run / "checkpoints") in flushed  # the name itself, after the last one


@pytest.mark.parametrize("limit", [0, 300, 20_000, 200_000])
@pytest.mark.parametrize("command", ["resume", "export", "merge", "record", "eval"])
def test_no_room_for_more_than_so_many_bytes_of_a_file(
    run: Path, tmp_path: Path, command: str, limit: int
) -> None:
    """Every write that would make a file longer fails, wherever it is made."""
    place = tmp_path / "place"
    place.mkdir()
    sets = [part for item in settings(tmp_path, "amaq", 2) for part in ("--set", item)]
    arguments = {
        "resume": ["train", "--resume", run, "--max-steps", 6],
        "export": ["export", run, "--to", place / "x"],
        "merge": ["export", run, "--merge", "--to", place / "x"],
        "record": ["compress-trace", "--record", "quickstart", *sets, "--out", place / "x"],
        "eval": ["eval", run, "--limit", 1],
    }[command]
    kept = run / NEWEST
    before = state(kept) | state(run / "adapter")

    def life() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        result = amaqctl(*arguments, "--json")
        if limit:  # what is seen is written through the same limit
            print(result.stdout[:200] if result.exit_code == 7 else result.stderr[:200])
        return result.exit_code

    output = tmp_path / "out"
    code = os.waitstatus_to_exitcode(os.waitpid(forked(life, output), 0)[1])
    assert code in (0, 7), output.read_text()
    if code == 7 and limit:
        assert '"message": "the disk is full"' in output.read_text()
    if code == 7:
        assert state(kept) | state(run / "adapter") == before
    assert list(run.rglob(".tmp-*")) == []
    assert [path.name for path in place.iterdir()] == (
        ["x"] if code == 0 and command not in ("resume", "eval") else []
    )
    assert code == (7 if limit <= 300 and command != "eval" else code)
    if command == "resume" and code == 7:
        assert amaqctl("train", "--resume", run, "--max-steps", 6).exit_code == 0
