"""The commands as a user types them: streams, documents, exit codes, and nothing lost."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaqctl.cli.main import app

TINY = ["--set", "model.id=tiny", "--set", "eval.max_examples=4", "--max-steps", "3"]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def train_tiny(out: Path, *more: str):
    return run("train", "quickstart", *TINY, "--out", str(out), *more)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    result = train_tiny(out, "--json")
    assert result.exit_code == 0, result.stderr
    (out.parent / "stdout.json").write_text(result.stdout)
    return out


@pytest.mark.parametrize(
    "command", ["train", "eval", "plugins", "profile", "profile list", "profile show"]
)
def test_every_command_has_help(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_train_prints_one_document_and_makes_the_run(tiny_run):
    document = json.loads((tiny_run.parent / "stdout.json").read_text())
    assert (document["schema"], document["ok"]) == ("amaqctl.train/1", True)
    data = document["data"]
    assert data["run"] == str(tiny_run)
    assert data["steps"] == 3
    assert data["loss_before"] > 0
    metrics = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    sent = sum(m["wire/total_bytes"] for m in metrics if m["kind"] == "train")
    assert data["wire_bytes"] == sent
    for name in ("run.json", "profile.yaml", "environment.json", "adapter", "bits/final.npz"):
        assert (tiny_run / name).exists(), name


def test_the_report_on_a_terminal_names_the_next_command(tmp_path):
    result = train_tiny(tmp_path / "run")
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["run"] == str(tmp_path / "run")
    assert lines["status"].startswith("done after 3 steps")
    assert " at the end, " in lines["bits"]
    assert lines["next"].startswith("amaqctl eval ")
    quiet = train_tiny(tmp_path / "quiet", "-q")
    assert quiet.stdout == f"{tmp_path / 'quiet'}\n"
    assert quiet.stderr == ""


def test_eval_of_both_boundaries(tiny_run):
    result = run("eval", str(tiny_run), "--boundary", "both", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)["data"]
    assert set(data["metrics"]) == {"quantized", "clean"}
    trained = json.loads((tiny_run.parent / "stdout.json").read_text())["data"]
    assert data["metrics"]["quantized"]["loss"] == trained["loss_after"]
    assert data["metrics"]["clean"]["loss"] != trained["loss_after"]
    saved = json.loads(Path(data["saved"]).read_text())
    assert saved["metrics"] == data["metrics"]


def test_eval_of_an_untrained_profile_and_bounds():
    arguments = ["eval", "quickstart", "--set", "model.id=tiny", "--limit", "4"]
    good = run(*arguments, "--max", "loss=100", "--json")
    assert good.exit_code == 0, good.stderr
    assert json.loads(good.stdout)["data"]["run"] is None
    bad = run(*arguments, "--max", "loss=0.1", "--json")
    assert bad.exit_code == 8
    assert json.loads(bad.stdout)["error"]["id"] == "CHECK"
    assert run(*arguments, "--min", "f1=1").exit_code == 2


def test_resume_goes_on_to_the_very_same_result(tmp_path):
    straight = train_tiny(tmp_path / "straight", "--set", "train.max_steps=4", "--max-steps", "4")
    assert straight.exit_code == 0, straight.stderr
    stopped = tmp_path / "stopped"
    assert train_tiny(stopped, "--max-steps", "2").exit_code == 0
    resumed = run("train", "--resume", str(stopped), "--max-steps", "4")
    assert resumed.exit_code == 0, resumed.stderr
    adapter = "adapter/adapter_model.safetensors"
    assert (stopped / adapter).read_bytes() == (tmp_path / "straight" / adapter).read_bytes()
    again = run("train", "--resume", str(stopped))
    assert again.exit_code == 9
    assert "is complete" in again.stderr


def test_a_lengthened_run_is_evaluated_as_it_was_trained(tmp_path):
    """Where the mean width falls, widths depend on how many steps the run has."""
    out = tmp_path / "run"
    falling = ["--set", "quantizers.activation={name: amaq, options: {fall: 1.0, target_bits: 1}}"]
    often = [
        "--set",
        "eval.every=1",
        "--set",
        "checkpoint.every=1",
        "--set",
        "checkpoint.keep_last=9",
    ]
    assert train_tiny(out, *falling, *often, "--max-steps", "2").exit_code == 0
    assert run("train", "--resume", str(out), "--max-steps", "6").exit_code == 0
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    trained = {line["step"]: line["loss"] for line in lines if line["kind"] == "eval"}
    for step in (3, 4):
        result = run("eval", str(out), "--checkpoint", str(step), "--json")
        assert result.exit_code == 0, result.stderr
        metrics = json.loads(result.stdout)["data"]["metrics"]
        assert metrics["quantized"]["loss"] == trained[step]


def test_a_run_is_never_overwritten(tiny_run):
    before = {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()}
    result = train_tiny(tiny_run)
    assert result.exit_code == 4
    assert "never overwritten" in result.stderr
    assert {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()} == before


def test_plugins_lists_without_importing_and_shows_options():
    result = run("plugins", "--json")
    listed = json.loads(result.stdout)["data"]["quantizers"]
    names = [q["name"] for q in listed]
    assert names == sorted(names)
    assert {"none", "fixed", "group", "aq-sgd", "amaq"} <= set(names)
    shown = json.loads(run("plugins", "fixed", "--json").stdout)["data"]
    assert [o["option"] for o in shown["options"]] == ["bits", "scale", "rounding", "scale_dtype"]
    assert all(o["description"] for o in shown["options"])
    assert run("plugins", "nobody").exit_code == 5


def test_profile_commands(tmp_path):
    listed = json.loads(run("profile", "list", "--json").stdout)["data"]["profiles"]
    assert "quickstart" in listed
    shown = run("profile", "show", "quickstart", "--resolved")
    copy = tmp_path / "copy.yaml"
    copy.write_text(shown.stdout)
    checked = run("profile", "check", str(copy), "quickstart")
    assert checked.exit_code == 0, checked.stderr
    copy.write_text(shown.stdout.replace("target_bits", "target_bit"))
    faulty = run("profile", "check", str(copy))
    assert faulty.exit_code == 3
    assert "copy.yaml:" in faulty.stderr
    assert "did you mean 'target_bits'?" in faulty.stderr
    schema = json.loads(run("profile", "schema").stdout)
    assert "quantizers" in schema["properties"]
