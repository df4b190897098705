"""LoRA on stages, and their union as a stock PEFT adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import CONFIGS, NUM_LAYERS, save_random_model
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from amaqctl.errors import InputError
from amaqctl.model.adapter import load_adapter, save_adapter
from amaqctl.model.cut import Cuts, stage_ranges
from amaqctl.model.loading import load_stage
from amaqctl.model.lora import attach_lora, lora_parameters
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.source import ModelSource
from amaqctl.model.stage_model import StageModel

# stock peft still asks transformers by a deprecated name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SETTINGS = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))
EVERY_LINEAR = replace(SETTINGS, target_modules="all-linear")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return save_random_model(CONFIGS["llama"], tmp_path_factory.mktemp("llama"))


def staged(
    source: ModelSource, cuts: Cuts, settings: LoraSettings, seed: int = 17
) -> list[StageModel]:
    stages = [load_stage(source, part, torch.float32) for part in stage_ranges(NUM_LAYERS, cuts)]
    for stage in stages:
        attach_lora(stage, settings, seed)
    return stages


def union(stages: list[StageModel]) -> dict[str, torch.Tensor]:
    return {name: p for stage in stages for name, p in lora_parameters(stage).items()}


def whole_model(source: ModelSource) -> Any:
    with no_progress_bar():
        return AutoModelForCausalLM.from_pretrained(source.folder_or_hub_id, dtype=torch.float32)


def randomise(stages: list[StageModel]) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in union(stages).values():
            parameter.normal_(generator=generator)


def chained(stages: list[StageModel], ids_BT: torch.Tensor) -> torch.Tensor:
    hidden = None
    with torch.no_grad():
        for stage in stages:
            hidden = stage(input_ids_BT=ids_BT, hidden_BTC=hidden)
    assert hidden is not None
    return hidden


def test_adapters_start_the_same_wherever_the_model_is_cut(llama: ModelSource) -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    one, many = union(staged(llama, [2], SETTINGS)), union(staged(llama, "all", SETTINGS))
    assert torch.equal(torch.rand(2), expected)
    assert sorted(one) == sorted(many)
    assert len(one) == NUM_LAYERS * 2 * 2
    for name, parameter in one.items():
        assert torch.equal(parameter, many[name])
        assert bool(parameter.abs().max() > 0) == (".lora_A." in name)
        assert parameter.requires_grad
    other = union(staged(llama, [2], SETTINGS, seed=18))
    assert not torch.equal(other[min(other)], one[min(one)])


def test_only_adapters_can_be_trained(llama: ModelSource) -> None:
    for stage in staged(llama, [1, 3], EVERY_LINEAR):
        trainable = {id(p) for p in stage.parameters() if p.requires_grad}
        assert trainable == {id(p) for p in lora_parameters(stage).values()}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_union_is_a_stock_adapter(family: str, tmp_path: Path) -> None:
    source = save_random_model(CONFIGS[family], tmp_path / "model")
    stages = staged(source, [1, 3], EVERY_LINEAR)
    randomise(stages)
    save_adapter(stages, tmp_path / "adapter", source, EVERY_LINEAR)
    ids_BT = torch.tensor([[3, 9, 20, 33, 7]])

    loaded = PeftModel.from_pretrained(whole_model(source), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids_BT).logits, chained(stages, ids_BT))

    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )
    stock = get_peft_model_state_dict(get_peft_model(whole_model(source), config))
    ours = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in stock.items()}


def test_the_adapter_names_its_base_and_repeats_byte_for_byte(
    llama: ModelSource, tmp_path: Path
) -> None:
    source = replace(llama, base_model_name="org/model", revision="v3")
    stages = staged(llama, [2], SETTINGS)
    for name in ("first", "second"):
        save_adapter(stages, tmp_path / name, source, SETTINGS)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    expected = {
        "base_model_name_or_path": "org/model",
        "revision": "v3",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    assert {key: config[key] for key in expected} == expected


def test_an_adapter_loads_into_other_cuts(llama: ModelSource, tmp_path: Path) -> None:
    stages = staged(llama, [1, 3], SETTINGS)
    randomise(stages)
    save_adapter(stages, tmp_path / "adapter", llama, SETTINGS)
    others = staged(llama, "all", SETTINGS, seed=1)
    load_adapter(others, tmp_path / "adapter")
    ids_BT = torch.tensor([[5, 6, 7]])
    assert torch.equal(chained(others, ids_BT), chained(stages, ids_BT))
    # A process that holds one stage only passes the others' weights over.
    alone = staged(llama, [1, 3], SETTINGS, seed=2)[1]
    load_adapter([alone], tmp_path / "adapter")
    for name, parameter in lora_parameters(alone).items():
        assert torch.equal(parameter, union(stages)[name])


def test_saving_replaces_an_adapter_but_no_other_folder(llama: ModelSource, tmp_path: Path) -> None:
    stages = staged(llama, [2], SETTINGS)
    save_adapter(stages, tmp_path / "adapter", llama, SETTINGS)
    randomise(stages)
    save_adapter(stages, tmp_path / "adapter", llama, SETTINGS)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in union(stages).items())
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    (tmp_path / "adapter" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="cannot be written over other files"):
        save_adapter(stages, tmp_path / "adapter", llama, SETTINGS)
    assert (tmp_path / "adapter" / "thesis.txt").read_text() == "mine"


def test_a_target_that_is_nowhere_names_what_there_is(llama: ModelSource) -> None:
    stage = load_stage(llama, stage_ranges(NUM_LAYERS, [2])[1], torch.float32)
    with pytest.raises(InputError) as caught:
        attach_lora(stage, replace(SETTINGS, target_modules=("q_proj", "v_prj")), 17)
    assert caught.value.message == "no linear layer of this model is named 'v_prj'"
    assert caught.value.hint == (
        "did you mean 'v_proj'? it has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, "
        "v_proj; or all-linear"
    )
    assert stage.lora is None
    with pytest.raises(InputError, match="'lm_head'"):
        attach_lora(stage, replace(SETTINGS, target_modules=("lm_head",)), 17)


def test_a_target_that_is_wrapped_already_is_told_from_one_that_is_not_here(
    llama: ModelSource,
) -> None:
    stage = load_stage(llama, stage_ranges(NUM_LAYERS, [2])[1], torch.float32)
    attach_lora(stage, replace(SETTINGS, target_modules=("layers.0.self_attn.q_proj",)), 17)
    assert not lora_parameters(stage)  # the layer is the other stage's
    stage.lora = None
    attach_lora(stage, SETTINGS, 17)
    stage.lora = None
    with pytest.raises(InputError, match=r"q_proj is wrapped already, by Linear") as caught:
        attach_lora(stage, SETTINGS, 17)
    assert caught.value.error_id == "INPUT-LORA-WRAPPED"
    assert stage.lora is None


def test_a_stage_without_target_layers_has_no_adapter(tmp_path: Path) -> None:
    source = save_random_model(CONFIGS["opt-projected"], tmp_path / "model")
    settings = replace(SETTINGS, target_modules=("project_in", "layers.3.fc1"))
    stages = staged(source, [1, 3], settings)
    assert [len(lora_parameters(stage)) for stage in stages] == [2, 0, 2]
    randomise(stages)
    save_adapter(stages, tmp_path / "adapter", source, settings)
    load_adapter(stages, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(whole_model(source), tmp_path / "adapter").eval()
    ids_BT = torch.tensor([[3, 9, 20]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids_BT).logits, chained(stages, ids_BT))


def _edit_weights(folder: Path, change: str) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    name = min(weights)
    if change == "lacks":
        del weights[name]
    elif change == "also has":
        weights["base_model.model.other.lora_A.weight"] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(2, 2)
    save_file(weights, path)


def _edit_config(folder: Path, key: str, value: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


@pytest.mark.parametrize("change", ["lacks", "also has", "has shape"])
def test_an_adapter_that_does_not_fit_changes_nothing(
    llama: ModelSource, tmp_path: Path, change: str
) -> None:
    stages = staged(llama, [2], SETTINGS)
    save_adapter(stages, tmp_path / "adapter", llama, SETTINGS)
    _edit_weights(tmp_path / "adapter", change)
    randomise(stages)
    before = {name: value.clone() for name, value in union(stages).items()}
    with pytest.raises(InputError, match=change) as caught:
        load_adapter(stages, tmp_path / "adapter")
    assert caught.value.error_id == "INPUT-ADAPTER"
    assert all(torch.equal(value, before[name]) for name, value in union(stages).items())


def test_another_alpha_rank_or_a_broken_file_is_refused(llama: ModelSource, tmp_path: Path) -> None:
    save_adapter(staged(llama, [2], SETTINGS), tmp_path / "adapter", llama, SETTINGS)
    with pytest.raises(InputError, match="alpha is 8, not 16"):
        load_adapter(staged(llama, [2], replace(SETTINGS, alpha=16)), tmp_path / "adapter")
    with pytest.raises(InputError, match="has shape"):
        load_adapter(staged(llama, [2], replace(SETTINGS, r=2)), tmp_path / "adapter")
    for key, other in (
        ("peft_type", "LOHA"),
        ("use_rslora", True),
        ("use_dora", True),
        ("lora_bias", True),
    ):
        _edit_config(tmp_path / "adapter", key, other)
        with pytest.raises(InputError, match=f"the adapter's {key} is {other!r}, not "):
            load_adapter(staged(llama, [2], SETTINGS), tmp_path / "adapter")
        _edit_config(tmp_path / "adapter", key, "LORA" if key == "peft_type" else False)
    load_adapter(staged(llama, [2], SETTINGS), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"\x08")
    with pytest.raises(InputError, match="the adapter cannot be read"):
        load_adapter(staged(llama, [2], SETTINGS), tmp_path / "adapter")
    with pytest.raises(InputError, match="the adapter cannot be read"):
        load_adapter(staged(llama, [2], SETTINGS), tmp_path / "nowhere")
