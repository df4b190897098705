"""The composition root: a profile and the registries become a trainer, an engine, an evaluator.

It constructs and connects; it decides nothing. Cheap faults come first: options and cuts are
checked before data is read, and data before weights are loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from amaqctl import registry
from amaqctl.engine.checkpoint import CheckpointContents
from amaqctl.engine.engine import Engine
from amaqctl.engine.evaluator import Evaluator
from amaqctl.engine.link import Channel, Link, QuantizerPair
from amaqctl.engine.run_folder import RunFolder
from amaqctl.engine.stage import Stage
from amaqctl.engine.trainer import Reporter, Trainer, TrainSettings
from amaqctl.errors import InputError, PluginError, Problem
from amaqctl.model.cut import StageRange, stage_ranges
from amaqctl.model.lora import LoraSettings, attach_lora, lora_parameters
from amaqctl.model.source import (
    ModelSource,
    load_config,
    load_tokenizer,
    num_layers,
    resolve_source,
)
from amaqctl.model.stage_model import StageModel, enable_gradient_checkpointing, load_stage
from amaqctl.profile import LoadedProfile, profile_error
from amaqctl.quantizer import DTYPES, Quantizer, Role, Site
from amaqctl.tasks.task import Task
from amaqctl.transports.transport import Address, Transport
from amaqctl.wire import Limits

_LENGTH_MULTIPLE = 32  # batches are padded to a multiple of this many tokens


@dataclass(frozen=True)
class Part:
    """A registered part with its validated options."""

    name: str
    cls: Any
    config: Any


@dataclass(frozen=True)
class Parts:
    """Every registered part that a profile names."""

    activation: Part
    gradient: Part
    lossless: Part
    task: Part
    transport: Part


@dataclass(frozen=True)
class Built:
    """Everything a command needs to run a profile."""

    loaded: LoadedProfile
    source: ModelSource
    tokenizer: Any
    task: Task
    engine: Engine
    evaluator: Evaluator
    contents: CheckpointContents

    def trainer(self, run: RunFolder, reporter: Reporter) -> Trainer:
        """The loop, writing into ``run`` and telling ``reporter``."""
        profile = self.loaded.profile
        settings = TrainSettings(
            max_steps=profile.train.max_steps,
            batch_size=profile.train.batch_size,
            seed=profile.train.seed,
            lr=profile.optimizer.lr,
            evaluate_every=profile.eval.every,
            save_every=profile.checkpoint.every,
            keep_last=profile.checkpoint.keep_last,
        )
        return Trainer(
            self.engine,
            self.task,
            self.evaluator,
            self.contents,
            run,
            settings,
            self.tokenizer.pad_token_id,
            reporter,
        )

    def facts(self) -> dict[str, Any]:
        """What identifies the run: model, data, seed."""
        return {
            "model": {"id": self.source.model_id, "revision": self.source.revision},
            "data": {
                "fingerprint": self.task.fingerprint(),
                "num_train": len(self.task.train),
                "num_validation": len(self.task.validation),
                "num_dropped": self.task.num_dropped,
            },
            "seed": self.loaded.profile.train.seed,
        }


def build(loaded: LoadedProfile, max_eval_examples: int | None = None) -> Built:
    """Make everything a profile describes, in this process.

    Args:
        loaded: the profile.
        max_eval_examples: instead of ``eval.max_examples``.

    Raises:
        ProfileError, PluginError, InputError, ResourceError: with the place and a hint.
    """
    profile = loaded.profile
    parts = resolve_parts(loaded)
    source = resolve_source(
        profile.model.id, profile.model.revision, profile.model.local_files_only
    )
    config = load_config(source)
    ranges = _checked_ranges(loaded, num_layers(config))
    tokenizer = load_tokenizer(source)
    task: Task = parts.task.cls(
        parts.task.config,
        tokenizer,
        max_length=profile.train.max_length,
        seed=profile.train.seed,
    )
    _check_positions(loaded, task, getattr(config, "max_position_embeddings", None))
    _set_determinism(profile.train.deterministic)
    settings = _lora_settings(loaded)
    models = [_load_model(loaded, source, settings, r) for r in ranges]
    engine = _connect(loaded, parts, task, models)
    evaluator = Evaluator(
        engine,
        task,
        tokenizer,
        batch_size=profile.train.batch_size,
        max_examples=max_eval_examples or profile.eval.max_examples,
    )
    contents = CheckpointContents(engine.stages, source, settings)
    return Built(loaded, source, tokenizer, task, engine, evaluator, contents)


def resolve_parts(loaded: LoadedProfile) -> Parts:
    """Look up every named part and validate its options; all faults are shown together.

    Raises:
        PluginError: a name is unknown, broken or ambiguous.
        ProfileError: options are wrong.
    """
    profile = loaded.profile
    problems: list[Problem] = []
    sections = {
        "activation": (registry.QUANTIZERS, "quantizers.activation", profile.quantizers.activation),
        "gradient": (registry.QUANTIZERS, "quantizers.gradient", profile.quantizers.gradient),
        "task": (registry.TASKS, "task", profile.task),
        "transport": (registry.TRANSPORTS, "transport", profile.transport),
    }
    found: dict[str, Part] = {}
    for key, (group, path, choice) in sections.items():
        try:
            cls = registry.load(group, choice.name)
        except PluginError as error:
            place = loaded.problem_at(f"{path}.name", error.message)
            raise PluginError(str(place), hint=error.hint, error_id=error.error_id) from error
        try:
            found[key] = Part(choice.name, cls, cls.Config(**choice.options))
        except ValidationError as error:
            known = cls.Config.model_fields
            problems += loaded.option_problems(path, error, known, choice.name)
    if problems:
        raise profile_error(problems)
    lossless = registry.load(registry.QUANTIZERS, "none")
    return Parts(**found, lossless=Part("none", lossless, lossless.Config()))


def _checked_ranges(loaded: LoadedProfile, num_blocks: int) -> list[StageRange]:
    try:
        return stage_ranges(num_blocks, loaded.profile.split.cuts)
    except InputError as error:
        raise profile_error([loaded.problem_at("split.cuts", error.message)]) from error


def _num_positions(loaded: LoadedProfile, task: Task) -> int:
    """Longest sequence that crosses a cut: a padded batch, or the end of a generation."""
    longest = loaded.profile.train.max_length
    if task.max_new_tokens:
        prompt = max(example.prompt_length for example in task.validation)
        longest = max(longest, prompt + task.max_new_tokens)
    return -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE


def _check_positions(loaded: LoadedProfile, task: Task, most: int | None) -> None:
    needed = _num_positions(loaded, task)
    if most is not None and needed > most:
        fits = most // _LENGTH_MULTIPLE * _LENGTH_MULTIPLE
        message = f"{needed} positions are needed, padding included, and the model has {most}"
        if fits:
            message += f"; at most {fits} fits"
        raise profile_error([loaded.problem_at("train.max_length", message)])


def _lora_settings(loaded: LoadedProfile) -> LoraSettings:
    lora = loaded.profile.lora
    targets = lora.target_modules
    return LoraSettings(
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
    )


def _load_model(
    loaded: LoadedProfile, source: ModelSource, settings: LoraSettings, stage_range: StageRange
) -> StageModel:
    profile = loaded.profile
    model = load_stage(source, stage_range, DTYPES[profile.model.dtype])
    attach_lora(model, settings, profile.train.seed)
    if profile.train.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    model.to(_device())
    return model


def _connect(loaded: LoadedProfile, parts: Parts, task: Task, models: list[StageModel]) -> Engine:
    profile = loaded.profile
    transport: Transport = parts.transport.cls(parts.transport.config)
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
    weights = list(lora_parameters(model).values())
    groups: list[dict[str, Any]] = []
    if weights:
        groups.append(
            {
                "params": weights,
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
        max_grad_norm=profile.train.max_grad_norm,
        dropout_seed=profile.train.seed,
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
    longest = _num_positions(loaded, task)
    site = Site(
        link=link,
        role=role,
        num_channels=num_channels,
        max_positions=longest,
        num_samples=1 + max(example.sample_id for example in task.train),
        seed=profile.train.seed,
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
        _device(),
        engine.on_sent,
    )


def _pair(part: Part, site: Site) -> QuantizerPair:
    """Two instances from the same options, sharing nothing."""
    instances: list[Quantizer] = [part.cls(part.config, site).to(_device()) for _ in range(2)]
    return QuantizerPair(part.name, *instances)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _set_determinism(deterministic: bool) -> None:
    if deterministic:
        # CUDA's matrix products are deterministic only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
