"""The composition root: a profile and the registries become a trainer, an engine, an evaluator.

It constructs and connects; it decides nothing. Cheap faults come first: options and cuts are
checked before data is read, and data before weights are loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from amaqctl.build.connect import LENGTH_MULTIPLE, connect, device, learning_rate, num_positions
from amaqctl.build.parts import Parts, resolve_parts
from amaqctl.build.strangers import make_task
from amaqctl.engine.checkpoint import CheckpointContents
from amaqctl.engine.engine import Engine
from amaqctl.engine.evaluator import Evaluator
from amaqctl.engine.run_folder import RunFolder
from amaqctl.engine.trainer import Reporter, Trainer, TrainSettings
from amaqctl.errors import InputError
from amaqctl.model.configuration import load_config, num_layers
from amaqctl.model.cut import StageRange, stage_ranges
from amaqctl.model.folder import folder_warnings
from amaqctl.model.loading import load_stage
from amaqctl.model.lora import attach_lora
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.source import ModelSource, resolve_source
from amaqctl.model.stage_model import StageModel, enable_gradient_checkpointing
from amaqctl.model.tokenizer import check_tokens, load_tokenizer, pad_token_id
from amaqctl.preflight import Part, placed
from amaqctl.profile import LoadedProfile, profile_error
from amaqctl.quantizer import DTYPES
from amaqctl.tasks.task import Task

__all__ = ["Built", "Part", "Parts", "build", "load_task", "resolve_parts"]


@dataclass(frozen=True)
class Built:
    """Everything a command needs to run a profile.

    Args:
        pad_token_id: fills up rows; masked everywhere.
        warnings: what the user should know and what stands in no one's way, one sentence each.
    """

    loaded: LoadedProfile
    source: ModelSource
    tokenizer: Any
    pad_token_id: int
    warnings: tuple[str, ...]
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
            learning_rate=learning_rate(self.loaded),
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
            self.pad_token_id,
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
    parts = resolve_parts(loaded)
    loaded = placed(loaded)
    profile = loaded.profile
    source = resolve_source(
        profile.model.id, profile.model.revision, profile.model.local_files_only
    )
    config = load_config(source)
    ranges = _checked_ranges(loaded, num_layers(config))
    tokenizer, task = load_task(loaded, parts, source)
    _check_positions(loaded, task, getattr(config, "max_position_embeddings", None))
    _check_rank(loaded, config)
    check_tokens(tokenizer, task.used_tokens(), config.vocab_size, source.model_id)
    pad = pad_token_id(tokenizer, config.vocab_size)
    _set_determinism(profile.train.deterministic)
    settings = _lora_settings(loaded)
    models = [_load_model(loaded, source, settings, r) for r in ranges]
    engine = connect(loaded, parts, task, models)
    evaluator = Evaluator(
        engine,
        task,
        tokenizer,
        pad,
        batch_size=profile.train.batch_size,
        max_examples=max_eval_examples or profile.eval.max_examples,
    )
    contents = CheckpointContents(engine.stages, source, settings)
    warnings = (*folder_warnings(source), *task.warnings)
    return Built(loaded, source, tokenizer, pad, warnings, task, engine, evaluator, contents)


def load_task(loaded: LoadedProfile, parts: Parts, source: ModelSource) -> tuple[Any, Task]:
    """The model's tokenizer and the profile's data by it; no weights are read.

    Raises:
        InputError, PluginError: the tokenizer or the data cannot be used.
    """
    tokenizer = load_tokenizer(source)
    train = loaded.profile.train
    part = parts.task
    settings = {"max_length": train.max_length, "seed": train.seed}
    return tokenizer, make_task(part.name, part.cls, part.config, tokenizer, **settings)


def _checked_ranges(loaded: LoadedProfile, num_blocks: int) -> list[StageRange]:
    try:
        return stage_ranges(num_blocks, loaded.profile.split.cuts)
    except InputError as error:
        raise profile_error([loaded.problem_at("split.cuts", error.message)]) from error


def _check_positions(loaded: LoadedProfile, task: Task, most: int | None) -> None:
    needed = num_positions(loaded, task)
    if most is not None and needed > most:
        fits = most // LENGTH_MULTIPLE * LENGTH_MULTIPLE
        message = f"{needed} positions are needed, padding included, and the model has {most}"
        if fits:
            message += f"; at most {fits} fits"
        raise profile_error([loaded.problem_at("train.max_length", message)])


def _check_rank(loaded: LoadedProfile, config: Any) -> None:
    """A rank above both sides of every matrix adds nothing but memory."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    most = max(config.hidden_size, inner)
    if (rank := loaded.profile.lora.r) > most:
        message = f"a rank of {rank}, and no matrix of the model is larger than {most}"
        raise profile_error([loaded.problem_at("lora.r", message)])


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
    model.to(device())
    return model


def _set_determinism(deterministic: bool) -> None:
    if deterministic:
        # CUDA's matrix products are deterministic only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
