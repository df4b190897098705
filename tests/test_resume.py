"""A run that was killed, stopped or tampered with, then resumed: the same bits, or refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from file_changes import count_into, die_before
from kill_points import QUANTIZERS, forked, leftovers, settings, what_differs
from typer.testing import CliRunner

from amaqctl.build import Built, build
from amaqctl.cli.main import app
from amaqctl.engine.checkpoint_folder import all_checkpoints, fault_of
from amaqctl.engine.identity import differences, weights_digest
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError, ResumeError
from amaqctl.profile import load_profile
from amaqctl.runs import new_run, resumed
from amaqctl.storage import workplace

NUM_STEPS = 4
KILLS_A_QUANTIZER = 8


class Silent:
    """A reporter that says nothing."""

    def on_start(self, first_step: int, max_steps: int) -> None: ...
    def on_step(self, record: dict[str, Any]) -> None: ...
    def on_evaluation(self, record: dict[str, Any]) -> None: ...
    def on_save(self, step: int, folder: Path) -> None: ...


def built(folder: Path, quantizer: str = "amaq", *more: str, num_steps: int = NUM_STEPS) -> Built:
    overrides = [*settings(folder, quantizer, num_steps), "split.cuts=[1]"]
    return build(load_profile("quickstart", [*overrides, "train.micro_batches=1", *more]))


def train(made: Built, out: Path) -> None:
    made.trainer(new_run(made, out, None), Silent()).train()


def go_on(run: Path, *overrides: str) -> RunFolder:
    made, folder, checkpoint = resumed(str(run), overrides)
    made.trainer(folder, Silent()).train(checkpoint)
    return folder


def in_child(work: Callable[[], None], output: Path) -> int:
    """Exit code of a forked process that does ``work``; minus the signal that killed it."""
    pid = forked(work, output)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train_and_count(made: Built, out: Path, counted: Path) -> None:
    count_into(out, counted)
    train(made, out)


def train_and_die(made: Built, out: Path, number: int) -> None:
    """Train, and die by SIGKILL just before change ``number`` (from 1) of a file."""
    die_before(out, number)
    train(made, out)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a fork cannot use its parent's GPU")
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_killed_before_any_change_of_a_file(tmp_path: Path, quantizer: str) -> None:
    """Few points here, evenly spread, others for each quantizer; `kill_points.py` has many."""
    made = built(tmp_path, quantizer)
    straight, output = tmp_path / "straight", tmp_path / "output.txt"
    code = in_child(lambda: train_and_count(made, straight, tmp_path / "count"), output)
    assert code == 0, output.read_text()
    num_changes = int((tmp_path / "count").read_text())
    assert num_changes > 100
    offset = list(QUANTIZERS).index(quantizer) / len(QUANTIZERS)
    for index in range(KILLS_A_QUANTIZER):
        number = 1 + int(num_changes * (index + offset) / KILLS_A_QUANTIZER)
        run = tmp_path / f"killed-{number}"
        assert in_child(lambda n=number, r=run: train_and_die(made, r, n), output) == -9
        if (run / "run.json").exists():
            assert in_child(lambda r=run: go_on(r) and None, output) == 0, output.read_text()
        else:
            assert in_child(lambda r=run: train(made, r), output) == 0, output.read_text()
        assert what_differs(straight, run) == [], f"killed before change {number}"
        assert leftovers(run) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, done; its folder is only read."""
    folder = tmp_path_factory.mktemp("whole")
    train(built(folder), folder / "run")
    return folder / "run"


@pytest.fixture
def unfinished(whole: Path, tmp_path: Path) -> Path:
    """As if killed just after its last checkpoint: status running, no outcome."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("adapter", "quantizer", "bits/final.npz"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    document = json.loads((run / "run.json").read_text())
    for name in ("ended", "exit_code", "result"):
        del document[name]
    (run / "run.json").write_text(json.dumps({**document, "status": "running"}))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["kind"] == "end"
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    return run


def refusal(run: Path, *overrides: str) -> ResumeError:
    with pytest.raises(ResumeError) as caught:
        resumed(str(run), overrides)
    assert caught.value.exit_code == 9
    return caught.value


def change_profile(run: Path, before: str, after: str) -> None:
    text = (run / "profile.yaml").read_text()
    assert before in text
    (run / "profile.yaml").write_text(text.replace(before, after))


def test_killed_after_the_last_checkpoint(unfinished: Path, whole: Path) -> None:
    assert what_differs(whole, unfinished) != []
    folder = go_on(unfinished)
    assert what_differs(whole, unfinished) == []
    assert [r["step"] for r in folder.metrics() if r["kind"] == "resume"] == [4]


def test_a_torn_checkpoint_is_refused_and_the_newest_good_one_named(
    unfinished: Path, whole: Path
) -> None:
    newest = unfinished / "checkpoints" / "step-000004"
    path = newest / "quantizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    before = {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()}
    error = refusal(unfinished)
    assert error.message == ("step-000004 is torn: quantizer.safetensors is not what was written")
    good = unfinished / "checkpoints" / "step-000002"
    assert error.hint == (f"step-000002 is the newest good one: amaqctl train --resume {good}")
    assert {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()} == before
    go_on(good)  # what the hint says
    assert what_differs(whole, unfinished) == []


def test_no_checkpoint_is_whole(unfinished: Path) -> None:
    for path in all_checkpoints(unfinished / "checkpoints"):
        (path / "COMPLETE").unlink()
    error = refusal(unfinished)
    assert "step-000004 is torn: COMPLETE is missing" in error.message
    assert error.hint == (
        f"no other is whole; start again: amaqctl train {unfinished / 'profile.yaml'}"
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("lr: 0.001", "lr: 0.002", "profile.optimizer.lr: 0.001 then, 0.002 now"),
        ("seed: 17", "seed: 18", "seed: 17 then, 18 now"),
        ("target_bits: 3", "target_bits: 4", "options.target_bits: 3.0 then, 4.0 now"),
        ("name: fixed", "name: group", 'link0.gradient.name: "fixed" then, "group" now'),
        ("cuts: [1]", "cuts: [2]", "profile.split.cuts: [1] then, [2] now"),
    ],
)
def test_a_changed_profile_is_refused(unfinished: Path, before: str, after: str, said: str) -> None:
    if before == "name: fixed":
        change_profile(unfinished, "rounding: stochastic", "group_size: 32")
    if before == "cuts: [1]":
        text = (unfinished / "profile.yaml").read_text()
        before = before if before in text else "cuts:\n  - 1\n"
        after = "cuts: [2]\n"
    change_profile(unfinished, before, after)
    error = refusal(unfinished)
    assert said in error.message
    assert "is not of this run" in error.message
    assert error.hint == "bring back what the run was started with"


def test_changed_data_are_refused(unfinished: Path, whole: Path) -> None:
    rows = whole.parent / "rows.jsonl"
    text = rows.read_text()
    try:
        rows.write_text(text.replace("What is 3", "What was 3"))
        error = refusal(unfinished)
    finally:
        rows.write_text(text)
    assert "data.fingerprint: " in error.message


def test_a_checkpoint_of_another_run_is_refused(unfinished: Path, whole: Path) -> None:
    newest = unfinished / "checkpoints" / "step-000004"
    shutil.rmtree(newest)
    other = whole.parent / "other"
    if not other.exists():
        train(built(whole.parent, "group"), other)
    shutil.copytree(other / "checkpoints" / "step-000004", newest)
    assert fault_of(newest) is None
    error = refusal(unfinished)
    assert 'link0.activation.name: "group" then, "amaq" now' in error.message
    assert "step-000002 is the newest good one" in (error.hint or "")
    go_on(unfinished / "checkpoints" / "step-000002")
    assert what_differs(whole, unfinished) == []


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    one, same, other = built(tmp_path), built(tmp_path), built(tmp_path)
    weight = next(p for p in other.engine.stages[1].model.parameters() if not p.requires_grad)
    with torch.no_grad():
        weight.mul_(1.5)
    digests = [weights_digest(made.engine.stages) for made in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_other_programs_are_warned_of(unfinished: Path, whole: Path) -> None:
    path = unfinished / "environment.json"
    document = json.loads(path.read_text())
    document["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(document))
    said: list[str] = []
    _, folder, checkpoint = resumed(str(unfinished), [], said.append)
    folder.unlock()
    assert checkpoint is not None
    assert [line.split(" now")[0] for line in said] == [
        f'packages.torch: "1.0" then, "{version("torch")}"'
    ]


def test_a_run_that_another_process_writes_is_refused(unfinished: Path, whole: Path) -> None:
    ready = unfinished.parent / "ready"

    def hold() -> None:
        folder = RunFolder(unfinished)
        folder.lock()
        folder.update(pid=os.getpid())
        ready.touch()
        time.sleep(60)

    pid = forked(hold, unfinished.parent / "output.txt")
    try:
        while not ready.exists():
            time.sleep(0.01)
        error = refusal(unfinished)
        assert error.message == f"process {pid} is writing here"
        assert error.error_id == "RESUME-BUSY"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    go_on(unfinished)  # a dead process holds nothing
    assert what_differs(whole, unfinished) == []


def test_what_a_killed_process_left_is_cleared_away(unfinished: Path, whole: Path) -> None:
    half = unfinished / "checkpoints" / ".tmp-step-000006" / "adapter"
    half.mkdir(parents=True)
    (half / "x").touch()
    (unfinished / ".adapter-0123").mkdir()
    (unfinished / "bits" / ".tmp-step-000006.npz").touch()
    (unfinished / "eval").mkdir()
    at_work = unfinished / "eval" / ".tmp-of-another-process"
    at_work.touch()
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    go_on(unfinished)
    assert leftovers(unfinished) == [at_work]
    at_work.unlink()
    assert what_differs(whole, unfinished) == []
    for line in (unfinished / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_readers_take_the_last_record_and_a_resume_takes_back(tmp_path: Path) -> None:
    folder = RunFolder.create("r", tmp_path, tmp_path / "run", "", {})
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0)):
        folder.record("train", step, loss=loss)
    folder.record("resume", 1, checkpoint="step-000001")
    folder.record("train", 2, loss=20.0)
    folder.record("train", 2, loss=21.0)
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "train", "step": 3\xff')
    told = [(r["kind"], r["step"], r.get("loss")) for r in folder.metrics()]
    assert told == [("train", 1, 1.0), ("resume", 1, None), ("train", 2, 21.0)]


def test_a_folder_whose_making_was_cut_short_is_free(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile.yaml").write_text("mine: 1")
    with pytest.raises(InputError, match="never overwritten"):
        RunFolder.create("r", tmp_path, tmp_path / "run", "a: 1", {})
    (tmp_path / "run" / ".tmp-created").touch()
    folder = RunFolder.create("r", tmp_path, tmp_path / "run", "a: 1", {})
    names = ["environment.json", "profile.yaml", "run.json"]
    assert sorted(p.name for p in folder.path.iterdir()) == names


def test_more_steps_are_remembered(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    assert refusal(run).message == "the run is complete: it has 4 steps"
    assert go_on(run, "train.max_steps=6").run["result"]["steps"] == 6
    shutil.rmtree(run / "checkpoints" / "step-000006")
    again = go_on(run)  # six, without being told again
    assert again.run["result"]["steps"] == 6
    assert [r["step"] for r in again.metrics() if r["kind"] == "train"] == list(range(1, 7))


def test_stopped_off_the_grid_and_told_to_end_there(whole: Path, tmp_path: Path) -> None:
    made = built(whole.parent)
    run = new_run(made, tmp_path / "run", None)

    class Stopper(Silent):
        def on_step(self, record: dict[str, Any]) -> None:
            if record["step"] == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Exception, match="stopped by SIGINT after step 3") as caught:
        made.trainer(run, Stopper()).train()
    assert caught.value.hint == f"go on with: amaqctl train --resume {run.path}"
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    result = go_on(copy, "train.max_steps=3").run["result"]
    assert result["steps"] == 3
    assert result["loss_after"] > 0
    go_on(run.path)
    for name in ("adapter/adapter_model.safetensors", "quantizer/quantizer.safetensors"):
        assert (run.path / name).read_bytes() == (whole / name).read_bytes()
    records = [RunFolder(p).metrics() for p in (whole, run.path)]
    losses = [[(r["step"], r["loss"]) for r in rs if r["kind"] == "train"] for rs in records]
    assert losses[0] == losses[1]


def long_steps(folder: Path) -> list[str]:
    """Arguments of a run whose steps take long enough to send a second signal."""
    changes = ("model.id=tiny", "train.batch_size=400", "train.micro_batches=400", "eval.every=999")
    sets = [part for item in (*changes, "eval.max_examples=1") for part in ("--set", item)]
    return ["train", "quickstart", *sets, "--max-steps", "999", "--out", str(folder), "--quiet"]


@contextmanager
def amaqctl_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The real command in a process that minds SIGINT, as one at a terminal does."""
    with subprocess.Popen(
        [sys.executable, "-c", "from amaqctl.cli.main import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_training(run: Path, process: subprocess.Popen[str]) -> None:
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    with amaqctl_process(*long_steps(run)) as process:
        wait_for_training(run, process)
        process.send_signal(number)
        time.sleep(0.3)  # two at the same moment would count as one
        process.send_signal(number)
        _, error = process.communicate(timeout=100)
    assert process.returncode == 128 + number, error
    assert "stopped at once; what was saved before is whole" in error
    document = json.loads((run / "run.json").read_text())
    assert (document["status"], document["exit_code"]) == ("interrupted", 128 + number)
    assert all_checkpoints(run / "checkpoints") == []


def test_a_signal_to_the_real_command_saves_and_the_run_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changes = [*settings(whole.parent, "amaq", 400), "checkpoint.every=400", "eval.every=400"]
    sets = [part for item in changes for part in ("--set", item)]
    with amaqctl_process("train", "quickstart", *sets, "--out", str(run), "--json") as process:
        wait_for_training(run, process)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 143, stderr
    error = json.loads(stdout)["error"]
    assert error["id"] == "INTERRUPTED"
    assert error["hint"] == f"go on with: amaqctl train --resume {run}"
    (saved,) = all_checkpoints(run / "checkpoints")
    assert fault_of(saved) is None
    step = int(saved.name[5:])
    done = CliRunner().invoke(
        app, ["train", "--resume", str(run), "--max-steps", str(step + 1), "--json"]
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["data"]["steps"] == step + 1


def no_heavy_imports(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which fails if torch was imported."""
    program = (
        "import sys\n"
        "from amaqctl.cli.main import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "finally:\n    assert 'torch' not in sys.modules\n"
    )
    argv = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True)


def test_a_key_of_a_later_version_that_is_null_does_as_without() -> None:
    then = {"profile": {"model": {"id": "tiny", "revision": None}}}
    now = {"profile": {"model": {"id": "tiny", "revision": None, "base_bits": None}}}
    assert differences(then, now) == differences(now, then) == []
    now["profile"]["model"]["base_bits"] = 8
    assert differences(then, now) == ["profile.model.base_bits: absent then, 8 now"]


def test_a_run_killed_at_its_very_end_is_swept_as_it_is_refused(
    whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = sorted(p.name for p in run.iterdir())
    (run / f"{workplace._own_prefix()}dead-run.json").mkdir()
    assert no_heavy_imports("train", "--resume", run).returncode == 9
    assert sorted(p.name for p in run.iterdir()) == before


def test_a_complete_run_is_told_before_torch_is_imported(whole: Path) -> None:
    done = no_heavy_imports("train", "--resume", whole)
    assert done.returncode == 9
    assert "the run is complete: it has 4 steps" in done.stderr
    done = no_heavy_imports("train", "--resume", whole, "--max-steps", "3")
    assert "the checkpoint already has 4 steps" in done.stderr


@pytest.mark.parametrize(
    "lost, message",
    [
        (("checkpoints",), "its checkpoints are gone; the last was of step 4"),
        (("checkpoints", "metrics.jsonl"), "its checkpoints and metrics are gone"),
        (("metrics.jsonl",), "holds no step of training, and there is step-000004"),
    ],
)
def test_a_trained_run_that_lost_what_it_had_does_not_start_over(
    whole: Path, tmp_path: Path, lost: tuple[str, ...], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in lost:
        if (run / name).is_dir():
            for checkpoint in all_checkpoints(run / name):
                shutil.rmtree(checkpoint)
        else:
            (run / name).unlink()
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    error = refusal(run, "train.max_steps=6")
    assert (error.exit_code, error.error_id) == (9, "RESUME-LOST")
    assert message in error.message
    assert "start anew: amaqctl train" in str(error.hint)
    done = no_heavy_imports("train", "--resume", run, "--max-steps", "6")
    assert (done.returncode, message in done.stderr) == (9, True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == kept


def test_an_emptied_log_of_metrics_is_a_lost_one(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "metrics.jsonl").write_text("")
    assert refusal(run, "train.max_steps=6").error_id == "RESUME-LOST"


def test_going_on_from_an_older_checkpoint_is_told(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    said: list[str] = []
    _, folder, checkpoint = resumed(str(run), [], said.append)
    folder.unlock()
    assert checkpoint is not None
    assert said == [f"the checkpoint of step 4 is gone; {checkpoint.name} is the newest there is"]


def test_data_that_fill_no_batch_leave_no_run(tmp_path: Path) -> None:
    made = built(tmp_path, "amaq", "train.batch_size=500")
    with pytest.raises(InputError, match="do not fill one batch of 500"):
        new_run(made, tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
