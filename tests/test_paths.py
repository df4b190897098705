"""One rule for paths: `~` is home, relative is from here, and a run is found wherever it goes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaqctl.cli.main import app
from amaqctl.model.tiny import tiny_folder
from amaqctl.paths import FilePath, Moved, PathText, absolute, paths_in, put, shown
from amaqctl.profile import load_profile

PROFILE = """\
amaqctl: 1
model: {id: m, dtype: float32}
split: {cuts: [3]}
task: {name: prompt-completion, options: {train: d.jsonl, validation: v.jsonl}}
train: {max_steps: 2, batch_size: 2, max_length: 32}
eval: {every: 2, max_examples: 4}
checkpoint: {every: 1}
"""


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def data_of(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["data"]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A project: model, data, profile."""
    folder = tmp_path_factory.mktemp("paths") / "my project"
    shutil.copytree(tiny_folder(), folder / "m")
    for name, count in (("d", 12), ("v", 4)):
        rows = [{"prompt": f"{name}{i}?", "completion": f"{i}."} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "p.yaml").write_text(PROFILE)
    return folder


@pytest.fixture
def project(original, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "my project"
    shutil.copytree(original, folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def trained(project) -> Path:
    assert run("train", "p.yaml", "--out", "runs/r").exit_code == 0
    return project / "runs/r"


def test_home_and_here(project, monkeypatch):
    assert absolute("~/a") == project / "a"
    assert absolute("a/../b") == project / "a/../b"
    assert absolute("/a") == Path("/a")
    assert shown(project / "a/b") == Path("a/b")
    assert shown("/elsewhere") == Path("/elsewhere")
    assert shown("~/a") == Path("a")


def test_paths_among_options_are_those_that_the_config_makes_paths(project):
    from pydantic import BaseModel

    class Inner(BaseModel):
        file: Path | None = None

    class Config(BaseModel):
        one: FilePath | float
        several: tuple[FilePath, ...] = ()
        text: str = ""
        inner: Inner = Inner()

    options = {"one": "a", "several": ["b", "~/c"], "text": "a", "inner": {"file": "e"}}
    config = Config(**options)
    assert isinstance(config.one, PathText)
    found = paths_in(options, config)
    assert found == {
        ("one",): project / "a",
        ("several", 0): project / "b",
        ("several", 1): project / "c",
        ("inner", "file"): project / "e",
    }
    changed = put(options, ("several", 1), "/x")
    assert changed["several"] == ["b", "/x"]
    assert options["several"] == ["b", "~/c"]
    assert paths_in({"one": 0.5}, Config(one=0.5)) == {}


def test_what_moved_along_comes_before_what_stayed(tmp_path):
    (tmp_path / "new/data").mkdir(parents=True)
    moved = Moved(tmp_path / "old/runs/r", tmp_path / "new/runs/r")
    assert moved.of(tmp_path / "old/data") == tmp_path / "new/data"
    assert moved.of(tmp_path / "old/gone") == tmp_path / "old/gone"


def test_a_run_keeps_absolute_paths(trained, project):
    profile = load_profile(trained / "profile.yaml").profile
    assert profile.model.id == str(project / "m")
    assert profile.output.root == str(project / "runs")
    assert profile.task.options["train"] == str(project / "d.jsonl")
    assert profile.task.options["validation"] == str(project / "v.jsonl")
    config = json.loads((trained / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(project / "m")
    assert json.loads((trained / "run.json").read_text())["folder"] == str(trained)


HOME = ["--set", "model.id=~/m", "--set", "task.options.train=~/d.jsonl"]
HOME += ["--set", "task.options.validation=~/v.jsonl", "--set", "output.root=~/made"]


def test_home_is_the_same_for_every_key(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run("train", "~/p.yaml", *HOME)
    assert made.exit_code == 0, made.output
    (folder,) = (project / "made").iterdir()
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(project / "m")
    assert not list(tmp_path.rglob("~*"))
    assert run("train", "~/p.yaml", *HOME, "--out=~/given").exit_code == 0
    assert (project / "given/run.json").exists()
    assert run("eval", "~/given").exit_code == 0
    assert run("export", "~/given", "--to=~/exported").exit_code == 0
    assert (project / "exported/adapter_config.json").exists()
    assert run("inspect-bits", "~/given", "--export=~/bits.csv").exit_code == 0
    assert (project / "bits.csv").exists()


def test_a_run_is_evaluated_and_resumed_from_anywhere(trained, tmp_path, monkeypatch):
    here = data_of(run("eval", "runs/r", "--json"))["metrics"]
    monkeypatch.chdir("/")
    assert data_of(run("eval", str(trained), "--json"))["metrics"] == here
    longer = run("train", "--resume", str(trained), "--max-steps", "3")
    assert longer.exit_code == 0, longer.output


def test_a_run_that_was_copied_alone_finds_what_it_used(trained, tmp_path, monkeypatch):
    copy = tmp_path / "shared/copy"
    shutil.copytree(trained, copy)
    monkeypatch.chdir(tmp_path)
    assert data_of(run("eval", str(copy), "--json"))["step"] == 2
    assert run("export", str(copy), "--to", "adapter").exit_code == 0
    assert (tmp_path / "adapter/tokenizer.json").exists()
    assert run("export", str(copy), "--merge", "--to", "merged").exit_code == 0
    assert run("train", "--resume", str(copy), "--max-steps", "3").exit_code == 0


def test_a_project_that_moves_as_a_whole_stays_whole(trained, project, tmp_path, monkeypatch):
    there = tmp_path / "elsewhere"
    project.rename(there)
    monkeypatch.chdir("/")
    assert data_of(run("eval", str(there / "runs/r"), "--json"))["step"] == 2
    exported = run("export", str(there / "runs/r"), "--to", str(tmp_path / "a"), "--json")
    assert data_of(exported)["base"] == str(there / "m")
    assert run("train", "--resume", str(there / "runs/r"), "--max-steps", "3").exit_code == 0


def test_of_two_copies_a_run_takes_its_own_but_for_what_is_typed(
    trained, project, tmp_path, monkeypatch
):
    there = tmp_path / "elsewhere"
    shutil.copytree(project, there)
    monkeypatch.chdir("/")
    base = data_of(run("export", str(there / "runs/r"), "--to", str(tmp_path / "a"), "--json"))
    assert base["base"] == str(there / "m")
    (there / "v.jsonl").write_text(json.dumps({"prompt": "x", "completion": "y"}) + "\n")
    typed = ["--set", f"task.options.validation={project / 'v.jsonl'}"]
    own = data_of(run("eval", str(there / "runs/r"), "--json"))
    assert own["num_validation"] == 1
    assert data_of(run("eval", str(there / "runs/r"), "--json", *typed))["num_validation"] == 4


def test_an_adapter_is_exported_without_its_base(trained, project, tmp_path):
    (project / "m").rename(tmp_path / "gone")
    result = run("export", "runs/r", "--to", "adapter")
    assert result.exit_code == 0, result.output
    assert "warning: the base cannot be read, so its tokenizer is left out" in result.stderr
    names = {path.name for path in (project / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    merged = run("export", "runs/r", "--merge", "--to", "merged")
    assert merged.exit_code == 4
    assert not (project / "merged").exists()


EARLY = [
    (["train", "quickstrat"], 4, "no profile named 'quickstrat'"),
    (["train", "p.yaml", "--set", "task.options.train=no.jsonl"], 4, "no.jsonl: no such file"),
    (["train", "p.yaml", "--dry-run", "--set", "task.options.validation=~/no.jsonl"], 4, "no such"),
    (["train", "p.yaml", "--set", "model.id=./nope"], 4, "./nope: no such model folder"),
    (["train", "p.yaml", "--set", "model.id=~/nope"], 4, "~/nope: no such model folder"),
    (["train", "p.yaml", "--set", "split.cuts=[9]"], 3, "cut 9 lies outside the model's 8"),
    (["train", "quickstart", "--set", "split.cuts=[99]"], 3, "outside the model's 30"),
    (["train", "p.yaml", "--set", "task.options.trian=3"], 3, "did you mean 'train'"),
    (["train", "p.yaml", "--set", "lora.r=0"], 3, "lora.r"),
    (["train", "--resume", "nope"], 4, "there is no run 'nope'"),
    (["train", "p.yaml", "--resume", "r"], 2, "give a profile, or"),
    (["eval", "quickstrat"], 4, "there is no run and no profile 'quickstrat'"),
    (["eval", "p.yaml", "--min", "loss"], 2, "METRIC=NUMBER"),
    (["compress-trace", "--record", "p.yaml", "--out", "t", "--set", "model.id=x"], 4, "x: no"),
    (["compress-trace", "nope"], 4, "there is no trace and no run"),
    (["compress-trace", "nope", "-q", "grup"], 5, "unknown quantizer 'grup'"),
    (["export", "nope", "--to", "x"], 4, "there is no run 'nope'"),
    (["inspect-bits", "nope"], 4, "there is no run or trace"),
    (["compare", "a", "b"], 4, "there is no run 'a'"),
    (["runs", "nope"], 4, "there is no run 'nope'"),
]
PROGRAM = """
import sys
from amaqctl.cli.main import app
for arguments in eval(sys.argv[1]):
    try:
        app(arguments, prog_name="amaqctl")
    except SystemExit as end:
        print(end.code, "torch" in sys.modules, flush=True)
"""


def test_cheap_faults_are_found_before_torch_is_imported(project):
    typed = repr([arguments for arguments, _, _ in EARLY])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, typed], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [f"{code} False" for _, code, _ in EARLY], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(EARLY)
    for error, (arguments, _, said) in zip(errors, EARLY, strict=True):
        assert said in error, arguments


def test_profile_check_names_files_and_folders_that_are_not_there(project):
    missing = ["--set", "model.id=nope", "--set", "task.options.validation=~/no.jsonl"]
    result = run("profile", "check", "p.yaml", *missing, "--set", "task.options.train=[]")
    assert result.exit_code == 3
    result = run("profile", "check", "p.yaml", *missing)
    assert result.exit_code == 3
    first, second = result.stderr.splitlines()[:2]
    assert first.startswith("error: --set model.id=nope: model.id: nope: no such model folder")
    assert second.endswith(f"task.options.validation: {project / 'no.jsonl'}: no such file")
    assert run("profile", "check", "p.yaml").exit_code == 0
