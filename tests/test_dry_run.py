"""`train --dry-run`: the first step's bytes exactly, the run's nearly, and no trace left.

To renew the expected screen after a change that was meant:
``AMAQCTL_UPDATE_SNAPSHOTS=1 pytest tests/test_dry_run.py``, then read the difference.
"""

import json
import os
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from amaqctl.cli.main import app
from amaqctl.forecast import machine
from amaqctl.forecast.data_order import DataOrder
from amaqctl.forecast.wire import sampled_steps

SNAPSHOT = Path(__file__).parent / "snapshots" / "dry-run-80.txt"

# 30 examples in batches of 4: a sample left out of one epoch comes for the first time in another.
SHORT = [
    "--set", "model.id=tiny", "--set", "task.options={num_train: 30, num_validation: 6}",
    "--set", "train.batch_size=4", "--set", "eval.max_examples=4", "--set", "eval.every=99",
    "--set", "checkpoint.every=9", "--max-steps", "18",
]  # fmt: skip
NEAR = 0.1


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def both(tmp_path: Path, *arguments: str) -> tuple[dict, dict, Path]:
    """The forecast, the result of the run it speaks of, and that run."""
    dry = run("train", *arguments, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.stderr
    document = json.loads(dry.stdout)
    assert (document["schema"], document["ok"]) == ("amaqctl.dry-run/1", True)
    real = run("train", *arguments, "--out", str(tmp_path / "run"), "--json")
    assert real.exit_code == 0, real.stderr
    return document["data"], json.loads(real.stdout)["data"], tmp_path / "run"


def first_step(folder: Path) -> dict:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(r for r in records if r["kind"] == "train" and r["step"] == 1)


def check_bytes(dry: dict, real: dict, folder: Path) -> None:
    first = first_step(folder)
    assert dry["first_step"]["bytes"] == first["wire/total_bytes"]
    for channel in dry["channels"]:
        place = f"wire/{channel['link']}/{channel['role']}"
        assert channel["first_step_bytes"] == first[f"{place}_bytes"]
        assert channel["first_step_bits"] == first[f"{place}_bits_a_value"]
    assert dry["forecast"]["run_values"] == real["wire_values"]
    assert dry["forecast"]["run_bytes"] == pytest.approx(real["wire_bytes"], rel=NEAR)
    for role in ("activation", "gradient"):
        forecast_bits = dry["forecast"][f"{role}_bits_at_end"]
        assert forecast_bits == pytest.approx(real[f"{role}_bits_at_end"], rel=NEAR)


def largest_checkpoint(folder: Path) -> int:
    return max(
        sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
        for checkpoint in (folder / "checkpoints").iterdir()
    )


@pytest.mark.parametrize("method", ["none", "fixed", "group", "aq-sgd", "amaq", "amaq-paper"])
def test_the_first_step_is_exact_and_the_run_is_near(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    dry, real, folder = both(tmp_path, f"words-{method}", *SHORT)
    check_bytes(dry, real, folder)
    assert dry["loss_before"] == real["loss_before"]
    disk = dry["disk"]
    assert disk["checkpoint_bytes"] == pytest.approx(largest_checkpoint(folder), rel=NEAR)
    assert disk["num_checkpoints"] == 2
    whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert whole <= disk["needed_bytes"] - disk["state_bytes"] <= 2 * whole
    assert (disk["state_bytes"] > 0) == (method == "aq-sgd")


def test_lengths_cuts_and_micro_batches_that_differ(tmp_path, monkeypatch):
    """Steps of 32 to 128 positions, two links, and a schedule that falls over half the run."""
    monkeypatch.chdir(tmp_path)
    rows = [{"q": "a" * (1 + 37 * i % 100), "a": f"{i}."} for i in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = "{name: prompt-completion, options: {train: rows.jsonl, prompt: q, completion: a}}"
    amaq = "{name: amaq, options: {target_bits: 3, fall: 0.5}}"
    dry, real, folder = both(
        tmp_path, "quickstart", "--max-steps", "24", "--set", f"task={task}",
        "--set", "model.id=tiny", "--set", "split.cuts=[2,5]", "--set", "train.micro_batches=2",
        "--set", f"quantizers.activation={amaq}", "--set", "eval.max_examples=2",
    )  # fmt: skip
    assert [(c["link"], c["role"]) for c in dry["channels"]] == [
        (0, "activation"), (0, "gradient"), (1, "activation"), (1, "gradient"),
    ]  # fmt: skip
    check_bytes(dry, real, folder)
    assert dry["cuts"] == [2, 5]
    assert [s["holds"] for s in dry["stages"]] == ["tokens", None, "labels"]


def test_a_run_of_one_step_is_exact_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dry, real, _ = both(tmp_path, "words-amaq", *SHORT, "--max-steps", "1")
    assert dry["forecast"]["run_bytes"] == real["wire_bytes"]
    assert dry["forecast"]["activation_bits_at_end"] == real["activation_bits_at_end"]


def test_who_holds_what_and_which_tokens_carry_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"q": "How many?", "a": f"{i}\n"} for i in range(10)] + [{"q": "x" * 99, "a": "."}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = "{name: prompt-completion, options: {train: rows.jsonl, validation: rows.jsonl, "
    task += "prompt: q, completion: a}}"
    arguments = ["train", "quickstart", "--set", "model.id=tiny", "--set", f"task={task}"]
    arguments += ["--set", "train.max_length=40", "--set", "eval.max_examples=2", "--max-steps"]
    result = run(*arguments, "2", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)["data"]
    # q_proj 32 x 32 and v_proj 32 x 16, rank 8: 896 a block; the gates are set, not trained.
    assert [stage["trainable"] for stage in data["stages"]] == [5 * 896, 3 * 896]
    assert [(s["first_block"], s["last_block"]) for s in data["stages"]] == [(1, 5), (6, 8)]
    assert all(s["bytes"] > 2 * s["parameters"] for s in data["stages"])
    facts = data["data"]
    assert facts["num_train"] == 10
    assert sum(facts["num_dropped"].values()) == 2
    assert [piece["carries_loss"] for piece in facts["pieces"]] == [False, True]
    assert facts["pieces"][0]["text"].startswith("How many?")
    assert re.match(r"\s*\d\n", facts["pieces"][1]["text"])
    marked = facts["num_loss_tokens"] / facts["num_tokens"]
    assert facts["loss_share"] == marked
    assert 0 < marked < 0.5
    shown = run(*arguments, "2", "--dry-run").stdout
    assert re.search(r"How many\?.*\[ ?\d\\n.*\]", shown)
    assert list(Path().iterdir()) == [Path("rows.jsonl")]


def masked(screen: str) -> str:
    """The screen with what changes from machine to machine as #."""
    volatile = re.compile(r"^(time|memory|disk| +checkpoints)")
    return "".join(
        re.sub(r"\d[\d:.,]*", "#", line).replace("GiB", "MiB") if volatile.match(line) else line
        for line in screen.splitlines(keepends=True)
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's memory has a line of its own")
@pytest.mark.parametrize("width", [60, 80])
def test_the_screen_fits_and_is_as_it_was(tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("train", "words-amaq", *SHORT, "--dry-run")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if "--set" not in line) <= width
    assert ("left out for width" in result.stderr) == (width == 60)
    assert not list(tmp_path.iterdir())
    if width != 80:
        return
    if os.environ.get("AMAQCTL_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(masked(result.stdout), "utf-8")
    assert masked(result.stdout) == SNAPSHOT.read_text("utf-8")


def test_quiet_is_the_bytes_of_the_run_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", "words-fixed", *SHORT, "--max-steps", "4", "--dry-run", "-q")
    assert result.exit_code == 0
    assert int(result.stdout) > 0
    assert result.stderr == ""


MISTAKES = [
    (["quickstart", "--set", "model.id=tiny", "--set", "lora.alhpa=3"], 3, "did you mean 'alpha'?"),
    (
        [
            "quickstart",
            "--set=model.id=tiny",
            "--set=model.dtype=float16",
            "--set=optimizer.lr=1e6",
        ],
        6,
        "NaN or infinity",
    ),
    (["words-fixed", *SHORT, "--set", "train.batch_size=31"], 4, "do not fill one batch"),
    (["words-fixed", *SHORT, "--out", "taken"], 4, "never overwritten"),
    (["--resume", "taken"], 2, "--dry-run goes with a profile"),
    ([], 2, "give a profile"),
    (["quickstart", "--set", "model.id=tiny", "--set", "task={name: prompt-completion, options: "
      "{train: blank.jsonl, prompt: q, completion: a}}"], 4, "blank.jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "said"), MISTAKES)
def test_faults_end_it_as_they_end_training(tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    (tmp_path / "blank.jsonl").write_text('{"q": "How many?", "a": ""}\n' * 9)
    result = run("train", *arguments, "--dry-run", "--json")
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    document = json.loads(result.stdout)
    assert (document["schema"], document["ok"]) == ("amaqctl.dry-run/1", False)
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "blank.jsonl"}


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    """A dry run warns; training refuses what cannot even save once, and makes nothing."""
    monkeypatch.chdir(tmp_path)
    full = SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(machine, "shutil", full)  # a really full disk needs root
    dry = run("train", "words-fixed", *SHORT, "--max-steps", "2", "--dry-run", "--json")
    assert dry.exit_code == 0
    document = json.loads(dry.stdout)
    assert document["data"]["disk"]["is_enough"] is False
    assert "of disk, and 0.00 MiB are free" in document["warnings"][0]
    refused = run("train", "words-fixed", *SHORT, "--json")
    assert refused.exit_code == 7
    assert json.loads(refused.stdout)["error"]["id"] == "RESOURCE-DISK"
    assert not list(tmp_path.iterdir())


def test_a_long_run_is_measured_where_it_changes():
    steps_S, ones_S = np.arange(10_000), np.ones(10_000)
    visits_S = 1.0 * (steps_S < 700)
    order = DataOrder(10_000, 10_000, steps_S, ones_S, 512 * ones_S, visits_S, {}, 0, 700)
    steps = sampled_steps(order, 4)
    assert steps[0] == 4
    assert steps[-1] == 9999
    assert {699, 700} <= set(steps)
    assert len(steps) <= 26
    assert max(b - a for a, b in pairwise(steps)) <= 910
