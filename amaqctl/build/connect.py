"""Models become stages: channels between them, an optimizer on each, one engine around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from amaqctl.build.parts import Parts
from amaqctl.engine.engine import Engine
from amaqctl.engine.learning_rate import LearningRate
from amaqctl.engine.link import Channel, Link, QuantizerPair
from amaqctl.engine.stage import Stage
from amaqctl.model.dropout import SeededDropout
from amaqctl.model.stage_model import StageModel
from amaqctl.model.trained import trained_places
from amaqctl.party.agreement import DataFacts
from amaqctl.profile import LoadedProfile, profile_error
from amaqctl.quantizer import End, ResolvedQuantizer, Role, Site
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


def data_facts(loaded: LoadedProfile, task: Task) -> DataFacts:
    """What quantizers must know of the data; all that a party without data learns of them."""
    return DataFacts(
        num_positions=num_positions(loaded, task),
        num_samples=1 + max(example.sample_id for example in task.train),
        fingerprint=task.fingerprint(),
    )


def connect(
    loaded: LoadedProfile,
    parts: Parts,
    facts: DataFacts,
    models: Mapping[int, StageModel],
    num_stages: int,
    transport: Transport,
) -> Engine:
    """Put channels between the models, an optimizer on each, and an engine around them.

    Args:
        models: of the stages held here, by index.
        num_stages: of the whole model.

    Raises:
        ProfileError: a gradient quantizer that would have to learn.
    """
    profile = loaded.profile
    engine = Engine({}, num_stages, profile.train.micro_batches, profile.train.max_steps)
    hidden_size = next(iter(models.values())).hidden_size
    links = {
        cut: Link(
            *(
                _channel(
                    loaded,
                    parts,
                    facts,
                    engine,
                    transport,
                    cut,
                    role,
                    hidden_size,
                    [end for end, stage in _stages_of(cut, role).items() if stage in models],
                )
                for role in ("activation", "gradient")
            )
        )
        for cut in range(num_stages - 1)
        if cut in models or cut + 1 in models
    }
    for index, model in sorted(models.items()):
        engine.stages[index] = _stage(
            loaded, model, incoming=links.get(index - 1), outgoing=links.get(index)
        )
    return engine


def _stage(
    loaded: LoadedProfile, model: StageModel, *, incoming: Link | None, outgoing: Link | None
) -> Stage:
    profile = loaded.profile
    weights = trained_places(model)
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
    facts: DataFacts,
    engine: Engine,
    transport: Transport,
    link: int,
    role: Role,
    num_channels: int,
    ends: Sequence[End],
) -> Channel:
    profile = loaded.profile
    site = Site(
        link=link,
        role=role,
        num_channels=num_channels,
        max_positions=facts.num_positions,
        num_samples=facts.num_samples,
        seed=profile.train.seed,
        batch_size=profile.train.batch_size,
        num_micro_batches=profile.train.micro_batches,
    )
    part = parts.activation if role == "activation" else parts.gradient
    pair = _pair(part, site, ends)
    if role == "gradient" and any(end.param_groups() for end in pair.ends.values()):
        message = (
            f"'{part.name}' learns from the gradient it would quantize; nothing would train it"
        )
        hint_place = loaded.problem_at("quantizers.gradient.name", message)
        raise profile_error([hint_place])
    max_values = _max_values(loaded, facts, num_channels)
    return Channel(
        Address(link, role),
        transport,
        pair,
        _pair(parts.lossless, site, ends),
        Limits(max_bytes=_max_bytes(max_values), max_values=max_values),
        device(),
        engine.on_sent,
    )


def _stages_of(cut: int, role: str) -> dict[End, int]:
    """The stages at the two ends of a channel."""
    front, back = (cut, cut + 1) if role == "activation" else (cut + 1, cut)
    return {"sender": front, "receiver": back}


def longest_message(loaded: LoadedProfile, facts: DataFacts, num_channels: int) -> int:
    """Bytes of the longest legal message of a run."""
    return _max_bytes(_max_values(loaded, facts, num_channels))


def _max_values(loaded: LoadedProfile, facts: DataFacts, num_channels: int) -> int:
    # float32 without quantization has two 16-bit codes a value.
    return 2 * loaded.profile.train.batch_size * facts.num_positions * num_channels


def _max_bytes(max_values: int) -> int:
    return 4 * max_values + 2**20


def _pair(quantizer: ResolvedQuantizer, site: Site, ends: Sequence[End]) -> QuantizerPair:
    """The ends that are here, from the same options, sharing nothing."""
    made = {end: quantizer.end(replace(site, end=end), device()) for end in ends}
    return QuantizerPair(quantizer.name, made.get("sender"), made.get("receiver"))


def device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
