"""Links, pipes and devices in a run folder, what the umask says, and a run made longer."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from run_files import NEWEST, amaqctl, failure, refused_resume, state

from amaqctl.engine.run_folder import RunFolder


def test_files_are_readable_as_the_umask_says(finished_run: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for more in ([], ["--merge"]):
            target = tmp_path / f"export{len(more)}"
            assert amaqctl("export", finished_run, "--to", target, *more).exit_code == 0
    finally:
        os.umask(before)
    found = [path for top in (finished_run, tmp_path) for path in top.rglob("*") if path.is_file()]
    assert len([path for path in found if path.suffix == ".safetensors"]) >= 10
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o644}


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.jsonl", "log.txt", "run.json", "environment.json"),
        *("checkpoints", "bits", "quantizer", "adapter"),
        *("checkpoints/step-000002", "bits/final.npz"),
    ],
)
def test_nothing_is_written_through_a_link(run: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / name).rename(elsewhere / "x")
    (run / name).symlink_to(elsewhere / "x")
    if name.endswith(".jsonl"):
        with (elsewhere / "x").open("a") as file:
            file.write("a line without an end")
    before = state(elsewhere)
    error = refused_resume(run)
    assert error["id"] == "RESUME-LINK"
    assert error["where"] == str(run / name)
    assert state(elsewhere) == before


def test_a_second_name_of_what_grows_is_a_link_too(run: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.jsonl").hardlink_to(run / "metrics.jsonl")
    assert refused_resume(run)["where"] == str(run / "metrics.jsonl")
    (tmp_path / "copy.jsonl").unlink()
    assert amaqctl("train", "--resume", run, "--max-steps", 5).exit_code == 0


def test_the_folder_itself_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    assert amaqctl("train", "--resume", tmp_path / "link", "--max-steps", 5).exit_code == 0


def test_an_evaluation_is_not_kept_through_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "eval").symlink_to(tmp_path / "elsewhere")
    result = amaqctl("eval", run, "--limit", 1, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert "saved" not in document["data"]
    warning = document["warnings"][-1]
    assert warning.startswith(f"not kept with the run: {run}/eval: a link")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_log_that_no_run_wrote_is_refused_at_once(run: Path) -> None:
    os.truncate(run / "log.txt", 2 << 40)  # holes, at no cost
    before = (run / "run.json").read_bytes()
    error = failure(9, "train", "--resume", run, "--max-steps", 6)
    assert error["message"] == "log.txt has no line end in its last MiB, so no run wrote it"
    assert (error["where"], error["hint"]) == (str(run), "move log.txt away")
    assert (run / "run.json").read_bytes() == before
    (run / "log.txt").unlink()
    assert amaqctl("train", "--resume", run, "--max-steps", 6).exit_code == 0


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    ("name", "code", "command"),
    [
        ("run.json", 4, ["runs", "RUN"]),
        ("run.json", 4, ["train", "--resume", "RUN"]),
        ("metrics.jsonl", 4, ["eval", "RUN"]),
        ("quantizer/options.json", 4, ["compare", "RUN", "OTHER"]),
        ("bits/final.npz", 4, ["inspect-bits", "RUN"]),
        ("bits/final.npz", 4, ["inspect-bits", "RUN", "--why"]),
        (f"{NEWEST}/COMPLETE", 9, ["train", "--resume", "RUN", "--max-steps", "6"]),
        (f"{NEWEST}/trainer.json", 9, ["train", "--resume", "RUN", "--max-steps", "6"]),
        (f"{NEWEST}/quantizer.safetensors", 9, ["train", "--resume", "RUN", "--max-steps", "6"]),
    ],
)
def test_a_pipe_or_a_device_in_place_of_a_file_is_refused(
    run: Path,
    finished_run: Path,
    tmp_path: Path,
    kind: str,
    name: str,
    code: int,
    command: list[str],
) -> None:
    (run / name).unlink()
    if kind == "pipe":
        os.mkfifo(run / name)
    else:
        (run / name).symlink_to("/dev/zero")
    shutil.copytree(finished_run, tmp_path / "other")
    places = {"RUN": str(run), "OTHER": str(tmp_path / "other")}
    error = failure(code, *(places.get(word, word) for word in command))
    assert "no regular file" in error["message"] or code == 9


def test_a_pipe_in_place_of_a_file_that_grows_is_refused(run: Path) -> None:
    (run / "log.txt").unlink()
    os.mkfifo(run / "log.txt")
    error = failure(9, "train", "--resume", run, "--max-steps", 6)
    assert (error["id"], error["where"]) == ("RESUME-LINK", str(run / "log.txt"))
    assert error["message"].startswith("no regular file; what is written here")
    assert error["hint"] == "move it away"


def test_a_linear_run_made_longer_says_what_its_learning_rate_does(run: Path) -> None:
    records = {r["step"]: r["lr"] for r in RunFolder(run).metrics() if r["kind"] == "train"}
    assert [records[step] for step in (1, 2, 3, 4)] == pytest.approx(
        [0.001, 0.00075, 0.0005, 0.00025]
    )
    result = amaqctl("train", "--resume", run, "--max-steps", 10, "--json")
    assert result.exit_code == 0, result.stderr
    said = (
        "the linear schedule now ends at step 10, no longer at 4: the learning rate goes on at "
        "0.0006 after 0.00025"
    )
    assert said in json.loads(result.stdout)["warnings"]
    folder = RunFolder(run)
    assert folder.run["max_steps"] == 10
    assert folder.run["max_steps_changes"] == [{"step": 4, "before": 4, "now": 10}]
    rates = {r["step"]: r["lr"] for r in folder.metrics() if r["kind"] == "train"}
    assert (rates[4], rates[5]) == pytest.approx((0.00025, 0.0006))
    lines = amaqctl("runs", run).stdout.splitlines()
    assert ["steps", "10 of 10, 4 until step 4"] in [line.split(maxsplit=1) for line in lines]


def test_a_run_made_longer_is_no_equal_of_one_that_was_so_long(
    run: Path, finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "other")
    for folder in (run, tmp_path / "other"):
        assert amaqctl("train", "--resume", folder, "--max-steps", 5).exit_code == 0
    document = json.loads((run / "run.json").read_text())
    del document["max_steps_changes"]
    (run / "run.json").write_text(json.dumps(document))
    assert "max_steps_changes" in failure(4, "compare", run, tmp_path / "other")["message"]
