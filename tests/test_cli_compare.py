"""`compare`: what is refused, what is folded, and the table at every width."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from finished_runs import MIB, VALUES, make_run
from screens import WIDTHS, be_terminal, check_snapshot, plain_screen
from typer.testing import CliRunner

from amaqctl.cli.main import app

AMAQ = {"name": "amaq", "options": {"target_bits": 4}}
FIXED = {"name": "fixed", "options": {"bits": 4}}
NONE = {"name": "none", "options": {}}
SENT = {"amaq": (50.0, 51.0, 52.0), "fixed": (40.0, 40.0, 40.0), "none": (200.0, 200.0, 200.0)}
LOSS = {"amaq": (2.50, 2.54, 2.52), "fixed": (2.61, 2.71, 2.69), "none": (2.40, 2.42, 2.44)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    plain_screen(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def run(*arguments: str):
    return CliRunner().invoke(app, ["compare", *arguments], catch_exceptions=False)


def failure(*arguments: str) -> dict[str, str]:
    result = run(*arguments, "--json")
    assert len(result.stdout.splitlines()) == 1
    document = json.loads(result.stdout)
    assert (document["ok"], document["schema"]) == (False, "amaqctl.compare/1")
    assert "Traceback" not in result.stderr
    assert result.exit_code == (2 if document["error"]["id"].startswith("USAGE") else 4)
    return document["error"]


@pytest.fixture
def nine(folder) -> list[str]:
    """Three quantizers, three seeds."""
    for choice in (NONE, AMAQ, FIXED):
        for index, seed in enumerate((17, 18, 19)):
            name = choice["name"]
            score = {"accuracy_before": 0.25, "accuracy_after": 0.5 + index / 10}
            make_run(
                folder / f"{name}-{seed}",
                activation=choice,
                seed=seed,
                sent_mib=SENT[name][index],
                loss=LOSS[name][index],
                result=score,
            )
    return [f"{name}-{seed}" for name in ("none", "amaq", "fixed") for seed in (19, 17, 18)]


def test_seeds_fold_into_mean_and_deviation(nine):
    result = run(*nine, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)["data"]
    assert (data["reference"], data["seeds"]) == ("none/group", [17, 18, 19])
    assert [g["quantizers"] for g in data["groups"]] == ["none/group", "amaq/group", "fixed/group"]
    amaq = data["groups"][1]
    assert amaq["runs"] == [f"runs/amaq-{seed}" for seed in (17, 18, 19)]
    assert amaq["num_runs"] == 3
    assert amaq["activation"] == AMAQ
    assert amaq["gradient"] == {"name": "group", "options": {"bits": 6}}
    assert amaq["metrics"]["wire_bytes"] == {"mean": 51 * MIB, "sd": MIB}
    loss = amaq["metrics"]["loss_after"]
    assert loss["mean"] == pytest.approx(2.52)
    assert loss["sd"] == pytest.approx(0.02)
    paired = amaq["to_reference"]["loss_after"]  # 0.10, 0.12, 0.08: seed by seed
    assert paired["mean"] == pytest.approx(0.10)
    assert paired["sd"] == pytest.approx(0.02)
    assert data["groups"][0]["to_reference"]["loss_after"] == {"mean": 0, "sd": 0}
    fixed = data["groups"][2]
    sd = math.sqrt((0.06**2 + 0.04**2 + 0.02**2) / 2)
    assert fixed["metrics"]["loss_after"]["sd"] == pytest.approx(sd)
    assert fixed["metrics"]["loss_after"]["mean"] == pytest.approx(2.67)
    assert data["same"]["steps"] == 60
    assert data["same"]["train.batch_size"] == 4
    assert "train.seed" not in data["same"]


def test_a_pipe_gets_every_column_and_only_the_table(nine):
    result = run(*nine)
    header, *rows = (line.split("\t") for line in result.stdout.splitlines())
    assert header[:5] == ["quantizers", "n", "MiB sent", "loss", "to ref"]
    assert len(rows) == 3
    cells = dict(zip(header, rows[1], strict=True))
    assert cells["MiB sent"] == "51.00 ± 1.00"
    assert cells["loss"] == "2.5200 ± 0.0200"
    assert cells["to ref"] == "+0.1000 ± 0.0200"
    assert cells["accuracy"] == "0.600 ± 0.100"
    assert cells["smaller"] == f"{2 * VALUES / (51 * MIB):.2f}x"
    bits = 8 * 51 * MIB / VALUES
    assert (cells["act bits"], cells["grad bits"]) == (f"{bits + 0.5:.2f}", f"{bits - 0.5:.2f}")
    assert (cells["act at end"], cells["grad at end"]) == (
        f"{bits - 0.25:.2f}",
        f"{bits - 0.75:.2f}",
    )
    assert cells["time"] == "1:35"
    assert cells["runs"] == "amaq-17,amaq-18,amaq-19"
    assert rows[0][4] == "ref"
    expected = "same data 9b1e9b1e9b1e, model tiny, 60 steps, seeds 17, 18, 19\n"
    assert result.stderr == expected


@pytest.mark.parametrize("width", WIDTHS)
def test_a_terminal_loses_whole_columns(nine, width, monkeypatch):
    be_terminal(monkeypatch, width)
    result = run(*nine)
    assert max(len(line) for line in result.stdout.splitlines()) <= width
    assert "51.00 ± 1.00" in result.stdout
    assert "columns left out for width: " in result.stderr
    check_snapshot(f"compare-seeds-{width}", result.stdout)


def test_a_pipe_is_as_it_was(nine):
    check_snapshot("compare-seeds-pipe", run(*nine).stdout)


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_become_letters_below(folder, width, monkeypatch):
    options = {"start_bits": 8, "target_bits": 4, "min_bits": 2, "max_bits": 8}
    for index, target in enumerate((4, 3)):
        choice = {"name": "amaq", "options": {**options, "target_bits": target, "warmup": index}}
        gradient = {"name": "group", "options": {"bits": 6 - index, "group_size": 64 - index}}
        make_run(folder / f"run-{index}", activation=choice, gradient=gradient, loss=2.5 + index)
    be_terminal(monkeypatch, width)
    result = run("run-0", "run-1")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:3]] == ["a", "b"]
    text = " ".join(line.strip() for line in lines[4:])
    assert "a amaq:target_bits=4,warmup=0/group:bits=6,group_size=64" in " ".join(text.split())
    check_snapshot(f"compare-letters-{width}", result.stdout)


def test_the_reference_may_be_any_and_need_not_be_listed(nine):
    data = json.loads(run("amaq-17", "fixed-17", "--ref", "fixed-17", "--json").stdout)["data"]
    assert data["reference"] == "fixed/group"
    assert [g["quantizers"] for g in data["groups"]] == ["amaq/group", "fixed/group"]
    gain = data["groups"][0]["to_reference"]["loss_after"]
    assert gain["mean"] == pytest.approx(2.50 - 2.61)
    assert gain["sd"] is None
    data = json.loads(run("amaq-17", "--ref", "none-17", "--json").stdout)["data"]
    assert [g["quantizers"] for g in data["groups"]] == ["none/group", "amaq/group"]
    assert data["reference"] == "none/group"


def test_quiet_prints_names_and_bytes(nine):
    result = run("amaq-17", "fixed-17", "-q")
    assert result.stdout == f"amaq/group\t{50 * MIB}\nfixed/group\t{40 * MIB}\n"
    assert result.stderr == ""


def test_options_with_their_defaults_decide_what_is_equal(folder):
    for seed, options in ((17, {"target_bits": 4}), (18, {"target_bits": 4, "start_bits": 8})):
        path = make_run(
            folder / str(seed), activation={"name": "amaq", "options": options}, seed=seed
        )
        kept = {f"link0.{role}.sender": {"options": {"bits": 8}} for role in ("activation",)}
        (path / "quantizer" / "options.json").write_text(json.dumps(kept))
    data = json.loads(run("runs/17", "runs/18", "--json").stdout)["data"]
    assert [group["num_runs"] for group in data["groups"]] == [2]


def test_all_differences_are_named(folder):
    make_run(folder / "first", activation=AMAQ)
    make_run(
        folder / "second",
        activation=FIXED,
        fingerprint="ab" * 32,
        lora={"r": 4},
        optimizer={"lr": 0.001},
        eval={"max_examples": 8},
        output={"root": "elsewhere"},
        checkpoint={"every": 7},
        result={"steps": 59},
    )
    error = failure("first", "second")
    assert error["id"] == "INPUT-DIFFERENT"
    assert error["message"] == (
        "the runs differ in more than quantizers and seed: "
        "data.fingerprint: 9b1e9b1e9b1e in first but abababababab in second; "
        "steps: 60 in first but 59 in second; "
        "lora.r: 8 in first but 4 in second; "
        "optimizer.lr: 0.0002 in first but 0.001 in second; "
        "eval.max_examples: 64 in first but 8 in second"
    )


DIFFERENT = {
    "model.id": {"model": {"id": "other"}},
    "model.dtype": {"model": {"dtype": "bfloat16"}},
    "split.cuts": {"split": {"cuts": [2]}},
    "train.batch_size": {"train": {"batch_size": 8}},
    "train.max_length": {"train": {"max_length": 64}},
    "task.options.limit": {"task": {"options": {"limit": 3}}},
    "optimizer.quantizer_lr": {"optimizer": {"quantizer_lr": 0.5}},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_a_difference_is_refused(folder, key):
    make_run(folder / "first", activation=AMAQ)
    make_run(folder / "second", activation=FIXED, **DIFFERENT[key])
    error = failure("first", "second")
    assert error["id"] == "INPUT-DIFFERENT"
    assert f"seed: {key}: " in error["message"]
    assert ";" not in error["message"]


def spelled(train: object, validation: object = 0.05) -> dict[str, object]:
    return {"name": "text", "options": {"train": train, "validation": validation}}


def test_the_spelling_of_a_data_file_is_no_difference(folder):
    make_run(folder / "first", activation=AMAQ, task=spelled("rows.jsonl"))
    make_run(folder / "second", activation=FIXED, task=spelled(["/data/rows.jsonl"]))
    result = run("first", "second", "--json")
    assert result.exit_code == 0, result.stderr
    same = json.loads(result.stdout)["data"]["same"]
    assert same["task.options.validation"] == 0.05
    assert "task.options.train" not in same


def test_other_data_is_a_difference_whatever_its_file_is_called(folder):
    make_run(folder / "first", activation=AMAQ, task=spelled("a.txt"))
    make_run(folder / "second", activation=FIXED, task=spelled("a.txt"), fingerprint="ab" * 32)
    make_run(folder / "third", activation=NONE, task=spelled("b.txt"), fingerprint="cd" * 32)
    data = "the runs differ in more than quantizers and seed: data.fingerprint: "
    assert failure("first", "second")["message"] == (
        f"{data}9b1e9b1e9b1e in first but abababababab in second"
    )
    assert failure("first", "third")["message"] == (
        f"{data}9b1e9b1e9b1e in first but cdcdcdcdcdcd in third; "
        'task.options.train: "a.txt" in first but "b.txt" in third'
    )


def test_a_fraction_held_out_is_not_a_file(folder):
    make_run(folder / "first", activation=AMAQ, task=spelled("a.txt", 0.05))
    make_run(folder / "second", activation=FIXED, task=spelled("a.txt", 0.1))
    assert "task.options.validation: 0.05 in first but 0.1" in failure("first", "second")["message"]


def test_real_runs_over_one_file_by_two_paths_are_compared(tmp_path):
    rows = [{"q": f"What comes after {i}?", "a": str(i + 1)} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "link").symlink_to(tmp_path)
    tiny = ["model.id=tiny", "train.batch_size=2", "eval.max_examples=2", "train.max_steps=1"]
    for name, path in (("none", "rows.jsonl"), ("fixed", str(tmp_path / "link" / "rows.jsonl"))):
        options = f"{{train: {path}, prompt: q, completion: a}}"
        task = f"task={{name: prompt-completion, options: {options}}}"
        settings = [*tiny, task, f"quantizers.activation={{name: {name}}}"]
        words = [word for setting in settings for word in ("--set", setting)]
        trained = CliRunner().invoke(app, ["train", "quickstart", *words, "--out", name])
        assert trained.exit_code == 0, trained.stderr
    assert run("none", "fixed").exit_code == 0


def test_steps_count_as_they_were_taken(folder):
    make_run(folder / "straight", activation=AMAQ)
    make_run(folder / "resumed", activation=FIXED, train={"max_steps": 30})
    assert run("straight", "resumed").exit_code == 0


def test_steps_that_shape_the_learning_rate_must_be_the_same(folder):
    linear = {"schedule": "linear", "warmup_steps": 4}
    make_run(folder / "long", activation=AMAQ, optimizer=linear)
    make_run(folder / "alike", activation=FIXED, optimizer=linear)
    make_run(folder / "short", activation=FIXED, optimizer=linear, train={"max_steps": 30})
    make_run(folder / "constant", activation=FIXED, optimizer={"warmup_steps": 4})
    same = json.loads(run("long", "alike", "--json").stdout)["data"]["same"]
    assert (same["steps"], same["train.max_steps"]) == (60, 60)
    error = failure("long", "short")
    assert error["id"] == "INPUT-DIFFERENT"
    assert error["message"] == (
        "the runs differ in more than quantizers and seed: "
        "train.max_steps: 60 in long but 30 in short"
    )
    # Where the shapes differ already, the length is one more difference.
    assert "optimizer.schedule: " in failure("long", "constant")["message"]


def test_a_warmup_leaves_the_number_of_steps_free(folder):
    warm = {"warmup_steps": 4}
    make_run(folder / "straight", activation=AMAQ, optimizer=warm)
    make_run(folder / "resumed", activation=FIXED, optimizer=warm, train={"max_steps": 30})
    result = run("straight", "resumed", "--json")
    assert result.exit_code == 0, result.stderr
    assert "train.max_steps" not in json.loads(result.stdout)["data"]["same"]


def test_unfinished_runs_are_refused_by_name(folder):
    make_run(folder / "good", activation=AMAQ)
    make_run(folder / "half", activation=FIXED, status="interrupted")
    make_run(folder / "odd", activation=NONE, status="diverged")
    error = failure("good", "half", "odd")
    assert error["id"] == "INPUT-UNFINISHED"
    assert error["message"].endswith("these are not: half (interrupted), odd (diverged)")


def test_seeds_must_be_the_same_for_all(folder):
    make_run(folder / "a17", activation=AMAQ, seed=17)
    make_run(folder / "a18", activation=AMAQ, seed=18)
    make_run(folder / "f17", activation=FIXED, seed=17)
    error = failure("a17", "a18", "f17")
    assert error["id"] == "INPUT-SEEDS"
    assert error["message"].endswith("amaq/group has 17, 18; fixed/group has 17")
    make_run(folder / "again", activation=AMAQ, seed=17)
    error = failure("a17", "f17", "again")
    assert error["id"] == "INPUT-SEEDS"
    assert error["message"].startswith("a17 and again have the same quantizers and the same seed")


def test_mistakes(folder):
    make_run(folder / "good", activation=AMAQ)
    assert run().exit_code == 2
    assert failure("good")["id"] == "USAGE"
    assert failure("good", "nowhere")["id"] == "INPUT-RUN"
    assert failure("good", "runs/good")["message"] == "given twice: good"
    bare = make_run(folder / "bare", activation=FIXED)
    facts = json.loads((bare / "run.json").read_text())
    del facts["result"]["wire_bytes"], facts["data"]
    (bare / "run.json").write_text(json.dumps(facts))
    assert failure("good", "bare")["message"] == "run.json lacks wire_bytes, data.fingerprint"
    torn = make_run(folder / "torn", activation=FIXED)
    (torn / "quantizer" / "options.json").write_text("{")
    unreadable = failure("good", "torn")
    assert unreadable["message"].startswith("cannot be read: Invalid JSON")
    assert unreadable["where"] == "runs/torn/quantizer/options.json"


def test_no_torch_is_needed(nine):
    code = (
        "import sys\n"
        "from amaqctl.cli.main import app\n"
        "try:\n    app(['compare', 'amaq-17', 'fixed-17'])\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("quantizers\t")
