"""Where the cut lies has no say in a result, with the clip active and dropout on.

Nothing is quantized, as another cut has other values to quantize.
"""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
import torch
from engine_parts import CountingTransport, engine_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from model_families import CONFIGS, NUM_LAYERS, save_random_model
from test_engine_training import built, step_of
from torch import nn
from torch.utils.checkpoint import checkpoint
from whole_training import (
    NUM_STEPS,
    Result,
    Run,
    adapters_of,
    assert_same,
    batches,
    train_split,
    train_whole,
    whole_model,
)

from amaqctl.engine.gradient_norm import parameter_norms, total_norm
from amaqctl.model.cut import StageRange
from amaqctl.model.loading import load_stage
from amaqctl.model.lora import attach_lora, lora_parameters, lora_places
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.source import ModelSource, resolve_source

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CPU = torch.device("cpu")
TINY_LAYERS = 8
# In every step above what the gradient's norm is brought down to.
ACTIVE: dict[str, Any] = {"dropout": 0.2, "max_grad_norm": 0.05}


def assert_clipped(result: Result, run: Run) -> None:
    assert run.max_grad_norm is not None
    assert min(result.norms) > run.max_grad_norm
    assert len(set(result.losses)) == NUM_STEPS


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_every_cut_of_tiny_is_the_whole_model(micro_batches: int) -> None:
    source = resolve_source("tiny")
    whole, end_id = train_whole(source, Run((), micro_batches, **ACTIVE))
    for cut in range(1, TINY_LAYERS):
        run = Run((cut,), micro_batches, **ACTIVE)
        assert_same(train_split(source, run, end_id)[0], whole)
    assert_clipped(whole, run)


DROPPING = {
    "llama": {"attention_dropout": 0.3},
    "gpt2": {"embd_pdrop": 0.2, "resid_pdrop": 0.1, "attn_pdrop": 0.3},
    "opt": {"dropout": 0.2, "attention_dropout": 0.3},
    "opt-projected": {"dropout": 0.2, "attention_dropout": 0.3},
}


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """Models that drop activations of their own, beside what an adapter drops."""
    made = {}
    for name, rates in DROPPING.items():
        config = copy.deepcopy(CONFIGS[name])
        config.update(rates)
        made[name] = save_random_model(config, tmp_path_factory.mktemp("dropping") / name)
    return made


@pytest.mark.parametrize(
    "run",
    [
        Run((1,), 1, **ACTIVE),
        Run((1, 3), 2, True, **ACTIVE),
        Run("all", 4, True, **ACTIVE),
    ],
    ids=["1", "1-3-checkpointed", "all-checkpointed"],
)
@pytest.mark.parametrize("family", DROPPING)
def test_a_model_with_dropout_of_its_own(
    dropping: dict[str, ModelSource], family: str, run: Run
) -> None:
    whole, end_id = train_whole(dropping[family], run)
    assert_same(train_split(dropping[family], run, end_id)[0], whole)
    assert_clipped(whole, run)
    without = Run(run.cuts, run.micro_batches, run.checkpointed, max_grad_norm=run.max_grad_norm)
    assert train_whole(dropping[family], without)[0].losses != whole.losses


class Recomputed(nn.Module):
    """A block whose activations are not kept, in the older of transformers' two ways: what runs
    again in backward is the whole call, hooks and all.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self.block, *args, use_reentrant=False, **kwargs)


def test_what_is_computed_once_more_drops_the_same(dropping: dict[str, ModelSource]) -> None:
    found = []
    for is_recomputed in (False, True):
        run = Run((1,), 2, **ACTIVE)
        engine = engine_of(
            dropping["gpt2"],
            run.cuts,
            transport=CountingTransport(),
            micro_batches=run.micro_batches,
            lora=run.lora,
            max_grad_norm=run.max_grad_norm,
        )
        for stage in engine.stages.values() if is_recomputed else ():
            for index, block in stage.model.own_blocks.items():
                stage.model.blocks[index] = Recomputed(block)
        results = [engine.train_step(batch, step) for step, batch in enumerate(batches())]
        found.append([(result.loss, result.grad_norm) for result in results])
    assert found[0] == found[1]


def test_one_profile_has_one_result_wherever_it_is_cut() -> None:
    overrides = ["train.max_grad_norm=0.5", "lora.dropout=0.1", "quantizers.activation.name=none"]
    found = []
    for cut in (1, 2, 7):
        made = built(*overrides, "quantizers.gradient.name=none", f"split.cuts=[{cut}]")
        results = [step_of(made, step) for step in range(8)]
        adapter = hashlib.sha256()
        for stage in made.engine.stages.values():
            for name, weight in lora_parameters(stage.model).items():
                adapter.update(name.encode() + weight.detach().numpy().tobytes())
        found.append(([(r.loss, r.grad_norm) for r in results], adapter.hexdigest()))
    assert found[0] == found[1] == found[2]
    assert min(norm for _, norm in found[0][0]) > 0.5


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@hypothesis_settings(deadline=None, max_examples=200)
@given(sizes=sizes, seed=st.integers(0, 2**32 - 1), num_stages=st.integers(1, 5))
def test_the_norm_is_that_of_torch(sizes: list[int], seed: int, num_stages: int) -> None:
    """From one number a parameter, whatever stage sends it, and in whatever order."""
    generator = torch.Generator().manual_seed(seed)
    weights = [nn.Parameter(torch.zeros(size)) for size in sizes]
    for place, weight in enumerate(weights):
        if place % 7 != 6:  # an expert that no token went to has no gradient
            scale = 10.0 ** float(torch.empty(1).uniform_(-6, 6, generator=generator))
            weight.grad = scale * torch.randn(weight.shape, generator=generator)
    norms: dict[int, float] = {}
    for stage in reversed(range(num_stages)):
        norms |= parameter_norms(dict(list(enumerate(weights))[stage::num_stages]))
    theirs = nn.utils.clip_grad_norm_(weights, 1.0)
    assert total_norm(norms, 0, CPU) == float(theirs)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_places_are_the_order_of_the_whole_models_weights(family: str, tmp_path: Any) -> None:
    source = save_random_model(CONFIGS[family], tmp_path / "model")
    names = list(adapters_of(whole_model(source, Run(()))))
    found: dict[int, str] = {}
    for cut in (1, 3):
        for first, end in ((0, cut), (cut, NUM_LAYERS)):
            stage = load_stage(source, StageRange(first, end, NUM_LAYERS), torch.float32)
            attach_lora(stage, LoraSettings(4, 8, 0.0, "all-linear"), 1)
            own = {id(weight): name for name, weight in lora_parameters(stage).items()}
            for place, weight in lora_places(stage).items():
                assert found.setdefault(place, own[id(weight)]) == own[id(weight)]
    assert [found[place] for place in range(len(found))] == names
