"""Whether a stopped run can be gone on with, as far as its folder tells. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaqctl.engine.advice import advised
from amaqctl.engine.checkpoint_folder import all_checkpoints, fault_of, step_of
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError, ResumeError


def refuse_early(run: RunFolder, max_steps: int | None) -> None:
    """Refuse what needs no loading to be refused.

    The run is locked meanwhile, which sweeps what a process left that was killed at its very end.

    Args:
        max_steps: those asked for now; None for those of the last start.

    Raises:
        ResumeError: the run is complete, what it had is gone, or another process writes there.
    """
    run.lock()
    try:
        _refuse(run, max_steps)
    finally:
        run.unlock()


def _refuse(run: RunFolder, max_steps: int | None) -> None:
    checkpoints = all_checkpoints(run.path / "checkpoints")
    newest = checkpoints[-1] if checkpoints else None
    refuse_lost(run, newest)
    steps = max_steps or run.run.get("max_steps")
    if steps is not None and (newest is None or fault_of(newest) is None):
        refuse_complete(run, newest, steps)


def refuse_lost(run: RunFolder, newest: Path | None) -> None:
    """Refuse a run that has trained, and of which checkpoints or metrics are gone.

    A step is in the metrics before its checkpoint is made, so a checkpoint without one was
    bereft of them; and the newest checkpoint is never deleted by us. Starting over instead would
    mix two runs in one folder.

    Args:
        newest: the newest checkpoint, torn or not.

    Raises:
        ResumeError: they are gone, or the metrics cannot be read.
    """
    records = _records(run)
    saved = _saved_step(records)
    fresh = f"start anew: {advised('train', run.path / 'profile.yaml')}"
    if newest is None and (saved or run.run.get("status") == "done"):
        raise ResumeError(
            f"its checkpoints are gone; the last was of step {saved}"
            if saved
            else "its checkpoints and metrics are gone, and it has been trained",
            where=str(run.path / "checkpoints"),
            hint=f"bring them back, or {fresh}",
            error_id="RESUME-LOST",
        )
    if newest is not None and not any(r["kind"] == "train" for r in records):
        raise ResumeError(
            f"holds no step of training, and there is {newest.name}",
            where=str(run.path / "metrics.jsonl"),
            hint=f"bring the file back, or {fresh}",
            error_id="RESUME-LOST",
        )


def refuse_complete(run: RunFolder, checkpoint: Path | None, max_steps: int) -> None:
    """Refuse a run that has all its steps.

    Args:
        checkpoint: the one to go on from.

    Raises:
        ResumeError: nothing is left to be done.
    """
    last = step_of(checkpoint) if checkpoint is not None else 0
    if last < max_steps or (last == max_steps and run.run.get("status") != "done"):
        return
    state = "the run is complete: it has" if last == max_steps else "the checkpoint already has"
    raise ResumeError(
        f"{state} {last} steps",
        where=str(run.path),
        hint=f"give more steps with --max-steps, above {last}",
    )


def missing_newest(run: RunFolder, checkpoint: Path | None) -> str | None:
    """What to say where a newer checkpoint was saved than there is; None where none is missing."""
    saved = _saved_step(_records(run))
    if checkpoint is None or saved <= step_of(checkpoint):
        return None
    return f"the checkpoint of step {saved} is gone; {checkpoint.name} is the newest there is"


def _records(run: RunFolder) -> list[dict[str, Any]]:
    try:
        return run.metrics()
    except InputError as error:
        raise ResumeError(error.message, where=error.where, hint=error.hint) from error


def _saved_step(records: Sequence[Mapping[str, Any]]) -> int:
    """The last step that was saved; 0 for none."""
    return max((record["step"] for record in records if record["kind"] == "save"), default=0)
