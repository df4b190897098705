"""Models become stages: channels between them, an optimizer on each, one engine around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from amaqctl.build.parts import Parts
from amaqctl.build.strangers import make_transport
from amaqctl.engine.engine import Engine
from amaqctl.engine.learning_rate import LearningRate
from amaqctl.engine.link import Channel, Link, QuantizerPair
from amaqctl.engine.stage import Stage
from amaqctl.model.dropout import SeededDropout
from amaqctl.model.lora import lora_places
from amaqctl.model.stage_model import StageModel
from amaqctl.profile import LoadedProfile, profile_error
from amaqctl.quantizer import ResolvedQuantizer, Role, Site
from amaqctl.tasks.task import Task
from amaqctl.transports.transport import Address, Transport
from amaqctl.wire import Limits

LENGTH_MULTIPLE = 32
"""Batches are padded to a multiple of this many tokens."""


def num_positions(loaded: LoadedProfile, task: Task) -> int:
    """Longest sequence that crosses a cut: a padded batch, or the end of a generation."""
    longest = loaded.profile.train.max_length
    if task.max_new_tokens:
        prompt = max(example.prompt_length for example in task.validation)
        longest = max(longest, prompt + task.max_new_tokens)
    return -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def learning_rate(loaded: LoadedProfile) -> LearningRate:
    """The learning rate of the LoRA weights, by step."""
    optimizer = loaded.profile.optimizer
    return LearningRate(
        optimizer.lr, optimizer.schedule, optimizer.warmup_steps, loaded.profile.train.max_steps
    )


def connect(loaded: LoadedProfile, parts: Parts, task: Task, models: list[StageModel]) -> Engine:
    """Put channels between the models, an optimizer on each, and an engine around them.

    Raises:
        ProfileError: a gradient quantizer that would have to learn.
    """
    profile = loaded.profile
    part = parts.transport
    transport = make_transport(part.name, part.cls, part.config)
    engine = Engine({}, len(models), profile.train.micro_batches, profile.train.max_steps)
    links = [
        Link(
            *(
                _channel(loaded, parts, task, engine, transport, index, role, model.hidden_size)
                for role in ("activation", "gradient")
            )
        )
        for index, model in enumerate(models[:-1])
    ]
    for index, model in enumerate(models):
        engine.stages[index] = _stage(
            loaded,
            model,
            incoming=links[index - 1] if index else None,
            outgoing=links[index] if index < len(links) else None,
        )
    return engine


def _stage(
    loaded: LoadedProfile, model: StageModel, *, incoming: Link | None, outgoing: Link | None
) -> Stage:
    profile = loaded.profile
    weights = lora_places(model)
    groups: list[dict[str, Any]] = []
    if weights:
        groups.append(
            {
                "params": list(weights.values()),
                "lr": profile.optimizer.lr,
                "weight_decay": profile.optimizer.weight_decay,
            }
        )
    if outgoing is not None:
        for group in outgoing.activations.quantizers.sender.param_groups():
            groups.append({"lr": profile.optimizer.quantizer_lr, "weight_decay": 0.0, **group})
    return Stage(
        model,
        incoming=incoming,
        outgoing=outgoing,
        optimizer=torch.optim.AdamW(groups) if groups else None,
        lora_parameters=weights,
        learning_rate=learning_rate(loaded),
        max_grad_norm=profile.train.max_grad_norm,
        dropout=SeededDropout(model.own_blocks, profile.train.seed),
    )


def _channel(
    loaded: LoadedProfile,
    parts: Parts,
    task: Task,
    engine: Engine,
    transport: Transport,
    link: int,
    role: Role,
    num_channels: int,
) -> Channel:
    profile = loaded.profile
    longest = num_positions(loaded, task)
    site = Site(
        link=link,
        role=role,
        num_channels=num_channels,
        max_positions=longest,
        num_samples=1 + max(example.sample_id for example in task.train),
        seed=profile.train.seed,
        batch_size=profile.train.batch_size,
        num_micro_batches=profile.train.micro_batches,
    )
    part = parts.activation if role == "activation" else parts.gradient
    pair = _pair(part, site)
    if role == "gradient" and pair.sender.param_groups():
        message = (
            f"'{part.name}' learns from the gradient it would quantize; nothing would train it"
        )
        hint_place = loaded.problem_at("quantizers.gradient.name", message)
        raise profile_error([hint_place])
    # float32 without quantization has two 16-bit codes a value.
    max_values = 2 * profile.train.batch_size * longest * num_channels
    return Channel(
        Address(link, role),
        transport,
        pair,
        _pair(parts.lossless, site),
        Limits(max_bytes=4 * max_values + 2**20, max_values=max_values),
        device(),
        engine.on_sent,
    )


def _pair(quantizer: ResolvedQuantizer, site: Site) -> QuantizerPair:
    """Two ends from the same options, sharing nothing."""
    return QuantizerPair(
        quantizer.name,
        quantizer.end(replace(site, end="sender"), device()),
        quantizer.end(replace(site, end="receiver"), device()),
    )


def device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
