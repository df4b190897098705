"""What belongs to a step is done once, and what belongs to a micro-batch is its own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_parts import CountingTransport, engine_of, logits_of, random_examples
from model_families import CONFIGS, save_random_model
from torch import Tensor, nn

from amaqctl.engine.engine import Engine
from amaqctl.engine.stage import Stage
from amaqctl.model.lora import LoraSettings
from amaqctl.model.source import ModelSource
from amaqctl.tasks.batch import Batch, collate
from amaqctl.tasks.task import Example
from amaqctl.wire import Message


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


DROPPING = LoraSettings(r=4, alpha=8, dropout=0.5, target_modules=("q_proj",))


def test_the_seed_of_a_dropout_is_that_of_its_place(llama: ModelSource) -> None:
    """A later version draws the same, or no run of an earlier one could go on."""
    engine = engine_of(llama, [2], transport=CountingTransport(), micro_batches=2, lora=DROPPING)
    masks = dropped(engine, 3)
    for stage, first_layer in ((0, 0), (1, 2)):
        first = next(masks[name] for name in masks if name.startswith(f"{stage} "))
        for micro_batch, mask in enumerate(first):
            place = f"17 3 {micro_batch} {first_layer}"  # seed, step, micro-batch, first layer
            digest = hashlib.sha256(place.encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            drawn = nn.functional.dropout(torch.ones(mask.shape), 0.5)
            # Padding is zero already where it comes from another stage.
            assert torch.equal(mask[:, :12], (drawn == 0)[:, :12])


def test_nothing_is_dropped_in_evaluation(llama: ModelSource) -> None:
    engine = engine_of(llama, [2], transport=CountingTransport(), lora=DROPPING)
    batch = four_alike()
    engine.train_step(batch, 0)  # the adapters are no longer zero, and the modules in training
    logits = [
        logits_of(engine, batch.input_ids_BT, step=1, lengths=batch.lengths) for _ in range(2)
    ]
    assert torch.equal(*logits)
    assert torch.equal(logits[0][0], logits[0][1])  # one row like another
    assert not logits[0].requires_grad


def test_a_gradient_may_have_the_widths_of_its_own_activation(llama: ModelSource) -> None:
    engine = engine_of(
        llama,
        [2],
        transport=CountingTransport(),
        micro_batches=2,
        quantizers=(
            ("amaq", {"target_bits": 3.0, "min_bits": 2}),
            ("fixed", {"bits": "received", "scale": "channel"}),
        ),
    )
    seen: list[Message] = []
    engine.listeners.append(seen.append)
    examples = random_examples(4, 5)
    for step in range(3):
        engine.train_step(collate(examples, 0, 16), step)
    widths: dict[tuple[int, int], list[list[int]]] = {}
    for message in seen:
        codes = message.quantized.codes
        assert codes is not None
        place = (message.context.step, message.context.micro_batch)
        widths.setdefault(place, []).append(codes.allocation.widths_C.tolist())
    assert len(widths) == 6
    assert all(there == back for there, back in widths.values())
    assert len({width for pair in widths.values() for width in pair[0]}) > 1


@pytest.mark.parametrize("length", [3, 4, 16])
def test_padding_is_zero_whatever_the_lengths(llama: ModelSource, length: int) -> None:
    """Also where they are as many tokens as there are rows."""
    transport = CountingTransport()
    engine = engine_of(llama, [2], transport=transport)
    whole = replace(random_examples(1, 3)[0], prompt_length=1)
    tokens = (whole.input_ids * 2)[:length]
    example = Example(0, tokens, tokens, answer="1", prompt_length=1)
    engine.train_step(collate([example] * 4, 0, 16), 0)
    message = Message.from_bytes(transport.sent[0][1])
    link = engine.stages[0].outgoing
    assert link is not None
    receiver = link.activations.quantizers.receiver
    values = receiver.dequantize(message.quantized, message.context)
    assert message.context.lengths in ((length,) * 4, ())
    assert values.shape[1] == 16
    assert not bool(values[:, length:].any())
    assert bool(values[:, :length].any(-1).all())


def test_rows_that_are_alike_are_so_with_and_without_their_lengths(llama: ModelSource) -> None:
    """A mask of ones, one row for each row of the batch, is what no padding means."""
    engine = engine_of(llama, [2], transport=CountingTransport())
    tokens_BT = torch.tensor([random_examples(1, 3)[0].input_ids] * 3)
    whole = (tokens_BT.shape[1],) * 3
    with_lengths = logits_of(engine, tokens_BT, step=0, lengths=whole)
    assert torch.equal(logits_of(engine, tokens_BT, step=0, lengths=()), with_lengths)
