"""From a profile to stages with their weights, whatever process holds them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from amaqctl.build.connect import connect, device
from amaqctl.build.membership import Membership
from amaqctl.build.parts import Parts, resolve_parts
from amaqctl.build.strangers import make_transport
from amaqctl.engine.checkpoint import CheckpointContents
from amaqctl.engine.engine import Engine
from amaqctl.errors import InputError
from amaqctl.model.configuration import load_config, num_layers
from amaqctl.model.cut import StageRange, stage_ranges
from amaqctl.model.loading import load_stage
from amaqctl.model.lora import attach_lora
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.low_bit import check_low_bit
from amaqctl.model.source import ModelSource, resolve_source
from amaqctl.model.stage_model import StageModel, enable_gradient_checkpointing
from amaqctl.model.trained import train_all
from amaqctl.party.agreement import DataFacts
from amaqctl.preflight import placed
from amaqctl.profile import LoadedProfile, profile_error
from amaqctl.quantizer import DTYPES


@dataclass(frozen=True)
class Base:
    """A profile whose parts are looked up and whose model is known, before weights are read.

    Args:
        loaded: with every path absolute.
        config: of the model, as transformers has it.
        ranges: the blocks of each stage.
    """

    loaded: LoadedProfile
    parts: Parts
    source: ModelSource
    config: Any
    ranges: list[StageRange]


def base_of(loaded: LoadedProfile) -> Base:
    """Look up what a profile names.

    Raises:
        ProfileError, PluginError, InputError: with the place and a hint.
    """
    parts = resolve_parts(loaded)
    loaded = placed(loaded)
    model = loaded.profile.model
    source = resolve_source(model.id, model.revision, model.local_files_only)
    config = load_config(source)
    _check_rank(loaded, config)
    _check_full(loaded)
    return Base(loaded, parts, source, config, _checked_ranges(loaded, num_layers(config)))


def load_models(base: Base, held: Sequence[int]) -> dict[int, StageModel]:
    """Load stages, with their adapters.

    Args:
        held: their indices in the whole model.

    Raises:
        ProfileError, InputError, ResourceError: with the place and a hint.
    """
    settings, model = lora_settings(base.loaded), base.loaded.profile.model
    if model.base_bits is not None:
        check_low_bit(model.base_bits, DTYPES[model.dtype], device())
    return {i: _load_model(base.loaded, base.source, settings, base.ranges[i]) for i in held}


def assemble(
    base: Base,
    facts: DataFacts,
    membership: Membership | None,
    models: Mapping[int, StageModel] | None = None,
) -> tuple[Engine, CheckpointContents]:
    """Load the stages of this process, and connect them.

    Args:
        membership: None for all stages in this process.
        models: the stages, where they are loaded already.

    Raises:
        ProfileError, PluginError, InputError, ResourceError: with the place and a hint.
    """
    loaded, parts = base.loaded, base.parts
    _set_determinism(loaded.profile.train.deterministic)
    settings = lora_settings(loaded)
    if membership is None:
        held: tuple[int, ...] = tuple(range(len(base.ranges)))
        part = parts.transport
        transport = make_transport(part.name, part.cls, part.config)
    else:
        held, transport = membership.route.stages, membership.transport
    models = load_models(base, held) if models is None else models
    engine = connect(loaded, parts, facts, models, len(base.ranges), transport)
    if membership is not None:
        engine.inbox = membership.transport
    return engine, CheckpointContents(engine.stages, base.source, settings)


def _checked_ranges(loaded: LoadedProfile, num_blocks: int) -> list[StageRange]:
    try:
        return stage_ranges(num_blocks, loaded.profile.split.cuts)
    except InputError as error:
        raise profile_error([loaded.problem_at("split.cuts", error.message)]) from error


def _check_rank(loaded: LoadedProfile, config: Any) -> None:
    """A rank above both sides of every matrix adds nothing but memory."""
    if loaded.profile.lora is None:
        return
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    most = max(config.hidden_size, inner)
    if (rank := loaded.profile.lora.r) > most:
        message = f"a rank of {rank}, and no matrix of the model is larger than {most}"
        raise profile_error([loaded.problem_at("lora.r", message)])


def _check_full(loaded: LoadedProfile) -> None:
    """In 16 bits most steps of a weight round to nothing: 1/256 of it is the least in bfloat16."""
    dtype = loaded.profile.model.dtype
    if loaded.profile.lora is None and dtype != "float32":
        message = f"{dtype} with lora: null, and weights that are trained themselves need float32"
        raise profile_error([loaded.problem_at("model.dtype", message)])


def lora_settings(loaded: LoadedProfile) -> LoraSettings | None:
    """The adapter that a profile asks for; None where the weights themselves are trained."""
    lora = loaded.profile.lora
    if lora is None:
        return None
    targets = lora.target_modules
    return LoraSettings(
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
    )


def _load_model(
    loaded: LoadedProfile,
    source: ModelSource,
    settings: LoraSettings | None,
    stage_range: StageRange,
) -> StageModel:
    profile = loaded.profile
    model = load_stage(source, stage_range, DTYPES[profile.model.dtype], profile.model.base_bits)
    if settings is None:
        train_all(model)
    else:
        attach_lora(model, settings, profile.train.seed)
    if profile.train.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    model.to(device())
    return model


def _set_determinism(deterministic: bool) -> None:
    if deterministic:
        # CUDA's matrix products are deterministic only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
