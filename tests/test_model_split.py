"""The equality that all else rests on: a cut model is the whole model, bit for bit.

The families here are exactly those that amaqctl accepts. The reference is stock transformers
with stock peft; stages are chained by plain tensors, with a fresh leaf at every cut.

Shapes: B batch, T tokens of a call, S tokens so far, C channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from model_families import CONFIGS, NUM_LAYERS, VOCABULARY, save_random_model
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from amaqctl.model.cut import Cuts, stage_ranges
from amaqctl.model.families import SUPPORTED
from amaqctl.model.loading import load_stage
from amaqctl.model.lora import attach_lora, initialise_lora, lora_parameters
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.source import ModelSource
from amaqctl.model.stage_model import (
    StageModel,
    enable_gradient_checkpointing,
    position_ids,
)
from amaqctl.model.wide_product import multiply_wide

# stock peft, in the reference only, still asks transformers by a deprecated name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SEED = 17
NUM_STEPS = 5
NUM_NEW_TOKENS = 7
SETTINGS = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules="all-linear")
CUTS: dict[str, Cuts] = {"one-cut": [2], "u-shape": [1, 3], "all": "all"}
VARIANTS = ("right", "left", "right-checkpointed", "left-checkpointed")
# Each way of cutting meets both paddings, and runs with and without gradient checkpointing.
RUNS = [
    *(("one-cut", "right"), ("one-cut", "left-checkpointed")),
    *(("u-shape", "left"), ("u-shape", "right-checkpointed")),
    *(("all", "right"), ("all", "left-checkpointed")),
]


@dataclass
class Training:
    """What one run leaves: logits and loss of each step, final adapters, generated tokens."""

    logits: list[Tensor]
    losses: list[Tensor]
    adapters: dict[str, Tensor]
    tokens: Tensor


def batch(padding: str) -> tuple[Tensor, Tensor]:
    """Tokens and mask, ``(3, 12)``, with 0, 3 and 7 tokens of padding."""
    generator = torch.Generator().manual_seed(3)
    ids_BT = torch.randint(3, VOCABULARY, (3, 12), generator=generator)
    mask_BT = torch.ones_like(ids_BT)
    for row, num_padding in enumerate((0, 3, 7)):
        if num_padding:
            mask_BT[
                row, slice(-num_padding, None) if padding == "right" else slice(num_padding)
            ] = 0
    return ids_BT * mask_BT, mask_BT


def loss_of(logits_BTV: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    return torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].float().flatten(0, 1), labels_BT[:, 1:].flatten()
    )


def chain_forward(stages: list[StageModel], ids_BT: Tensor, mask_BT: Tensor) -> list[list[Tensor]]:
    """``[input, output]`` of every stage; inputs are leaves of their own graphs."""
    crossings: list[list[Tensor]] = []
    hidden = None
    for stage in stages:
        out = stage(input_ids_BT=ids_BT, hidden_BTC=hidden, attention_mask_BT=mask_BT)
        crossings.append([hidden if hidden is not None else ids_BT, out])
        hidden = out.detach().requires_grad_()
    return crossings


def greedy_generate(stages: list[StageModel], ids_BT: Tensor, mask_BS: Tensor) -> Tensor:
    caches = [stage.new_cache() for stage in stages]
    tokens_BS, step_BT = ids_BT, ids_BT
    for _ in range(NUM_NEW_TOKENS):
        out = None
        for stage, cache in zip(stages, caches, strict=True):
            out = stage(
                input_ids_BT=step_BT, hidden_BTC=out, attention_mask_BT=mask_BS, cache=cache
            )
        assert out is not None
        step_BT = out[:, -1:].argmax(-1)
        tokens_BS = torch.cat([tokens_BS, step_BT], dim=1)
        mask_BS = torch.cat([mask_BS, torch.ones_like(step_BT)], dim=1)
    return tokens_BS


def train_split(source: ModelSource, cuts: Cuts, variant: str, dtype: torch.dtype) -> Training:
    stages = [load_stage(source, part, dtype) for part in stage_ranges(NUM_LAYERS, cuts)]
    for stage in stages:
        attach_lora(stage, SETTINGS, SEED)
        stage.train()
        if variant.endswith("checkpointed"):
            enable_gradient_checkpointing(stage)
    optimizers = [torch.optim.AdamW(lora_parameters(s).values(), lr=1e-2) for s in stages]
    ids_BT, mask_BT = batch(variant.partition("-")[0])
    logits, losses = [], []
    for _ in range(NUM_STEPS):
        crossings = chain_forward(stages, ids_BT, mask_BT)
        loss = loss_of(crossings[-1][1], ids_BT, mask_BT)
        loss.backward()
        for (_, sent), (received, _) in reversed(list(pairwise(crossings))):
            sent.backward(received.grad)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        logits.append(crossings[-1][1].detach())
        losses.append(loss.detach())
    adapters: dict[str, Tensor] = {}
    for stage in stages:
        stage.eval()
        adapters |= {name: value.detach() for name, value in lora_parameters(stage).items()}
    with torch.no_grad():
        tokens_BT = greedy_generate(stages, *batch("left"))
    return Training(logits, losses, adapters, tokens_BT)


def whole_model(source: ModelSource, dtype: torch.dtype) -> Any:
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(source.folder_or_hub_id, dtype=dtype)
    multiply_wide(model, dtype)  # as stages do, where torch's own products are other bits
    config = LoraConfig(
        r=SETTINGS.r,
        lora_alpha=SETTINGS.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    model = get_peft_model(model, config)
    initialise_lora(adapters_of(model), SEED)
    return model


def adapters_of(model: Any) -> dict[str, torch.nn.Parameter]:
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def train_whole(source: ModelSource, variant: str, dtype: torch.dtype) -> Training:
    model = whole_model(source, dtype)
    model.train()
    if variant.endswith("checkpointed"):
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(adapters_of(model).values(), lr=1e-2)
    ids_BT, mask_BT = batch(variant.partition("-")[0])
    # Right padding: a plain forward. Left padding: positions as `generate` makes them.
    positions = (mask_BT.cumsum(-1) - 1).masked_fill(mask_BT == 0, 0)
    extra = {"position_ids": positions} if variant.startswith("left") else {}
    logits, losses = [], []
    for _ in range(NUM_STEPS):
        out = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, **extra)
        loss = loss_of(out.logits, ids_BT, mask_BT)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        logits.append(out.logits.detach())
        losses.append(loss.detach())
    model.eval()
    prompt_BT, prompt_mask_BT = batch("left")
    tokens_BT = model.generate(
        input_ids=prompt_BT,
        attention_mask=prompt_mask_BT,
        do_sample=False,
        max_new_tokens=NUM_NEW_TOKENS,
    )
    adapters = {name: value.detach() for name, value in adapters_of(model).items()}
    return Training(logits, losses, adapters, tokens_BT)


def assert_same(split: Training, whole: Training) -> None:
    for ours, theirs in zip(split.logits, whole.logits, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.stack(split.losses).tolist() == torch.stack(whole.losses).tolist()
    assert sorted(split.adapters) == sorted(whole.adapters)
    for name, theirs in whole.adapters.items():
        assert torch.equal(split.adapters[name], theirs), name
    assert split.tokens.tolist() == whole.tokens.tolist()


@pytest.fixture(scope="module", params=CONFIGS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    name = request.param
    return save_random_model(CONFIGS[name], tmp_path_factory.mktemp("models") / name)


@pytest.fixture(scope="module")
def whole(source: ModelSource) -> dict[str, Training]:
    return {variant: train_whole(source, variant, torch.float32) for variant in VARIANTS}


def test_every_supported_family_is_tried_and_no_other() -> None:
    assert {config.model_type for config in CONFIGS.values()} == set(SUPPORTED)


@pytest.mark.parametrize("cuts, variant", RUNS)
def test_split_training_equals_whole_training(
    source: ModelSource, whole: dict[str, Training], cuts: str, variant: str
) -> None:
    split = train_split(source, CUTS[cuts], variant, torch.float32)
    assert_same(split, whole[variant])


def test_training_moved_every_adapter_and_lowered_the_loss(whole: dict[str, Training]) -> None:
    """Equality would be empty if nothing had trained."""
    for training in whole.values():
        assert training.losses[-1] < training.losses[0]
        assert all(
            value.abs().max() > 0 for name, value in training.adapters.items() if "lora_B" in name
        )


@pytest.mark.parametrize("source", ["llama", "gpt2"], indirect=True)
@pytest.mark.parametrize("variant", ["right", "left-checkpointed"])
def test_bfloat16_weights_with_float32_adapters(source: ModelSource, variant: str) -> None:
    split = train_split(source, CUTS["u-shape"], variant, torch.bfloat16)
    assert_same(split, train_whole(source, variant, torch.bfloat16))
    assert split.logits[0].dtype == torch.bfloat16
    assert {value.dtype for value in split.adapters.values()} == {torch.float32}


def test_generation_without_padding_and_without_mask(source: ModelSource) -> None:
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(source.folder_or_hub_id, dtype=torch.float32)
    ids_BT = batch("right")[0][:2, :9]
    mask_BT = torch.ones_like(ids_BT)
    expected = model.generate(
        input_ids=ids_BT, attention_mask=mask_BT, do_sample=False, max_new_tokens=NUM_NEW_TOKENS
    )
    stages = [load_stage(source, part, torch.float32) for part in stage_ranges(NUM_LAYERS, [1, 3])]
    with torch.no_grad():
        assert greedy_generate(stages, ids_BT, mask_BT).tolist() == expected.tolist()
        plain = chain_forward(stages, ids_BT, None)[-1][1]  # type: ignore[arg-type]
        assert torch.equal(plain, model(input_ids=ids_BT).logits)


def test_positions_are_left_alone_unless_padding_is_in_front() -> None:
    right = torch.tensor([[1, 1, 1], [1, 0, 0]])
    left = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    assert position_ids(None, 3) is None
    assert position_ids(right, 3) is None
    found = position_ids(left, 4)
    assert found is not None
    assert found.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    newest = position_ids(left, 1)
    assert newest is not None
    assert newest.tolist() == [[3], [1]]
