"""`export`: what stock tools load is what was trained, and nothing is written by halves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from run_files import sign
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from amaqctl import exporting
from amaqctl.cli.main import app
from amaqctl.model.source import resolve_source

SETTINGS = ["--set", "model.id=tiny", "--set", "eval.max_examples=2", "--set", "eval.every=2"]
SETTINGS += ["--set", "checkpoint.every=2", "--set", "optimizer.lr=0.01", "--max-steps", "4"]
IDS_BT = torch.arange(40).view(2, 20)


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def export(*arguments: str):
    return run("export", *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A run for each of two types of base weights."""
    folder = tmp_path_factory.mktemp("trained")
    for dtype in ("float32", "bfloat16"):
        out = str(folder / dtype)
        result = run(
            "train", "quickstart", *SETTINGS, "--set", f"model.dtype={dtype}", "--out", out
        )
        assert result.exit_code == 0, result.stderr
    return {dtype: folder / dtype for dtype in ("float32", "bfloat16")}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS_BT).logits


def on_base(adapter: Path, dtype: torch.dtype) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(
        resolve_source("tiny").folder_or_hub_id, dtype=dtype
    )
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        return PeftModel.from_pretrained(base.float(), adapter)


def test_an_adapter_folder_is_stock_and_has_its_tokenizer(trained, tmp_path):
    target = tmp_path / "deep" / "adapter"
    result = export(str(trained["float32"]), "--to", str(target), "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["schema"], document["ok"]) == ("amaqctl.export/1", True)
    data = document["data"]
    assert (data["kind"], data["step"], data["base"], data["check"]) == ("adapter", 4, "tiny", None)
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert names < set(data["files"])
    assert {path.name: path.stat().st_size for path in target.iterdir()} == data["files"]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (target / name).read_bytes() == (trained["float32"] / "adapter" / name).read_bytes()
    text = "Two words."
    original = AutoTokenizer.from_pretrained(resolve_source("tiny").folder_or_hub_id)
    assert AutoTokenizer.from_pretrained(target)(text) == original(text)
    assert "Base model: `tiny`" in (target / "README.md").read_text()
    assert {path.name for path in target.parent.iterdir()} == {"adapter"}


def test_a_checkpoint_is_chosen(trained, tmp_path):
    source = trained["float32"]
    assert export(str(source), "--to", str(tmp_path / "a"), "--checkpoint", "2").exit_code == 0
    found = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    weights = "adapter/adapter_model.safetensors"
    assert found == (source / "checkpoints" / "step-000002" / weights).read_bytes()
    assert found != (source / weights).read_bytes()
    wrong = export(str(source), "--to", str(tmp_path / "b"), "--checkpoint", "3", "--json")
    assert wrong.exit_code == 4
    assert json.loads(wrong.stdout)["error"]["id"] == "INPUT-CHECKPOINT"
    assert not (tmp_path / "b").exists()


def test_merged_float32_weights_do_what_the_adapter_does(trained, tmp_path):
    target = tmp_path / "merged"
    target.mkdir()  # empty is as good as new
    result = export(str(trained["float32"]), "--to", str(target), "--merge", "--json")
    assert result.exit_code == 0, result.stderr
    check = json.loads(result.stdout)["data"]["check"]
    assert check["max_difference"] == check["max_difference_saved"]
    assert 0 < check["max_difference"] <= check["tolerance"] == 1e-4 * check["largest_logit"]
    assert check["adapter_effect"] > 100 * check["max_difference"]
    model = AutoModelForCausalLM.from_pretrained(target)
    assert model.dtype == torch.float32
    expected = logits(on_base(trained["float32"] / "adapter", torch.float32))
    assert torch.allclose(logits(model), expected, rtol=0, atol=check["tolerance"])
    assert f"on {check['num_logits']} logits" in (target / "README.md").read_text()
    AutoTokenizer.from_pretrained(target)


def test_merged_weights_have_the_type_of_the_base(trained, tmp_path):
    target = tmp_path / "merged"
    result = export(str(trained["bfloat16"]), "--to", str(target), "--merge", "--json")
    assert result.exit_code == 0, result.stderr
    check = json.loads(result.stdout)["data"]["check"]
    assert check["dtype"] == "bfloat16"
    assert check["max_difference"] <= 1e-4 * check["largest_logit"]
    assert check["max_difference"] < check["max_difference_saved"] <= check["tolerance_saved"]
    merged = on_base(trained["bfloat16"] / "adapter", torch.bfloat16).merge_and_unload()
    expected = {name: tensor.bfloat16() for name, tensor in merged.state_dict().items()}
    saved = load_file(target / "model.safetensors")
    assert saved  # tied weights are saved once
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())


def test_a_merge_that_drops_the_adapter_is_caught_in_any_type(trained, tmp_path, monkeypatch):
    def unload_only(self, **_):
        return self.unload()

    monkeypatch.setattr("peft.tuners.lora.LoraModel.merge_and_unload", unload_only)
    for dtype, source in trained.items():
        result = export(str(source), "--to", str(tmp_path / dtype), "--merge", "--json")
        assert result.exit_code == 8
        document = json.loads(result.stdout)
        assert document["error"]["id"] == "CHECK-MERGE"
        assert document["error"]["message"].startswith("merging changes a logit by ")
    assert list(tmp_path.iterdir()) == []


def test_saved_weights_are_read_back(trained, tmp_path, monkeypatch):
    real = exporting.logits_of_saved

    def damaged(folder: Path, rounded, dtype):
        file = folder / "model.safetensors"
        weights = load_file(file)
        weights["model.norm.weight"][3] += 1
        save_file(weights, file, metadata={"format": "pt"})
        return real(folder, rounded, dtype)

    monkeypatch.setattr(exporting, "logits_of_saved", damaged)
    result = export(str(trained["float32"]), "--to", str(tmp_path / "m"), "--merge")
    assert result.exit_code == 8
    assert "1 saved weights are not those that were merged" in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_rounding_that_drowns_the_adapter_is_said(tmp_path):
    out = str(tmp_path / "run")
    more = ["--set", "model.dtype=bfloat16", "--set", "optimizer.lr=1e-7", "--out", out]
    assert run("train", "quickstart", *SETTINGS, *more).exit_code == 0
    result = export(out, "--to", str(tmp_path / "m"), "--merge", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    check = document["data"]["check"]
    assert check["adapter_effect"] < check["max_difference_saved"] <= check["tolerance_saved"]
    (warning,) = document["warnings"]
    assert warning.startswith("rounding to bfloat16 changes the logits as much as the adapter")


def with_weights(trained: Path, copy: Path, change: Callable[[torch.Tensor], object]) -> str:
    """A copy of a run whose adapter has other weights; the name of the first of them."""
    shutil.copytree(trained, copy)
    (folder,) = (copy / "checkpoints").glob("*4")
    file = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    for weight in weights.values():
        change(weight)
    save_file(weights, file, metadata={"format": "pt"})
    sign(folder)
    return min(weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("merge", [(), ("--merge",)], ids=["adapter", "merge"])
def test_an_adapter_that_is_not_finite_is_not_handed_on(trained, tmp_path, value, merge):
    run_folder = tmp_path / "run"
    name = with_weights(trained["float32"], run_folder, lambda w: w.view(-1)[-1:].fill_(value))
    result = export(str(run_folder), "--to", str(tmp_path / "x"), *merge)
    assert result.exit_code == 4
    assert f"{name} of the adapter holds values that are not finite" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_an_adapter_that_overflows_on_its_base_is_not_merged(trained, tmp_path):
    with_weights(trained["float32"], tmp_path / "run", lambda weight: weight.fill_(1e30))
    result = export(str(tmp_path / "run"), "--to", str(tmp_path / "x"), "--merge")
    assert result.exit_code == 8
    assert "gives logits that are not finite" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_peft_cannot_merge_is_one_line(trained, tmp_path):
    """With `lora_bias` peft makes biases that the base has no place for."""
    run_folder = Path(shutil.copytree(trained["float32"], tmp_path / "run"))
    for config in run_folder.rglob("adapter_config.json"):
        config.write_text(json.dumps({**json.loads(config.read_text()), "lora_bias": True}))
    for checkpoint in (run_folder / "checkpoints").iterdir():
        sign(checkpoint)
    result = export(str(run_folder), "--to", str(tmp_path / "x"), "--merge")
    assert result.exit_code == 4
    assert "the adapter cannot be merged into its base: Impossible to merge" in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_is_one_line(trained, tmp_path):
    (tmp_path / "file").write_text("")
    result = export(str(trained["float32"]), "--to", str(tmp_path / "file" / "a"), "--json")
    assert result.exit_code == 7
    error = json.loads(result.stdout)["error"]
    assert error["message"] == "cannot be written: a file stands where a folder is needed"
    assert error["hint"].endswith("with --to")


def test_a_folder_that_holds_something_is_left_alone(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        for more in ([], ["--merge"]):
            result = export(str(trained["float32"]), "--to", str(target), "--json", *more)
            assert result.exit_code == 4
            assert json.loads(result.stdout)["error"]["id"] == "INPUT-EXPORT-EXISTS"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_quiet_prints_the_folder_only(trained, tmp_path):
    result = export(str(trained["float32"]), "--to", str(tmp_path / "a"), "-q")
    assert (result.stdout, result.stderr) == (f"{tmp_path / 'a'}\n", "")
    assert export("nowhere", "--to", str(tmp_path / "b")).exit_code == 4
    assert export(str(trained["float32"])).exit_code == 2
