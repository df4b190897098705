"""`runs`: the list and one run in full, and what has become of runs that say they are running."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from finished_runs import MIB, make_run
from screens import WIDTHS, be_terminal, check_snapshot, plain_screen
from typer.testing import CliRunner

from amaqctl.cli.list_runs import age_text
from amaqctl.cli.main import app

AMAQ = {"name": "amaq", "options": {"target_bits": 4}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    plain_screen(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def run(*arguments: str):
    return CliRunner().invoke(app, ["runs", *arguments], catch_exceptions=False)


def dead_process() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.fixture
def four(folder) -> Path:
    score = {"accuracy_after": 0.75}
    make_run(folder / "quickstart-20261122T002046Z-31f5", activation=AMAQ, result=score)
    hours = timedelta(hours=1, minutes=5)
    here = {"pid": os.getpid()}
    make_run(folder / "now", activation=AMAQ, status="running", facts=here, age=hours)
    gone = {"pid": dead_process()}
    make_run(
        folder / "killed", activation=AMAQ, status="running", facts=gone, age=timedelta(days=2.5)
    )
    make_run(folder / "stopped", activation=AMAQ, status="interrupted", age=timedelta(days=9))
    return folder


def test_the_list_is_newest_first_with_what_is_so_far(four):
    result = run("--json")
    document = json.loads(result.stdout)
    assert (document["schema"], document["ok"]) == ("amaqctl.runs/1", True)
    found = document["data"]["runs"]
    assert [Path(entry["run"]).name for entry in found] == [
        "now",
        "quickstart-20261122T002046Z-31f5",
        "killed",
        "stopped",
    ]
    assert [entry["status"] for entry in found] == ["running", "done", "lost", "interrupted"]
    now, done = found[:2]
    assert (now["steps"], now["max_steps"], now["loss"]) == (40, 60, pytest.approx(2.7))
    assert now["wire_bytes"] == 2 * round(50 * MIB / 3)
    assert (done["steps"], done["max_steps"], done["loss"]) == (60, 60, 2.5)
    assert (done["wire_bytes"], done["id"]) == (50 * MIB, "31f5")
    assert 3900 <= now["age_seconds"] < 4000


def test_a_pipe_is_as_it_was(four):
    result = run()
    assert result.stderr == ""
    check_snapshot("runs-list-pipe", result.stdout)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_terminal_loses_whole_columns(four, width, monkeypatch):
    be_terminal(monkeypatch, width)
    result = run()
    assert max(len(line) for line in result.stdout.splitlines()) <= width
    assert ("columns left out for width: " in result.stderr) == (width == 60)
    check_snapshot(f"runs-list-{width}", result.stdout)


def test_one_in_full(four, monkeypatch):
    saved = four / "quickstart-20261122T002046Z-31f5"
    for name in ("checkpoints/step-000050", "checkpoints/step-000060", "checkpoints/.tmp-step-1"):
        (saved / name).mkdir(parents=True)
    (saved / "checkpoints/step-000060/COMPLETE").write_text("{}")
    result = run("31f5")
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["loss"] == "5.0000 before, 2.5000 after"
    assert lines["checkpoints"] == "step-000060"
    assert lines["accuracy"] == "0.7500"
    assert lines["adapter"] == "not written yet"
    assert "next" not in lines
    data = json.loads(run("31f5", "--json").stdout)["data"]
    assert data["details"]["result"]["wire_bytes"] == 50 * MIB
    assert data["quantizers"]["activation"] == AMAQ
    assert (data["seed"], data["cuts"], data["model"]) == (17, [3], "tiny")
    assert run("31f5", "-q").stdout == "runs/quickstart-20261122T002046Z-31f5\n"


def test_one_in_full_is_as_it_was(four):
    lines = run("killed").stdout.splitlines()
    status = next(i for i, line in enumerate(lines) if line.startswith("status"))
    assert lines[status].startswith("status       lost, started 2 d ago (20")
    lines[status] = lines[status].partition(" (")[0]
    assert lines[-1] == "next         amaqctl train --resume runs/killed"
    check_snapshot("runs-one-pipe", "\n".join(lines) + "\n")


def test_a_number_that_another_process_got_is_lost(folder):
    path = make_run(folder / "old", activation=AMAQ, status="running", facts={"pid": os.getpid()})
    assert run().stdout.split("\n")[1].split("\t")[1] == "running"
    before = psutil.Process().create_time() - 3600
    os.utime(path / "run.json", (before, before))
    assert run().stdout.split("\n")[1].split("\t")[1] == "lost"


def test_a_finished_run_that_goes_on_shows_how_far_it_is(folder):
    path = make_run(folder / "longer", activation=AMAQ)
    facts = json.loads((path / "run.json").read_text())
    facts |= {"status": "running", "pid": os.getpid(), "max_steps": 90}
    (path / "run.json").write_text(json.dumps(facts))
    record = {"kind": "train", "step": 70, "wire/total_bytes": MIB}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    (entry,) = json.loads(run("--json").stdout)["data"]["runs"]
    assert (entry["steps"], entry["max_steps"]) == (70, 90)
    assert entry["wire_bytes"] == 3 * round(50 * MIB / 3) + MIB
    assert "activation bits" not in run("longer").stdout


def test_without_a_process_a_run_is_believed(folder):
    make_run(folder / "old", activation=AMAQ, status="running")
    assert json.loads(run("--json").stdout)["data"]["runs"][0]["status"] == "running"


def test_a_root_of_ones_own(tmp_path):
    make_run(tmp_path / "elsewhere" / "mine", activation=AMAQ)
    assert run("-q").stdout == "\n"
    assert "there is no run in runs" in run().stderr
    assert run("--root", "elsewhere", "-q").stdout == "elsewhere/mine\n"
    assert run("mine", "--root", "elsewhere", "-q").stdout == "elsewhere/mine\n"


def test_mistakes_and_damage(four):
    for arguments in (["nowhere"], ["--root", "nowhere"]):
        result = run(*arguments, "--json")
        assert result.exit_code == 4
        assert json.loads(result.stdout)["error"]["id"] == "INPUT-RUN"
    (four / "stopped" / "run.json").write_text("{")
    (four / "killed" / "profile.yaml").write_text("amaqctl: 2")
    document = json.loads(run("--json").stdout)
    assert [entry["max_steps"] for entry in document["data"]["runs"]] == [60, 60, None]
    (warning,) = document["warnings"]
    assert warning.startswith("runs/stopped: not a run folder: no readable run.json (cannot be ")
    assert run("killed").exit_code == 3
    assert run("stopped").exit_code == 4


def test_ages():
    ages = [age_text(seconds) for seconds in (0, 59.9, 60, 3599, 3600, 86399, 86400, 9e6)]
    assert ages == ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "104 d"]


def test_no_torch_is_needed(four):
    code = (
        "import sys\n"
        "from amaqctl.cli.main import app\n"
        "try:\n    app(['runs'])\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_damaged_run_does_not_hide_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("deep", "[" * 200_000),
        ("list", "[]"),
        ("pid", '{"schema": "amaqctl.run/1", "pid": -1}'),
        ("good", '{"schema": "amaqctl.run/1", "status": "done", "started": null}'),
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(text)
    metrics = tmp_path / "runs/metrics"
    metrics.mkdir()
    (metrics / "run.json").write_text('{"schema": "amaqctl.run/1", "status": "running"}')
    (metrics / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": "x"}\n' * 2)
    result = CliRunner().invoke(app, ["runs"])
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["run", "good"]
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 4
