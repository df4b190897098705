"""Base and data that changed after training are said at every door, and stand in what is saved."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from model_folder import copy_of, edit_weights, write_model_folder, write_profile
from run_files import sign
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from amaqctl.cli.main import app

BASE = "the base is not the one that the run was trained on: model.safetensors differs"
DATA = "the data are not those that the run was trained on: "


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, a profile and a run."""
    place = tmp_path_factory.mktemp("trained")
    write_model_folder(place / "m")
    profile = write_profile(place / "p.yaml", place / "m", place / "d.jsonl")
    profile.write_text(profile.read_text() + "optimizer: {lr: 0.01}\n")
    done = run("train", profile, "--out", place / "run", "-q")
    assert done.exit_code == 0, done.stderr
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy of all of it; the profile of the run names the copies."""
    place = copy_of(trained, tmp_path / "place")
    profile = place / "run" / "profile.yaml"
    profile.write_text(profile.read_text().replace(str(trained), str(place)))
    return place


def _one_weight(place: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] += 1e-3

    edit_weights(place / "m", change)


def _one_row(place: Path) -> None:
    path = place / "d.jsonl"
    path.write_text(path.read_text().replace("A 3.", "A 4."))


def _rows_more(place: Path) -> None:
    with (place / "d.jsonl").open("a") as file:
        file.write('{"prompt": "new", "completion": "row"}\n' * 1)


def document(result) -> dict:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_nothing_changed_nothing_said(place: Path) -> None:
    told = document(run("eval", place / "run", "--json"))
    assert told["warnings"] == []
    assert (told["data"]["changed_since_training"], told["data"]["overrides"]) == ([], [])
    told = document(run("export", place / "run", "--to", place / "out", "--merge", "--json"))
    assert told["warnings"] == told["data"]["changed_since_training"] == []
    assert "Note:" not in (place / "out" / "README.md").read_text()


def test_a_changed_base_is_said_by_eval_and_kept_with_its_result(place: Path) -> None:
    _one_weight(place)
    told = document(run("eval", place / "run", "--json"))
    assert told["warnings"] == told["data"]["changed_since_training"] == [BASE]
    saved = json.loads(Path(told["data"]["saved"]).read_text())
    assert saved["changed_since_training"] == [BASE]


def test_a_changed_base_is_said_by_export_of_the_adapter(place: Path) -> None:
    _one_weight(place)
    told = document(run("export", place / "run", "--to", place / "out", "--json"))
    assert told["warnings"] == told["data"]["changed_since_training"] == [BASE]
    assert f"Note: {BASE}." in (place / "out" / "README.md").read_text()


def test_a_merge_onto_another_base_is_refused_unless_asked_for(place: Path) -> None:
    _one_weight(place)
    arguments = ["export", place / "run", "--to", place / "out", "--merge", "--json"]
    refused = run(*arguments)
    assert refused.exit_code == 4
    error = json.loads(refused.stdout)["error"]
    assert (error["id"], error["message"]) == ("INPUT-BASE-CHANGED", BASE)
    assert "--onto-another-base" in error["hint"]
    assert not (place / "out").exists()
    told = document(run(*arguments, "--onto-another-base"))
    assert told["data"]["changed_since_training"] == [BASE]
    assert (place / "out" / "model.safetensors").exists()


def _other_tokens(place: Path) -> None:
    """Two letters of the vocabulary change places."""
    path = place / "m" / "tokenizer.json"
    document = json.loads(path.read_text())
    vocab = document["model"]["vocab"]
    vocab["A"], vocab["e"] = vocab["e"], vocab["A"]
    path.write_text(json.dumps(document))


def test_a_changed_tokenizer_is_told_as_such(place: Path) -> None:
    _other_tokens(place)
    told = document(run("eval", place / "run", "--json"))
    assert told["data"]["changed_since_training"] == [
        "the tokenizer is not the one that the run was trained with: the data are other tokens"
    ]
    refused = run("train", "--resume", place / "run", "--max-steps", 3, "--json")
    assert refused.exit_code == 9
    message = json.loads(refused.stdout)["error"]["message"]
    assert "data.tokenizer: " in message
    assert "data.fingerprint: " in message
    assert not re.search("[0-9a-f]{13}", message)  # digests by their beginning


def test_a_tokenizer_that_was_only_written_anew_is_the_same(place: Path) -> None:
    path = place / "m" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert document(run("eval", place / "run", "--json"))["data"]["changed_since_training"] == []
    assert run("train", "--resume", place / "run", "--max-steps", 3, "-q").exit_code == 0


def test_a_run_that_recorded_no_tokenizer_goes_on(place: Path) -> None:
    for path in (place / "run").rglob("*.json"):
        text = path.read_text()
        if '"tokenizer": "' in text:
            found = json.loads(text)
            del found["identity"]["data"]["tokenizer"]
            path.write_text(json.dumps(found))
    for checkpoint in (place / "run" / "checkpoints").iterdir():
        sign(checkpoint)
    assert run("train", "--resume", place / "run", "--max-steps", 3, "-q").exit_code == 0


def test_onto_another_base_goes_with_a_merge(place: Path) -> None:
    result = run("export", place / "run", "--to", place / "out", "--onto-another-base")
    assert result.exit_code == 2
    assert not (place / "out").exists()


@pytest.mark.parametrize("change", [_one_row, _rows_more])
def test_changed_data_are_said_by_eval_and_export(place: Path, change) -> None:
    change(place)
    told = document(run("eval", place / "run", "--json"))
    (sentence,) = told["data"]["changed_since_training"]
    assert sentence.startswith(DATA)
    assert ("as many as then" in sentence) == (change is _one_row)
    assert told["warnings"] == [sentence]
    for more in ([], ["--merge"]):
        target = place / f"out{len(more)}"
        exported = document(run("export", place / "run", "--to", target, "--json", *more))
        assert exported["data"]["changed_since_training"] == [sentence]


def test_data_that_are_gone_do_not_keep_an_adapter_from_export(place: Path) -> None:
    (place / "d.jsonl").unlink()
    told = document(run("export", place / "run", "--to", place / "out", "--json"))
    (sentence,) = told["data"]["changed_since_training"]
    assert sentence.startswith("whether the data have changed since training is not known: ")


def test_resume_refuses_a_base_with_one_weight_changed(place: Path) -> None:
    _one_weight(place)
    result = run("train", "--resume", place / "run", "--max-steps", "4")
    assert result.exit_code == 9
    assert "model.files.model.safetensors" in result.stderr


def _without(trained: Path, place: Path, *keys: str) -> None:
    """As a version left a run that did not yet record something of its identity."""
    for path in (place / "run").rglob("*.json"):
        text = path.read_text()
        if '"files"' in text and path.name in ("run.json", "trainer.json"):
            found = json.loads(text.replace(str(trained), str(place)))
            owner = found["identity"]
            for key in keys[:-1]:
                owner = owner[key]
            owner.pop(keys[-1])
            path.write_text(json.dumps(found))
    _seal(place / "run" / "checkpoints" / "step-000002")


def test_a_run_of_a_version_that_kept_no_digests_goes_on(trained: Path, place: Path) -> None:
    _without(trained, place, "model", "files")
    result = run("train", "--resume", place / "run", "--max-steps", "4", "-q")
    assert result.exit_code == 0, result.stderr
    assert "goes on with" not in result.stderr


def test_a_run_begun_by_other_rules_goes_on_and_says_so(trained: Path, place: Path) -> None:
    _without(trained, place, "rules")
    result = run("train", "--resume", place / "run", "--max-steps", "4", "-q")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == (
        "warning: the run was begun when gradients were clipped and dropout was drawn a stage at a "
        "time; it goes on with one norm over all stages and dropout drawn by block\n"
    )
    record = json.loads(
        (place / "run" / "checkpoints" / "step-000004" / "trainer.json").read_text()
    )
    assert "rules" not in record["identity"]  # it stays what it was begun as


def _seal(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / "COMPLETE").read_text())
    for name in manifest:
        data = (checkpoint / name).read_bytes()
        manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "COMPLETE").write_text(json.dumps(manifest))


def test_a_copy_of_the_base_is_the_same_base(place: Path) -> None:
    copy_of(place / "m", place / "elsewhere")
    told = document(
        run("eval", place / "run", "--set", f"model.id={place / 'elsewhere'}", "--json")
    )
    assert told["data"]["changed_since_training"] == []


def test_overrides_of_an_evaluation_stand_in_its_result(place: Path) -> None:
    sets = ["split.cuts=[1]", "eval.max_examples=2"]
    told = document(run("eval", place / "run", *[w for s in sets for w in ("--set", s)], "--json"))
    assert told["data"]["overrides"] == sets
    assert told["data"]["changed_since_training"] == []
    assert json.loads(Path(told["data"]["saved"]).read_text())["overrides"] == sets


def test_export_leaves_the_tokenizer_and_generation_as_the_base_has_them(place: Path) -> None:
    (place / "m" / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}\n')
    base = AutoTokenizer.from_pretrained(place / "m")
    assert base.pad_token is None
    for more in ([], ["--merge"]):
        target = place / f"out{len(more)}"
        document(run("export", place / "run", "--to", target, "--json", *more))
        exported = AutoTokenizer.from_pretrained(target)
        assert exported.special_tokens_map == base.special_tokens_map
        assert exported.get_vocab() == base.get_vocab()
        assert exported("Q 1?</s>")["input_ids"] == base("Q 1?</s>")["input_ids"]
        assert exported.init_kwargs.get("pad_token") is None
    generation = "generation_config.json"
    assert (target / generation).read_bytes() == (place / "m" / generation).read_bytes()


def test_merged_weights_have_the_type_that_was_trained_on(place: Path) -> None:
    edit_weights(place / "m", lambda w: w.update({n: t.bfloat16() for n, t in w.items()}))
    done = run(
        "train", place / "p.yaml", "--set", "model.dtype=float16", "--out", place / "r", "-q"
    )
    assert done.exit_code == 0, done.stderr
    document(run("export", place / "r", "--to", place / "out", "--merge", "--json"))
    dtypes = {t.dtype for t in load_file(place / "out" / "model.safetensors").values()}
    assert dtypes == {torch.float16}
    assert json.loads((place / "out" / "config.json").read_text())["dtype"] == "float16"


def test_another_configuration_is_another_base(place: Path) -> None:
    path = place / "m" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config))  # the same values, written otherwise
    assert document(run("eval", place / "run", "--json"))["data"]["changed_since_training"] == []
    path.write_text(json.dumps({**config, "hidden_act": "relu"}))
    said = "the base is not the one that the run was trained on: config.json differs"
    assert document(run("eval", place / "run", "--json"))["data"]["changed_since_training"] == [
        said
    ]
    merged = run("export", place / "run", "--to", place / "out", "--merge")
    assert merged.exit_code == 4
    assert "config.json differs" in merged.stderr
    resumed = run("train", "--resume", place / "run", "--max-steps", "9")
    assert resumed.exit_code == 9


def test_the_home_of_nobody_is_no_model_folder(place: Path) -> None:
    result = run("train", place / "p.yaml", "--set", "model.id=~nobody-of-this-name/m")
    assert result.exit_code == 4
    assert "no such model folder" in result.stderr
