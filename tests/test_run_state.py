"""The state of a run, damaged: refused by name before anything changes, or passed over aloud."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import NEWEST, amaqctl, failure, refused_resume, sign
from safetensors.torch import load_file, save_file

Change = Callable[[Path], Any]


def changed_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(checkpoint: Path) -> None:
        document = json.loads((checkpoint / name).read_text())
        change(document)
        (checkpoint / name).write_text(json.dumps(document))

    return apply


def replaced(name: str, text: str) -> Change:
    return lambda checkpoint: (checkpoint / name).write_text(text)


def changed_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def apply(checkpoint: Path) -> None:
        tensors = load_file(checkpoint / name)
        change(tensors)
        save_file(tensors, checkpoint / name)

    return apply


def first(tensors: dict[str, torch.Tensor], end: str) -> str:
    return next(name for name in tensors if name.endswith(end))


STATE = {
    "deep": (replaced("trainer.json", "[" * 200_000), "does not say which run"),
    "no object": (replaced("trainer.json", "[]"), "does not say which run"),
    "no traffic": (changed_json("trainer.json", lambda d: d.pop("traffic")), "traffic"),
    "traffic": (
        changed_json("trainer.json", lambda d: d["traffic"]["0/activation"].update(values=-1)),
        "traffic.0/activation.values",
    ),
    "place of traffic": (
        changed_json("trainer.json", lambda d: d["traffic"].update({"x": {}})),
        "traffic.x",
    ),
    "widths of traffic": (
        changed_json("trainer.json", lambda d: d["traffic"]["0/activation"].update(min_width=None)),
        "widths and the columns",
    ),
    "evaluations": (changed_json("trainer.json", lambda d: d.update(evaluations=[])), "evalua"),
    "first evaluation": (
        changed_json("trainer.json", lambda d: d["evaluations"].clear()),
        "that of the start is missing",
    ),
    "loss": (
        changed_json("trainer.json", lambda d: d["evaluations"]["4"].update(loss="low")),
        "evaluations.4.loss",
    ),
    "no loss": (
        changed_json("trainer.json", lambda d: d["evaluations"]["4"].pop("loss")),
        "evaluations.4: loss is missing",
    ),
    "messages": (
        changed_json("trainer.json", lambda d: d["messages"].update({"link0.gradient": [-1, -1]})),
        "messages.link0.gradient",
    ),
    "a channel less": (
        changed_json("trainer.json", lambda d: d["messages"].pop("link0.gradient")),
        "due is step 4 with link0.activation, link0.gradient",
    ),
    "step": (changed_json("trainer.json", lambda d: d.update(step=3)), "it is of step 3"),
    "no tensors": (replaced("trainer.safetensors", "x" * 100), "cannot be read"),
    "shape": (
        changed_tensors(
            "trainer.safetensors",
            lambda t: t.update({first(t, "exp_avg"): torch.zeros(3)}),
        ),
        "of shape (3,)",
    ),
    "dtype": (
        changed_tensors(
            "trainer.safetensors",
            lambda t: t.update({first(t, ".step"): torch.tensor(2)}),
        ),
        "torch.int64",
    ),
    "no step yet": (
        changed_tensors(
            "trainer.safetensors",
            lambda t: t.update({first(t, ".step"): torch.tensor(0.0)}),
        ),
        "the optimizer state does not fit",
    ),
    "a moment less": (
        changed_tensors("trainer.safetensors", lambda t: t.pop(first(t, "exp_avg_sq"))),
        "the optimizer state does not fit",
    ),
    "a moment that is not finite": (
        changed_tensors("trainer.safetensors", lambda t: t[first(t, "exp_avg")].fill_(math.inf)),
        "exp_avg has values that are not finite",
    ),
    "an adapter that is not finite": (
        changed_tensors("adapter/adapter_model.safetensors", lambda t: t[min(t)].fill_(math.nan)),
        "of the adapter holds values that are not finite",
    ),
    "of another stage": (
        changed_tensors(
            "trainer.safetensors", lambda t: t.update({"stage9.0.step": torch.tensor(1.0)})
        ),
        "'stage9.0.step' is of no stage here",
    ),
    "of another parameter": (
        changed_tensors(
            "trainer.safetensors", lambda t: t.update({"stage0.999.step": torch.tensor(1.0)})
        ),
        "stage0 has no parameter 999",
    ),
    "quantizer": (
        changed_tensors("quantizer.safetensors", lambda t: t.pop(min(t))),
        "quantizer of link0",
    ),
    "adapter": (
        changed_tensors("adapter/adapter_model.safetensors", lambda t: t.pop(min(t))),
        "the adapter lacks",
    ),
}


@pytest.mark.parametrize("name", STATE)
def test_a_checkpoint_that_is_whole_and_wrong_is_refused_and_nothing_changes(
    run: Path, name: str
) -> None:
    change, said = STATE[name]
    change(run / NEWEST)
    sign(run / NEWEST)
    assert said in refused_resume(run)["message"]


def test_hyper_parameters_are_the_profiles_whatever_a_state_file_says(
    run: Path, tmp_path: Path
) -> None:
    """Version 0.1.0 wrote them down."""
    shutil.copytree(run, tmp_path / "other")
    group = {"lr": 9.0, "weight_decay": 1e9, "betas": [2, 2], "eps": -1, "params": [0]}
    groups = {"0": [group], "1": [group]}
    change = changed_json("trainer.json", lambda d: d.update(optimizers=groups))
    change(tmp_path / "other" / NEWEST)
    sign(tmp_path / "other" / NEWEST)
    for folder in (run, tmp_path / "other"):
        assert amaqctl("train", "--resume", folder, "--max-steps", 6).exit_code == 0
    weights = [
        (folder / "adapter" / "adapter_model.safetensors").read_bytes()
        for folder in (run, tmp_path / "other")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("an entry less", lambda m: m.pop("adapter/adapter_model.safetensors"), "does not list"),
        ("an entry more", lambda m: m.update({"notes": m["trainer.json"]}), "is no file of a"),
        ("way up", lambda m: m.update({"../notes": m["trainer.json"]}), "String should match"),
        ("from the root", lambda m: m.update({"/etc/passwd": m["trainer.json"]}), "should match"),
        ("no size", lambda m: m["trainer.json"].pop("bytes"), "trainer.json.bytes"),
        ("no hash", lambda m: m["trainer.json"].update(sha256=3), "trainer.json.sha256"),
        ("nothing", lambda m: m.clear(), "does not list adapter/adapter_config.json"),
    ],
)
def test_the_list_of_files_is_that_of_the_files_that_are_read(
    run: Path, name: str, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    changed_json("COMPLETE", change)(run / NEWEST)
    weights = run / NEWEST / "adapter" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    error = refused_resume(run)
    assert error["message"].startswith("step-000004 is torn: COMPLETE ")
    assert said in error["message"]
    assert "step-000002 is the newest good one" in error["hint"]


def tear(run: Path) -> None:
    path = run / NEWEST / "quantizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("which", "how"), [("last", "torn"), ("last", "missing"), ("best", "torn")]
)
def test_an_older_checkpoint_is_not_used_without_a_word(
    run: Path, tmp_path: Path, which: str, how: str
) -> None:
    tear(run) if how == "torn" else shutil.rmtree(run / NEWEST)
    if which == "best":
        lines = (run / "metrics.jsonl").read_text().splitlines()
        better = json.dumps({"kind": "eval", "step": 4, "loss": 0.001})
        worse = json.dumps({"kind": "eval", "step": 2, "loss": 9.0})
        (run / "metrics.jsonl").write_text("\n".join([*lines, better, worse]) + "\n")
    fault = {"torn": "quantizer.safetensors is not what was written", "missing": "it is missing"}
    said = f"step-000004 cannot be used ({fault[how]}); step-000002 is used instead"
    for command in (
        ("eval", run, "--limit", 1, "--checkpoint", which),
        ("export", run, "--to", tmp_path / "adapter", "--checkpoint", which),
    ):
        result = amaqctl(*command, "--json")
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["warnings"][-1:] == [said]
        assert f"warning: {said}" in result.stderr
        assert document["data"]["step"] == 2
        assert document["data"]["passed_over"] == {"step-000004": fault[how]}
        if command[0] == "eval":
            kept = json.loads(Path(document["data"]["saved"]).read_text())
            assert kept["passed_over"] == {"step-000004": fault[how]}
    error = failure(4, "export", run, "--to", tmp_path / "b", "--checkpoint", 4)
    assert error["message"] == "there is no usable checkpoint '4'"
    assert error["hint"].startswith("usable steps: 2")


def test_nothing_is_said_where_all_is_whole(run: Path, tmp_path: Path) -> None:
    result = amaqctl("export", run, "--to", tmp_path / "adapter", "--json")
    document = json.loads(result.stdout)
    assert "used instead" not in " ".join(document["warnings"])
    assert document["data"]["passed_over"] == {}
