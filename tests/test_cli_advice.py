"""Commands that are advised run as they are printed, whatever is in a path."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaqctl.cli.main import app
from amaqctl.engine.advice import advised

ADVICE = re.compile(r"(?:^next +|: |^hint: )(amaqctl .*)$", re.M)
TINY = ["--set", "model.id=tiny", "--set", "eval.max_examples=4", "--set", "train.batch_size=2"]
TRAIN = ["train", "quickstart", *TINY, "--max-steps", "2", "--set", "checkpoint.every=1"]


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def follow(result, starts: str) -> None:
    """Type the one command that is advised."""
    (command,) = ADVICE.findall(result.stdout + "\n" + result.stderr)
    assert command.startswith(f"amaqctl {starts}"), command
    run(*shlex.split(command)[1:])


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "it's a place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


OUTPUTS = [
    [],
    ["--out", "r"],
    ["--out", "a b/it's"],
    ["--out=-dash"],
    ["--set", "output.root=other place"],
    ["--out", "runs/under-runs"],
]


@pytest.mark.parametrize("output", OUTPUTS, ids=" ".join)
def test_after_training(output):
    follow(run(*TRAIN, *output), "eval ")


def test_an_id_is_advised_only_where_it_finds_the_run(place):
    first = run(*TRAIN)
    assert re.search(r"^next +amaqctl eval [0-9a-f]{4} --boundary both$", first.stdout, re.M)
    assert "amaqctl eval runs/a --boundary both" in run(*TRAIN, "--out", "runs/a").stdout
    other = run(*TRAIN, "--out", str(place / "b"))
    assert f"amaqctl eval {shlex.quote(str(place / 'b'))} --boundary both" in other.stdout


@pytest.mark.parametrize("output", [*OUTPUTS[:4], ["--name", "a b"]], ids=" ".join)
def test_after_a_dry_run(output, place):
    follow(run(*TRAIN, "--dry-run", *output), "train ")
    if output[:1] == ["--name"]:
        assert list(place.glob("runs/a b-*"))


def test_after_recording():
    record = ["compress-trace", "--record", "quickstart", *TINY, "--steps", "1"]
    follow(run(*record, "--out", "it's.trace"), "compress-trace ")


def test_a_run_without_a_trace():
    run(*TRAIN, "--out", "a b")
    result = run("compress-trace", "a b", code=4)
    follow(result, "compress-trace --record ")
    run("compress-trace", "a b", "-q", "group:bits=4")


def test_a_stopped_run(monkeypatch):
    from amaqctl.engine.engine import Engine

    step = Engine.train_step

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_step", interrupted)
        result = run(*TRAIN, "--out", "it's", code=130)
    shown = run("runs", "it's")
    follow(result, "train --resume ")
    shutil.rmtree("it's")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_step", interrupted)
        run(*TRAIN, "--out", "it's", code=130)
    follow(shown, "train --resume ")


def test_a_torn_checkpoint(place):
    run(*TRAIN, "--out", "a b")
    (place / "a b/checkpoints/step-000002/trainer.json").write_text("torn")
    result = run("train", "--resume", "a b", code=9)
    follow(result, "train --resume ")


def test_no_checkpoint_that_is_whole(place):
    run(*TRAIN, "--out", "a b")
    for path in place.glob("a b/checkpoints/*/trainer.json"):
        path.write_text("torn")
    follow(run("train", "--resume", "a b", code=9), "train ")


def test_a_wrong_option_of_a_quantizer():
    run("compress-trace", "--record", "quickstart", *TINY, "--steps", "1", "--out", "t")
    follow(run("compress-trace", "t", "-q", "group:bitz=3", code=2), "plugins group")


@pytest.mark.parametrize("arguments", [["train"], ["train", "--bogus"], ["profile", "shwo"]])
def test_a_command_that_is_typed_wrongly(arguments):
    follow(run(*arguments, code=2), "")


def test_an_empty_folder_of_runs_advises_nothing_that_would_not_fill_it(place):
    (place / "empty").mkdir()
    assert "amaqctl" not in run("runs", "--root", "empty").stderr
    assert "amaqctl train quickstart makes one" in run("runs").stderr


def test_words_are_quoted_where_a_shell_needs_it():
    assert advised("eval", Path("-a b")) == "amaqctl eval './-a b'"
    assert advised("eval", "655d") == "amaqctl eval 655d"
