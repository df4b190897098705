"""Which tensors of a folder's weight files are used: all of them, once, and nothing beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_families import CONFIGS, NUM_LAYERS, save_random_model
from model_folder import copy_of, edit_json, edit_weights, write_model_folder
from safetensors.torch import load_file, save_file

from amaqctl.errors import InputError
from amaqctl.model.cut import StageRange, stage_ranges
from amaqctl.model.loading import load_stage
from amaqctl.model.source import ModelSource, resolve_source

IDS_BT = torch.tensor([[3, 9, 20, 33, 7]])
Weights = dict[str, torch.Tensor]


def logits(source: ModelSource, cuts: list[int] | None = None) -> torch.Tensor:
    """Of the whole model, or of its stages in a row."""
    whole = [StageRange(0, NUM_LAYERS, NUM_LAYERS)]
    hidden = None
    with torch.no_grad():
        for part in stage_ranges(NUM_LAYERS, cuts) if cuts else whole:
            stage = load_stage(source, part, torch.float32)
            hidden = stage(input_ids_BT=IDS_BT, hidden_BTC=hidden)
    assert hidden is not None
    return hidden


def refusal(folder: Path) -> InputError:
    """The error of each stage, which is the same one."""
    source = resolve_source(str(folder))
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    errors = []
    for part in stage_ranges(layers, [1, 2]):
        with pytest.raises(InputError) as caught:
            load_stage(source, part, torch.float32)
        errors.append(caught.value)
    assert len({str(error) for error in errors}) == 1
    assert errors[0].where == str(folder)
    assert errors[0].error_id == "INPUT-MODEL"
    assert errors[0].hint
    return errors[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return copy_of(base, tmp_path / "m")


def _old_buffers(weights: Weights) -> None:
    """What transformers saved once, and every model makes by itself."""
    for index in range(NUM_LAYERS):
        weights[f"model.layers.{index}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        weights[f"transformer.h.{index}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        weights[f"transformer.h.{index}.attn.masked_bias"] = torch.tensor(-1e4)
    weights["model.embeddings.position_ids"] = torch.arange(8)


def _without_prefix(weights: Weights) -> None:
    for name in list(weights):
        for prefix in ("model.", "transformer."):
            if name.startswith(prefix):
                weights[name.removeprefix(prefix)] = weights.pop(name)


def _embedding(weights: Weights) -> str:
    return next(name for name in weights if name.endswith(("embed_tokens.weight", "wte.weight")))


def _head_told_again(weights: Weights) -> None:
    embedding = _embedding(weights)
    weights.setdefault("lm_head.weight", weights[embedding].clone())


def _told_by_the_head(weights: Weights) -> None:
    """Of a tied pair, some tools keep the other one."""
    if "lm_head.weight" not in weights:
        embedding = _embedding(weights)
        weights["lm_head.weight"] = weights.pop(embedding)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(
    "change", [_old_buffers, _without_prefix, _head_told_again, _told_by_the_head]
)
def test_other_ways_to_write_the_same_weights_load(family, change, tmp_path: Path) -> None:
    source = save_random_model(CONFIGS[family], tmp_path)
    if change is _old_buffers and CONFIGS[family].model_type not in ("gpt2", "llama"):
        pytest.skip("this family never saved them")
    expected = logits(source)
    edit_weights(tmp_path, _kept_for(family) if change is _old_buffers else change)
    assert torch.equal(logits(source), expected)
    assert torch.equal(logits(source, [1, 3]), expected)


def _kept_for(family: str):
    own = "transformer." if family == "gpt2" else "model.layers"

    def change(weights: Weights) -> None:
        extra: Weights = {}
        _old_buffers(extra)
        weights.update({n: t for n, t in extra.items() if n.startswith(own)})

    return change


@pytest.mark.parametrize("family", CONFIGS)
def test_a_tensor_of_no_stage_is_a_fault_that_names_it(family: str, tmp_path: Path) -> None:
    save_random_model(CONFIGS[family], tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"v_head.weight": torch.ones(3)}))
    with pytest.raises(InputError, match=r"belongs to no part of the model: v_head\.weight \(1 in"):
        logits(resolve_source(str(tmp_path)), [1, 3])


def test_a_layer_too_few_or_too_many_in_the_configuration(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=3)
    error = refusal(folder)
    assert error.message.startswith("the weights have 4 blocks (such as model.layers.3.")
    assert error.message.endswith("config.json gives 3 (num_hidden_layers)")
    edit_json(folder / "config.json", num_hidden_layers=5)
    assert "config.json gives 5" in refusal(folder).message


def test_scales_of_quantized_weights_are_not_left_out(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(folder, lambda weights: weights.update({f"{name}_scale": torch.tensor(3.0)}))
    error = refusal(folder)
    assert f"{name}_scale" in error.message
    assert error.hint == "the weights look quantized: give the model as it was before"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_weights_of_another_than_a_floating_point_type(folder: Path, dtype: torch.dtype) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(folder, lambda weights: weights.update({name: weights[name].to(dtype)}))
    assert refusal(folder).message.startswith(f"{name} is of type ")


def test_two_tensors_for_one_place(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({"norm.weight": torch.ones(32)}))
    assert "two tensors of the weights are for model.norm.weight" in refusal(folder).message


def test_a_wrong_number_of_tokens_is_told_with_both_shapes(folder: Path) -> None:
    edit_json(folder / "config.json", vocab_size=300)
    assert refusal(folder).message == (
        "lm_head.weight has the shape (258, 32) in the weights, and (300, 32) by config.json"
    )


def test_an_adapter_beside_the_model_is_not_loaded(folder: Path) -> None:
    source = resolve_source(str(folder))
    expected = logits(source)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 4})
    save_file({"base_model.model.x": torch.ones(1)}, folder / "adapter_model.safetensors")
    assert torch.equal(logits(source), expected)


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))


def _sharded(folder: Path) -> dict[str, str]:
    """Cut the weights into two shards; returns the index's map."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {n: f"model-0000{1 + (n > names[len(names) // 2])}-of-00002.safetensors" for n in names}
    for file in set(files.values()):
        save_file({n: weights[n] for n in names if files[n] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
    return files


def test_shards_give_the_same_model(folder: Path) -> None:
    source = resolve_source(str(folder))
    expected = logits(source)
    _sharded(folder)
    assert torch.equal(logits(source, [2]), expected)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../other/model.safetensors", "names a shard outside the model's folder"),
        ("/etc/passwd", "names a shard outside the model's folder"),
        ("..", "names a shard outside the model's folder"),
        (7, "names a shard outside the model's folder"),
        ("pytorch_model.bin", "names a shard that is no safetensors file"),
        ("model-9.safetensors", "the shard model-9.safetensors, which"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(folder: Path, name: object, told: str) -> None:
    files = _sharded(folder)
    (folder.parent / "other").mkdir()
    first = min(files)
    save_file({first: torch.ones(1)}, folder.parent / "other" / "model.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": files | {first: name}})
    assert told in refusal(folder).message


def test_a_tensor_in_two_shards(folder: Path) -> None:
    files = _sharded(folder)
    first, last = min(files), max(files)
    weights = load_file(folder / files[last])
    save_file({**weights, first: torch.ones(1)}, folder / files[last])
    assert refusal(folder).message == f"the weight files hold {first} twice"


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refusal(folder)
    assert error.message.startswith("there is neither model.safetensors nor")
    assert "never read" in (error.hint or "")
