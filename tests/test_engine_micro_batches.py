"""What belongs to a step is done once, and what belongs to a micro-batch is its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_parts import CountingTransport, engine_of, random_examples
from model_families import CONFIGS, save_random_model
from torch import Tensor, nn

from amaqctl.engine.engine import Engine
from amaqctl.engine.stage import Stage
from amaqctl.model.lora import LoraSettings
from amaqctl.model.source import ModelSource
from amaqctl.tasks.batch import Batch, collate


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return save_random_model(CONFIGS["llama"], tmp_path_factory.mktemp("model") / "llama")


def four_alike() -> Batch:
    """Four times one example: without dropout, micro-batches of it are the same."""
    return collate(random_examples(1, 3) * 4, 0, 16)


def gradients_at_step(stage: Stage, parameter: nn.Parameter) -> list[Tensor]:
    """Filled with the parameter's gradient whenever the optimizer is about to use it."""
    seen: list[Tensor] = []

    def watch(*_: Any) -> None:
        assert parameter.grad is not None
        seen.append(parameter.grad.clone())

    assert stage.optimizer is not None
    stage.optimizer.register_step_pre_hook(watch)
    return seen


@pytest.mark.parametrize("num_micro_batches", [1, 2, 4])
def test_the_penalty_counts_once_a_step(llama: ModelSource, num_micro_batches: int) -> None:
    beta = 1e6  # nothing that the task says of the gates is seen beside it
    options = {"mode": "paper", "beta": beta}
    engine = engine_of(
        llama,
        [2],
        transport=CountingTransport(),
        micro_batches=num_micro_batches,
        quantizers=(("amaq", options), ("none", {})),
    )
    stage = engine.stages[0]
    assert stage.outgoing is not None
    sender = stage.outgoing.activations.quantizers.sender
    (group,) = sender.param_groups()
    (gates_K,) = group["params"]
    z_K = sender.config.alpha * gates_K.detach().double()  # type: ignore[attr-defined]
    share_K = torch.sigmoid(z_K)
    # The derivative of β · mean σ(α·q)² by each gate.
    expected_K = beta * 2 * share_K**2 * (1 - share_K) * sender.config.alpha / len(z_K)  # type: ignore[attr-defined]
    seen = gradients_at_step(stage, gates_K)
    engine.train_step(four_alike(), 0)
    assert len(seen) == 1
    assert torch.allclose(seen[0].double(), expected_K, rtol=1e-3)


def dropped(engine: Engine, step: int) -> dict[str, list[Tensor]]:
    """Which values each dropout of a training step set to zero, a mask for each micro-batch."""
    masks: dict[str, list[Tensor]] = {}
    hooks = []
    for index, stage in engine.stages.items():
        for name, module in stage.model.named_modules():
            if isinstance(module, nn.Dropout):
                place = masks.setdefault(f"{index} {name}", [])
                hooks.append(
                    module.register_forward_hook(
                        lambda _module, given, out, place=place: place.append(
                            (out == 0) & (given[0] != 0)
                        )
                    )
                )
    engine.train_step(four_alike(), step)
    for hook in hooks:
        hook.remove()
    assert masks
    return masks


def test_each_micro_batch_has_dropout_of_its_own(llama: ModelSource) -> None:
    lora = LoraSettings(r=4, alpha=8, dropout=0.5, target_modules=("q_proj", "up_proj"))
    parts: dict[str, Any] = {"micro_batches": 2, "lora": lora}
    engine = engine_of(llama, [2], transport=CountingTransport(), **parts)
    masks = dropped(engine, 0)
    later = dropped(engine, 1)
    again = dropped(engine_of(llama, [2], transport=CountingTransport(), **parts), 0)
    for name, (first, second) in masks.items():
        assert first.shape == second.shape
        assert not torch.equal(first, second), name  # of another micro-batch
        assert not torch.equal(first, later[name][0]), name  # of another step
        assert torch.equal(first, again[name][0]), name  # of another process
        assert torch.equal(second, again[name][1]), name
    same_stage = [m for name, m in masks.items() if "q_proj" in name]
    assert len({tuple(m[0].flatten().tolist()) for m in same_stage}) == len(same_stage)
