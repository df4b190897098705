"""`compress-trace` as a user types it: streams, documents, exports and exit codes."""

import csv
import json
import sys
from pathlib import Path

import pytest
from trace_parts import steps_of, write_trace
from typer.testing import CliRunner

from amaqctl.cli.main import app

TINY = ["--set", "model.id=tiny", "--set", "train.max_length=32"]


def run(*arguments: str):
    return CliRunner().invoke(app, ["compress-trace", *arguments], catch_exceptions=False)


@pytest.fixture
def trace(tmp_path) -> str:
    return str(write_trace(tmp_path / "by-hand.trace", steps_of(3)).path)


def data_of(result):
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["schema"], document["ok"]) == ("amaqctl.compress-trace/1", True)
    return document["data"]


FALLING = "amaq:allocation=learned,fall=1.0"


def test_record_then_replay_the_tiny_model(tmp_path):
    out = tmp_path / "traces" / "tiny.trace"
    made = run("--record", "quickstart", "--out", str(out), "--steps", "3", *TINY, "--json")
    data = data_of(made)
    assert data["bytes"] == out.stat().st_size
    assert f"6 messages of 3 steps, 0.05 MiB ({data['bytes']} bytes)" in made.stderr
    assert (data["num_messages"], data["recorded"]["model"]) == (6, "tiny")
    shown = run(str(out), "-q", "fixed:bits=4", "-q", FALLING, "--verify")
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "tiny.trace  quickstart  tiny bfloat16  3 steps from 0"
    header = "quantizer bits ratio error cosine dB codes widths scales header enc_ms dec_ms"
    assert lines[4].replace(" ms", "_ms").split("\t") == header.split()
    assert "  first message" in shown.stdout
    assert f"through {FALLING}: it learns from the gradient" in shown.stdout
    assert lines[-1].startswith("verified: ")
    again = run("--record", "quickstart", "--out", str(out), *TINY)
    assert again.exit_code == 4
    assert "never overwritten" in again.stderr


def test_the_document_holds_rows_and_messages_that_add_up(trace):
    data = data_of(run(trace, "-q", "group:bits=3,group_size=8", "--json"))
    assert [row["role"] for row in data["rows"]] == ["activation", "gradient"]
    for row in data["rows"]:
        messages = [m for m in data["messages"] if m["role"] == row["role"]]
        assert sum(m["bytes"] for m in messages) == row["bytes"]
        assert row["bits"] == 8 * row["bytes"] / row["values"]
    assert (data["num_messages"], data["has_revisits"], data["verified"]) == (6, True, False)


def test_roles_and_quiet(trace):
    result = run(trace, "-q", "fixed", "-q", "group", "--role", "gradient", "--quiet")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["fixed", "gradient"], ["group", "gradient"]]
    assert result.stderr == ""
    data = data_of(run(trace, "--role", "activation", "--json"))
    assert {row["role"] for row in data["rows"]} == {"activation"}
    assert len({row["quantizer"] for row in data["rows"]}) == 4


def test_a_run_with_one_trace_stands_for_it(trace, tmp_path):
    folder = tmp_path / "run"
    (folder / "traces").mkdir(parents=True)
    (folder / "run.json").write_text('{"schema": "amaqctl.run/1"}')
    none = run(str(folder))
    assert none.exit_code == 4
    assert "amaqctl compress-trace --record" in none.stderr
    one = folder / "traces" / "a.trace"
    one.write_bytes(Path(trace).read_bytes())
    assert data_of(run(str(folder), "-q", "none", "--json"))["trace"] == str(one)
    one.with_name("b.trace").write_bytes(one.read_bytes())
    several = run(str(folder))
    assert several.exit_code == 4
    assert "a.trace, b.trace" in several.stderr


def test_export_to_csv_and_json(trace, tmp_path):
    path = tmp_path / "out" / "rows.csv"
    data = data_of(run(trace, "-q", "fixed", "-q", "aq-sgd", "--export", str(path), "--json"))
    assert data["exported"] == str(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["all", "all", "first", "last", "all", "all"]
    assert [int(row["bytes"]) for row in rows] == [row["bytes"] for row in data["rows"]]
    assert [float(row["bits"]) for row in rows] == [row["bits"] for row in data["rows"]]
    path = path.with_suffix(".json")
    assert run(trace, "-q", "fixed", "--export", str(path)).exit_code == 0
    document = json.loads(path.read_text())
    assert document["schema"] == "amaqctl.compress-trace/1"
    assert len(document["data"]["rows"]) == 2


def test_export_to_png(trace, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    result = run(trace, "-q", "fixed", "-q", "none", "--export", str(path))
    assert result.exit_code == 0, result.stderr
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) == 2 * 960  # two panels of 6.4 inches at 150 dots


def test_png_without_matplotlib_is_one_clear_line(trace, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(trace, "--export", str(tmp_path / "a.png"))
    assert result.exit_code == 4
    assert "a picture needs matplotlib" in result.stderr
    assert "hint: pip install matplotlib (the extra amaqctl[plot])" in result.stderr


MISTAKES = [
    ([], 2, "give a trace to replay, or --record"),
    (["TRACE", "--record", "quickstart"], 2, "give a trace to replay, or --record"),
    (["--record", "quickstart"], 2, "--record needs --out"),
    (["--record", "quickstart", "--out", "x", "-q", "fixed"], 2, "-q replays a trace"),
    (
        ["--record", "quickstart", "--out", "x", "--max-mib", "1", *TINY, "--steps", "99"],
        7,
        "limit",
    ),
    (["--record", "nowhere", "--out", "x"], 4, "nowhere"),
    (["TRACE", "--steps", "3"], 2, "--steps goes with --record only"),
    (["TRACE", "-q", "fixed:bit=4"], 2, "did you mean 'bits'?"),
    (["TRACE", "-q", "fixd"], 5, "did you mean 'fixed'?"),
    (["TRACE", "-q", "amaq:mode=paper", "--role", "gradient"], 5, "cannot send a gradient"),
    (["TRACE", "--export", "a.pdf"], 2, "cannot write '.pdf'"),
    (["TRACE", "--export", "a"], 2, "cannot write 'a file without an ending'"),
    (["nowhere.trace"], 4, "there is no trace and no run 'nowhere.trace'"),
    (["TORN"], 4, "cut off in record"),
    (["TEXT"], 4, "not a trace"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), MISTAKES)
def test_mistakes_are_one_clear_line_and_a_code(
    trace, tmp_path, monkeypatch, arguments, code, said
):
    monkeypatch.chdir(tmp_path)
    Path("torn").write_bytes(Path(trace).read_bytes()[:-500])
    Path("text").write_text("not at all")
    files = {"TRACE": trace, "TORN": "torn", "TEXT": "text"}
    arguments = [files.get(a, a) for a in arguments]
    before = sorted(Path().iterdir())
    result = run(*arguments)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert (result.stdout, "Traceback" in result.stderr) == ("", False)
    assert sorted(Path().iterdir()) == before
    failed = json.loads(run(*arguments, "--json").stdout)
    assert (failed["ok"], failed["schema"]) == (False, "amaqctl.compress-trace/1")
    assert failed["error"]["id"]
