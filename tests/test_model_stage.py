"""What one stage holds, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_families import CONFIGS, NUM_LAYERS, VOCABULARY, save_random_model
from safetensors.torch import load_file
from torch import nn
from transformers import Cache

from amaqctl.errors import InputError
from amaqctl.model.cut import StageRange, stage_ranges
from amaqctl.model.loading import load_stage
from amaqctl.model.slots import NoEmbedding, NoModule, Sink, Skip, Source, layer_list
from amaqctl.model.source import ModelSource
from amaqctl.model.stage_model import StageModel

EMBEDDING = VOCABULARY * 32


@pytest.fixture(scope="module", params=CONFIGS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return save_random_model(CONFIGS[request.param], tmp_path_factory.mktemp("models") / "model")


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_stages_together_hold_every_weight_of_the_file_once(source: ModelSource) -> None:
    stored = load_file(Path(source.folder_or_hub_id) / "model.safetensors")
    stages = [load_stage(source, part, torch.float32) for part in stage_ranges(NUM_LAYERS, [1, 3])]
    held: dict[str, torch.Tensor] = {}
    num_held = 0
    for stage in stages:
        assert not any(p.requires_grad or p.is_meta for p in stage.parameters())
        assert not any(buffer.is_meta for buffer in stage.buffers())
        assert not stage.training
        held |= dict(stage.model.named_parameters())
        num_held += num_parameters(stage)
    config = stages[0].config
    twice = 0
    if config.tie_word_embeddings:
        twice = stages[0].model.get_input_embeddings().weight.numel()
    assert num_held == sum(tensor.numel() for tensor in stored.values()) + twice
    assert set(held) == set(stored)
    assert all(torch.equal(held[name], stored[name]) for name in stored)


def test_a_middle_stage_holds_its_blocks_and_nothing_else(source: ModelSource) -> None:
    stage = load_stage(source, StageRange(1, 3, NUM_LAYERS), torch.float32)
    name = layer_list(stage.model, stage.config)[0]
    assert {
        ".".join(p.split(".")[: name.count(".") + 2]) for p, _ in stage.model.named_parameters()
    } == {
        f"{name}.1",
        f"{name}.2",
    }
    assert [type(block) for block in stage.blocks if isinstance(block, Skip)] == [Source, Sink]
    assert isinstance(stage.model.get_input_embeddings(), NoEmbedding)
    assert isinstance(stage.model.get_output_embeddings(), NoModule)


def test_parameter_counts_of_a_tied_and_an_untied_llama(tmp_path: Path) -> None:
    block = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    for name in ("llama", "llama-untied"):
        source = save_random_model(CONFIGS[name], tmp_path / name)
        stages = [load_stage(source, p, torch.float32) for p in stage_ranges(NUM_LAYERS, "all")]
        expected = [EMBEDDING + block, block, block, block + 32 + EMBEDDING]
        assert [num_parameters(stage) for stage in stages] == expected


def test_one_stage_that_holds_all_is_the_whole_model(tmp_path: Path) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    whole = load_stage(source, StageRange(0, NUM_LAYERS, NUM_LAYERS), torch.float32)
    ids_BT = torch.arange(6).view(1, 6)
    hidden = None
    for part in stage_ranges(NUM_LAYERS, [2]):
        hidden = load_stage(source, part, torch.float32)(input_ids_BT=ids_BT, hidden_BTC=hidden)
    assert hidden is not None
    assert torch.equal(whole(input_ids_BT=ids_BT), hidden)
    assert hidden.shape == (1, 6, VOCABULARY)


def test_weights_come_in_the_asked_dtype_and_loading_leaves_the_default_alone(
    tmp_path: Path,
) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    stage = load_stage(source, StageRange(1, 2, NUM_LAYERS), torch.bfloat16)
    assert {p.dtype for p in stage.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.rand(2), expected)


def test_caches_of_a_stage_count_tokens_and_cost_a_byte_where_blocks_are_foreign(
    tmp_path: Path,
) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    stage = load_stage(source, StageRange(2, 3, NUM_LAYERS), torch.float32)
    cache = stage.new_cache()
    with torch.no_grad():
        for num_tokens in (5, 1, 1):
            stage(hidden_BTC=torch.randn(2, num_tokens, 32), cache=cache)
    assert isinstance(cache, Cache)
    assert [cache.get_seq_length(i) for i in range(NUM_LAYERS)] == [7] * NUM_LAYERS
    sizes = [layer.keys.numel() * layer.keys.element_size() for layer in cache.layers]
    assert sizes == [2 * 7, 2 * 7, 2 * 2 * 7 * 8 * 4, 2 * 7]


def test_slots_keep_no_tensor_after_a_call(tmp_path: Path) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    stage = load_stage(source, StageRange(1, 3, NUM_LAYERS), torch.float32)
    stage(hidden_BTC=torch.randn(1, 2, 32))
    entry, exit_ = stage.blocks[0], stage.blocks[3]
    assert entry.received_BTC is None
    assert exit_.captured_BTC is None


def test_the_probe_refuses_a_model_that_works_between_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    forward = Skip.forward
    monkeypatch.setattr(Skip, "forward", lambda self, h, *a, **k: forward(self, h, *a, **k) * 2)
    load_stage(source, StageRange(0, 2, NUM_LAYERS), torch.float32)
    with pytest.raises(InputError, match="changes the hidden state between its blocks"):
        load_stage(source, StageRange(1, 3, NUM_LAYERS), torch.float32)


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    stage = load_stage(source, StageRange(0, 2, NUM_LAYERS), torch.float32)
    assert isinstance(stage, StageModel)
    stage.model.more = nn.ModuleList([nn.Identity() for _ in range(NUM_LAYERS)])
    with pytest.raises(InputError, match="2 lists of 4 modules"):
        layer_list(stage.model, stage.config)
