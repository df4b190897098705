"""Runs on disk and the profiles they came from: new, resumed, evaluated.

Beside `amaqctl.build`, the second half of the composition root.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amaqctl.build import Built, build
from amaqctl.build.connect import learning_rate
from amaqctl.build.membership import Membership
from amaqctl.build.provenance import (
    changed_base,
    changed_data,
    changed_rules,
    identity,
    identity_differences,
    is_same,
)
from amaqctl.engine.advice import advised
from amaqctl.engine.checkpoint import identity_of, load_weights
from amaqctl.engine.checkpoint_choice import Choice, choose_checkpoint
from amaqctl.engine.checkpoint_folder import all_checkpoints, fault_of, good_checkpoints, step_of
from amaqctl.engine.environment import environment, environment_differences, gone_plugins
from amaqctl.engine.resumable import missing_newest, refuse_complete, refuse_lost
from amaqctl.engine.run_folder import RunFolder, find_run, utc_now
from amaqctl.engine.run_search import RUNS, existing_run
from amaqctl.errors import InputError, PluginError, ProfileError, ResumeError
from amaqctl.paths import Moved, shown
from amaqctl.preflight import placed
from amaqctl.profile import LoadedProfile, load_profile
from amaqctl.storage import AlreadyThere, write_json
from amaqctl.tasks.batch import refuse_no_batch


def _warn_on_stderr(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def new_run(
    built: Built, out: Path | None, name: str | None, session: str | None = None
) -> RunFolder:
    """Make the run folder for what was built.

    Args:
        session: by which several parties know the run.
        out: the folder itself, or None for one under ``output.root``.
        name: first part of its name instead of the profile's.

    Raises:
        InputError: the data do not fill a batch, or ``out`` is not free; nothing was made.
        ResourceError: it cannot be made.
    """
    check_batches(built)
    loaded = built.loaded
    root = shown(loaded.profile.output.root)
    of_parties = {} if session is None else {"session": session}
    facts = {**built.facts(), **of_parties, "identity": identity(built), "command": sys.argv}
    profile = loaded.resolved_yaml()
    return RunFolder.create(name or loaded.name, root, out, profile, facts, environment())


def check_batches(built: Built) -> None:
    """Refuse data that do not fill one batch.

    Raises:
        InputError: so few are the examples.
    """
    refuse_no_batch(len(built.task.train), built.loaded.profile.train.batch_size)


def resumed(
    text: str,
    overrides: Sequence[str],
    warn: Callable[[str], None] = _warn_on_stderr,
    membership: Membership | None = None,
) -> tuple[Built, RunFolder, Path | None]:
    """Build a stopped run again, to go on from its newest checkpoint.

    The run folder is locked from here on. ``train.max_steps`` is that of the run's last start
    unless it is changed.

    Args:
        text: the run, as typed, or one of its checkpoints (``RUN/checkpoints/step-000050``).
        overrides: changes of the profile (`train.max_steps` only).
        warn: told of what does not stand in the way but may change results.
        membership: of the leader, where there are several parties.

    Returns:
        What was built, the run, and the checkpoint; None where the run was killed before its
        first, and starts over.

    Raises:
        ResumeError: another process writes the run, it is complete, what it had is gone, or the
            checkpoint is torn or not of this run; the newest that is good is named.
    """
    run, wanted = _run_and_checkpoint(text)
    run.lock()
    try:
        all_ = all_checkpoints(run.path / "checkpoints")
        refuse_lost(run, all_[-1] if all_ else None)
        checkpoint = wanted or (all_[-1] if all_ else None)
        if checkpoint is not None and fault_of(checkpoint) is not None:
            raise _refused(run, checkpoint, f"is torn: {fault_of(checkpoint)}", None)
        with _origins_told(run):
            built = build(profile_of(run, overrides), membership=membership)
        _check_same(run, checkpoint, built)
        refuse_complete(run, checkpoint, built.loaded.profile.train.max_steps)
        if wanted is None and (gone := missing_newest(run, checkpoint)) is not None:
            warn(gone)
        for difference in environment_differences(run.path / "environment.json"):
            warn(f"{difference}; results may differ in their last bits")
        then = identity_of(checkpoint) if checkpoint else {}
        if then and (changed := changed_rules(then)) is not None:
            warn(changed)
        if (jump := _jump_of_learning_rate(run, checkpoint, built)) is not None:
            warn(jump)
    except BaseException:
        run.unlock()
        raise
    return built, run, checkpoint


def for_evaluation(
    text: str, checkpoint: str, overrides: Sequence[str], limit: int | None
) -> tuple[Built, RunFolder | None, Choice | None]:
    """Build a run with the weights of one checkpoint, or an untrained profile.

    Args:
        text: a run or a profile, as typed.
        checkpoint: ``best``, ``last`` or a step.
        limit: look at so many validation examples only.

    Returns:
        What was built, and the run and its checkpoint (None for a profile).
    """
    run = find_run(text, RUNS)
    if run is None:
        return build(load_profile(text, overrides), limit), None, None
    choice = choose_checkpoint(run, checkpoint)
    with _origins_told(run):
        built = build(profile_of(run, overrides), limit)
    load_weights(choice.path, built.contents)
    return built, run, choice


def changes_since_training(built: Built, run: RunFolder, choice: Choice) -> list[str]:
    """What of base and data is not as it was when the run was trained, one sentence each."""
    then = identity_of(choice.path) or run.run.get("identity") or run.run
    now = identity(built)
    return [text for text in (changed_base(then, now), changed_data(then, now)) if text]


def profile_of(run: RunFolder, overrides: Sequence[str] = ()) -> LoadedProfile:
    """The run's profile with the steps of its last start, which widths may depend on.

    Its paths are absolute, and of where the run lies now; see `amaqctl.paths`.
    """
    if max_steps := run.run.get("max_steps"):
        overrides = [f"train.max_steps={max_steps}", *overrides]
    loaded = load_profile(run.path / "profile.yaml", overrides)
    before, now = run.run.get("folder"), run.path.absolute()
    is_moved = isinstance(before, str) and Path(before).is_absolute() and Path(before) != now
    return placed(loaded, Moved(Path(before), now) if is_moved else None)  # type: ignore[arg-type]


@contextlib.contextmanager
def _origins_told(run: RunFolder) -> Iterator[None]:
    """A plugin that the run was made with and that is gone is named with its distribution."""
    try:
        yield
    except (PluginError, ProfileError) as error:
        said = " ".join([error.message, *map(str, error.problems)])
        gone = gone_plugins(run.path / "environment.json", said) if "unknown" in said else None
        if gone is not None:
            error.hint = f"{gone}: install it again" + (f"; {error.hint}" if error.hint else "")
        raise


def _jump_of_learning_rate(run: RunFolder, checkpoint: Path | None, built: Built) -> str | None:
    """What a schedule that ends elsewhere than before does to the learning rate; None: nothing."""
    before, steps = run.run.get("max_steps"), step_of(checkpoint) if checkpoint else 0
    now = learning_rate(built.loaded)
    if before is None or not steps:
        return None
    then = replace(now, max_steps=before)
    if now.at(steps) == then.at(steps):
        return None
    return (
        f"the {now.shape} schedule now ends at step {now.max_steps}, no longer at {before}: the "
        f"learning rate goes on at {now.at(steps):.3g} after {then.at(steps - 1):.3g}"
    )


def save_evaluation(run: RunFolder, data: dict[str, Any]) -> Path:
    """Keep an evaluation in the run folder; an earlier one is never overwritten.

    Raises:
        InputError: the folder of evaluations is a link, which leads elsewhere.
        ResourceError: it cannot be written.
    """
    folder = run.path / "eval"
    if folder.is_symlink():
        raise InputError("a link; what is written here would be elsewhere", where=str(folder))
    stamp = utc_now().replace("-", "").replace(":", "")
    path, number = folder / f"{stamp}.json", 1
    while True:
        try:
            document = {"schema": "amaqctl.eval/1", "time": utc_now(), **data}
            write_json(path, document, replace=False)
            return path
        except AlreadyThere:
            number += 1
            path = path.with_name(f"{stamp}-{number}.json")


def _run_and_checkpoint(text: str) -> tuple[RunFolder, Path | None]:
    path = Path(text)
    if path.parent.name == "checkpoints" and (path.parent.parent / "run.json").exists():
        if path not in all_checkpoints(path.parent):
            raise InputError(
                "there is no such checkpoint",
                where=text,
                hint=f"the whole ones: {_names(good_checkpoints(path.parent))}",
                error_id="INPUT-CHECKPOINT",
            )
        return RunFolder(path.parent.parent), path
    return existing_run(text), None


def _check_same(run: RunFolder, checkpoint: Path | None, built: Built) -> None:
    now = identity(built)
    then = run.run.get("identity") if checkpoint is None else identity_of(checkpoint)
    if not then:
        raise _refused(run, checkpoint, "does not say which run it is of", now)
    found = identity_differences(then, now)
    if found:
        raise _refused(run, checkpoint, f"is not of this run: {'; '.join(found)}", now)


def _refused(
    run: RunFolder, checkpoint: Path | None, message: str, now: dict[str, Any] | None
) -> ResumeError:
    """The error for a checkpoint that is not gone on with; it names the newest good one.

    Args:
        now: a good one is of this identity; None: of the run's, as it was started.
    """
    wanted = now or run.run.get("identity")
    folder = run.path / "checkpoints"
    good = [p for p in good_checkpoints(folder) if is_same(identity_of(p), wanted)]
    if good:
        hint = f"{good[-1].name} is the newest good one: {advised('train', '--resume', good[-1])}"
    elif now is None:
        hint = f"no other is whole; start again: {advised('train', run.path / 'profile.yaml')}"
    else:
        hint = "bring back what the run was started with"
    what = "the run" if checkpoint is None else checkpoint.name
    return ResumeError(f"{what} {message}", where=str(checkpoint or run.path), hint=hint)


def _names(checkpoints: Sequence[Path]) -> str:
    return ", ".join(path.name for path in checkpoints) or "none"
