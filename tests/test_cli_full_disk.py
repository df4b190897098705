"""A disk that gets full, or may only be read: exit 7, nothing lost, and the run goes on later."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "disk").mkdir()
    may = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder / "disk")]
    try:
        if subprocess.run(may, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs is not permitted here")
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, str(SCRIPT), str(folder / "disk")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def document(seen_command: dict) -> dict:
    """The one document of a failure with exit code 7, told in one line."""
    assert seen_command["code"] == 7, seen_command
    errors = [x for x in seen_command["stderr"].splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in seen_command["stderr"]
    failed = json.loads(seen_command["stdout"])
    assert failed["ok"] is False
    return failed["error"]


def test_a_full_disk_stops_the_run_and_loses_nothing(seen):
    places = set()
    for found in seen["full"].values():
        error = document(found["stopped"])
        assert (error["id"], error["message"]) == ("RESOURCE", "the disk is full")
        assert error["hint"].startswith("free some space")
        assert {"step-000001", "step-000002"} <= set(found["good"])
        assert found["lost"] == []
        places.add(error["where"].partition("/run-")[2].partition("/")[2])
    # At once, in a later checkpoint, and when all steps are done.
    assert "run.json" in places
    assert len(places) > 2, places


def test_with_room_again_the_run_ends_as_if_nothing_had_been(seen):
    for found in seen["full"].values():
        assert found["resumed"]["code"] == 0, found["resumed"]["stderr"]
        assert found["adapter"] == seen["straight"]
        assert found["left over"] == []


def test_a_trace_without_room_leaves_nothing_behind(seen):
    assert "MiB are free" in document(seen["trace"])["message"]
    assert seen["trace"]["there"] == []


@pytest.mark.parametrize("name", ["train", "resume", "map"])
def test_a_folder_that_may_only_be_read(seen, name):
    error = document(seen["read-only"][name])
    assert error["message"] == "cannot be written: Read-only file system"
    assert error["hint"].startswith("choose another place")


def test_what_only_looks_works_on_a_folder_that_may_only_be_read(seen):
    look, scored = seen["read-only"]["look"], seen["read-only"]["eval"]
    assert (look["code"], look["stderr"]) == (0, "")
    assert look["stdout"].startswith("cut05.act\t")
    assert scored["code"] == 0
    told = json.loads(scored["stdout"])
    assert told["data"]["metrics"]["quantized"]["loss"] > 0
    assert "saved" not in told["data"]
    warning = told["warnings"][-1]
    assert warning.startswith("not kept with the run: ")
