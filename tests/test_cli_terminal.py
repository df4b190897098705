"""What stays on a real terminal: nothing of a display that has ended, and no letters of Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import pytest
from terminal import in_terminal, screen_of
from typer.testing import CliRunner

from amaqctl.cli.console import scoring
from amaqctl.cli.console.scoring import ScoringProgress
from amaqctl.cli.main import app

TINY = ["--set", "model.id=tiny", "--set", "eval.max_examples=4", "--set", "eval.every=100000"]


def test_the_screen_is_read_as_a_terminal_would():
    assert screen_of("ab\r\ncdef\x1b[1A\rx\x1b[K", 80) == "x\ncdef"
    assert screen_of("abcd^C", 4) == "abcd\n^C"
    assert screen_of("abc\r\x1b[2Kz", 80) == "z"


def test_ctrl_c_leaves_nothing_of_the_panel(tmp_path):
    out = tmp_path / "run"
    arguments = ["train", "quickstart", *TINY, "--max-steps", "100000", "--out", str(out)]
    screen, code, written = in_terminal(
        arguments, b"\x03", lambda shown: shown.count(b"steps/s") > 2, columns=300
    )
    assert code == 130
    assert "Ctrl-C: save and stop" in written
    lines = screen.splitlines()
    assert lines[0] == "loading …"
    assert lines[1].startswith("error: stopped by SIGINT after step ")
    assert lines[2].startswith(f"hint: go on with: amaqctl train --resume {out}")
    assert len(lines) == 3


@pytest.fixture
def run(tmp_path) -> Path:
    out = tmp_path / "run"
    arguments = ["train", "quickstart", *TINY, "--max-steps", "1", "--out", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return out


def test_eval_tells_how_far_it_is_and_clears_it_away(run):
    screen, code, written = in_terminal(["eval", str(run)], b"", lambda _: False)
    assert code == 0
    assert "scoring 4 examples, quantized …" in written
    assert "scoring" not in screen
    lines = screen.splitlines()
    assert lines[0] == "loading …"
    assert lines[1].startswith("run  step 1  4 of ")


def test_eval_tells_it_in_lines_where_there_is_no_terminal(run):
    result = CliRunner().invoke(app, ["eval", str(run), "--boundary", "both"])
    assert result.stderr.splitlines() == [
        "loading …",
        "scoring 4 examples, quantized …",
        "scoring 4 examples, clean …",
    ]
    assert CliRunner().invoke(app, ["eval", str(run), "--quiet"]).stderr == ""


def test_what_is_left_of_scoring_is_told_every_half_minute(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(scoring.time, "monotonic", lambda: clock[0])
    with ScoringProgress(64, quiet=False) as progress:
        tell = progress.on_batch("clean")
        for done in range(1, 9):
            clock[0] += 10
            tell(done, 8)
    assert capsys.readouterr().err.splitlines() == [
        "scoring 64 examples, clean …",
        "scoring, clean: 37%, 0:50 left",
        "scoring, clean: 75%, 0:20 left",
    ]
