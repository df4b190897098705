"""The composition root: a profile and the registries become a trainer, an engine, an evaluator.

It constructs and connects; it decides nothing. Cheap faults come first: options and cuts are
checked before data is read, and data before weights are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaqctl.build.assembly import Base, assemble, base_of
from amaqctl.build.connect import LENGTH_MULTIPLE, data_facts, learning_rate, num_positions
from amaqctl.build.membership import Membership
from amaqctl.build.parts import Parts, resolve_parts
from amaqctl.build.strangers import make_task
from amaqctl.engine.checkpoint import CheckpointContents
from amaqctl.engine.engine import Engine
from amaqctl.engine.evaluator import Evaluator
from amaqctl.engine.run_folder import RunFolder
from amaqctl.engine.train_settings import TrainSettings
from amaqctl.engine.trainer import Reporter, Trainer
from amaqctl.model.folder import folder_warnings
from amaqctl.model.source import ModelSource
from amaqctl.model.tokenizer import check_tokens, load_tokenizer, pad_token_id
from amaqctl.preflight import Part
from amaqctl.profile import LoadedProfile, profile_error
from amaqctl.tasks.task import Task

__all__ = ["Built", "Part", "Parts", "build", "load_task", "resolve_parts"]


@dataclass(frozen=True)
class Built:
    """Everything a command needs to run a profile.

    Args:
        base: profile, parts and model.
        pad_token_id: fills up rows; masked everywhere.
        warnings: what the user should know and what stands in no one's way, one sentence each.
    """

    base: Base
    tokenizer: Any
    pad_token_id: int
    warnings: tuple[str, ...]
    task: Task
    engine: Engine
    evaluator: Evaluator
    contents: CheckpointContents

    @property
    def loaded(self) -> LoadedProfile:
        """The profile, with every path absolute."""
        return self.base.loaded

    @property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        return self.base.source

    def trainer(self, run: RunFolder, reporter: Reporter) -> Trainer:
        """The loop, writing into ``run`` and telling ``reporter``."""
        profile = self.loaded.profile
        settings = TrainSettings(
            max_steps=profile.train.max_steps,
            batch_size=profile.train.batch_size,
            seed=profile.train.seed,
            learning_rate=learning_rate(self.loaded),
            average_every=profile.clients.average_every,
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


def build(
    loaded: LoadedProfile,
    max_eval_examples: int | None = None,
    membership: Membership | None = None,
) -> Built:
    """Make everything a profile describes, or what of it the leading party has.

    Args:
        loaded: the profile.
        max_eval_examples: instead of ``eval.max_examples``.
        membership: of the leader; None for all stages in this process.

    Raises:
        ProfileError, PluginError, InputError, ResourceError: with the place and a hint.
    """
    base = base_of(loaded)
    loaded, profile, source = base.loaded, base.loaded.profile, base.source
    tokenizer, task = load_task(loaded, base.parts, source)
    _check_positions(loaded, task, getattr(base.config, "max_position_embeddings", None))
    check_tokens(tokenizer, task.used_tokens(), base.config.vocab_size, source.model_id)
    pad = pad_token_id(tokenizer, base.config.vocab_size)
    engine, contents = assemble(base, data_facts(loaded, task), membership)
    evaluator = Evaluator(
        engine,
        task,
        tokenizer,
        pad,
        batch_size=profile.train.batch_size,
        max_examples=max_eval_examples or profile.eval.max_examples,
    )
    warnings = (*folder_warnings(source), *task.warnings, *_full_warnings(loaded, engine))
    return Built(base, tokenizer, pad, warnings, task, engine, evaluator, contents)


def _full_warnings(loaded: LoadedProfile, engine: Engine) -> tuple[str, ...]:
    tied = {name for stage in engine.stages.values() for name in stage.model.tied_names}
    if loaded.profile.lora is not None or not tied:
        return ()
    return (f"{' and '.join(sorted(tied))} are tied, at two stages, and stay as they are",)


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


def _check_positions(loaded: LoadedProfile, task: Task, most: int | None) -> None:
    needed = num_positions(loaded, task)
    if most is not None and needed > most:
        fits = most // LENGTH_MULTIPLE * LENGTH_MULTIPLE
        message = f"{needed} positions are needed, padding included, and the model has {most}"
        if fits:
            message += f"; at most {fits} fits"
        raise profile_error([loaded.problem_at("train.max_length", message)])
