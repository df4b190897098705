"""Engines put together by hand from a model folder, and a task made of random tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from amaqctl.engine.engine import Engine
from amaqctl.engine.learning_rate import LearningRate
from amaqctl.engine.link import Channel, Link, QuantizerPair
from amaqctl.engine.stage import Stage
from amaqctl.model.configuration import load_config, num_layers
from amaqctl.model.cut import Cuts, stage_ranges
from amaqctl.model.dropout import SeededDropout
from amaqctl.model.loading import load_stage
from amaqctl.model.lora import attach_lora, lora_places
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.source import ModelSource
from amaqctl.model.stage_model import enable_gradient_checkpointing
from amaqctl.quantizer import Role, Site, TensorContext, resolve_quantizer
from amaqctl.tasks.task import IGNORE_INDEX, Example, Split, Task
from amaqctl.transports.loopback import LoopbackTransport
from amaqctl.transports.transport import Address
from amaqctl.wire import Limits

SEED = 17
LR = 1e-2
LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules="all-linear")


class CountingTransport(LoopbackTransport):
    """The loopback, keeping every byte string that was handed to it."""

    def __init__(self) -> None:
        super().__init__(LoopbackTransport.Config())
        self.sent: list[tuple[Address, bytes]] = []

    def send(self, address: Address, data: bytes) -> None:
        self.sent.append((address, data))
        super().send(address, data)

    def bytes_by_address(self) -> Counter[Address]:
        counted: Counter[Address] = Counter()
        for address, data in self.sent:
            counted[address] += len(data)
        return counted


class FromAPeer(CountingTransport):
    """As if what comes were another process's: there is somebody to be blamed."""

    is_local = False


def pair_of(name: str, options: dict[str, Any], site: Site) -> QuantizerPair:
    quantizer = resolve_quantizer(name, options)
    return QuantizerPair(name, *(quantizer.end(site) for _ in range(2)))


def engine_of(
    source: ModelSource,
    cuts: Cuts,
    *,
    transport: LoopbackTransport,
    dtype: torch.dtype = torch.float32,
    micro_batches: int = 1,
    checkpointed: bool = False,
    quantizers: tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]] = (
        ("none", {}),
        ("none", {}),
    ),
    lora: LoraSettings = LORA,
    max_grad_norm: float | None = None,
) -> Engine:
    """All stages in this process; a quantizer (name, options) for each role."""
    models = [
        load_stage(source, r, dtype) for r in stage_ranges(num_layers(load_config(source)), cuts)
    ]
    engine = Engine({}, len(models), micro_batches, total_steps=5)
    links = []
    for index in range(len(models) - 1):
        channels = []
        for role, (name, options) in zip(("activation", "gradient"), quantizers, strict=True):
            channels.append(
                channel_of(engine, transport, index, role, name, options, models[0].hidden_size)
            )
        links.append(Link(*channels))
    for index, model in enumerate(models):
        attach_lora(model, lora, SEED)
        if checkpointed:
            enable_gradient_checkpointing(model)
        weights = lora_places(model)
        groups: list[dict[str, Any]] = [{"params": list(weights.values())}] if weights else []
        if index < len(links):
            groups += links[index].activations.quantizers.sender.param_groups()
        engine.stages[index] = Stage(
            model,
            incoming=links[index - 1] if index else None,
            outgoing=links[index] if index < len(links) else None,
            optimizer=torch.optim.AdamW(groups, lr=LR) if groups else None,
            lora_parameters=weights,
            learning_rate=LearningRate(LR, "constant", 0, 1),
            max_grad_norm=max_grad_norm,
            dropout=SeededDropout(model.own_blocks, SEED),
        )
    return engine


def logits_of(
    engine: Engine, input_ids_BT: torch.Tensor, *, step: int, lengths: tuple[int, ...]
) -> torch.Tensor:
    """What an evaluation of all stages is after, before anything is made of it: (B, T, V)."""
    context = TensorContext(
        "activation", 0, step=step, total_steps=engine.total_steps, lengths=lengths, training=False
    )
    logits_BTV = None
    for index, stage in sorted(engine.stages.items()):
        logits_BTV = stage.evaluate(None if index else input_ids_BT, context, None)
    assert logits_BTV is not None
    return logits_BTV


def channel_of(
    engine: Engine,
    transport: LoopbackTransport,
    link: int,
    role: Role,
    name: str,
    options: dict[str, Any],
    num_channels: int,
) -> Channel:
    site = Site(link, role, num_channels, max_positions=32, num_samples=16, seed=SEED)
    return Channel(
        Address(link, role),
        transport,
        pair_of(name, options, site),
        pair_of("none", {}, site),
        Limits(),
        torch.device("cpu"),
        engine.on_sent,
    )


class IdTokenizer:
    """Token ids as text, so that what was generated can be read back."""

    def __init__(self, pad_token_id: int, eos_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.eos_token_id = eos_token_id

    def decode(self, row: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(map(str, row))


class RandomTask(Task):
    """Random tokens; prompts and examples of different lengths, loss behind the prompt."""

    metric = "exact_match"
    max_new_tokens = 7

    def load(self) -> tuple[Split, Split]:
        return Split(random_examples(12, 3), "train"), Split(random_examples(5, 4), "validation")

    def text_of(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))


def random_task() -> RandomTask:
    return RandomTask(Task.Config(), None, max_length=32, seed=SEED)  # type: ignore[arg-type]


def random_examples(count: int, seed: int, vocabulary: int = 64) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        length = 12 - 3 * (index % 3)
        tokens = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        prompt_length = 3 + index % 4
        labels = [IGNORE_INDEX] * prompt_length + tokens[prompt_length:]
        examples.append(
            Example(index, tuple(tokens), tuple(labels), answer="1", prompt_length=prompt_length)
        )
    return examples
