"""Runs on disk and the profiles they came from: new, resumed, evaluated.

Beside `amaqctl.build`, the second half of the composition root.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from amaqctl import registry
from amaqctl.build import Built, build
from amaqctl.engine.checkpoint import (
    best_checkpoint,
    checkpoint_name,
    fault_of,
    good_checkpoints,
    load_weights,
)
from amaqctl.engine.files import write_json
from amaqctl.engine.run_folder import RunFolder, find_run, utc_now
from amaqctl.errors import InputError, ResumeError
from amaqctl.profile import load_profile

RUNS = Path("runs")


def new_run(built: Built, out: Path | None, name: str | None) -> RunFolder:
    """Make the run folder for what was built.

    Args:
        out: the folder itself, or None for one under ``output.root``.
        name: first part of its name instead of the profile's.
    """
    loaded = built.loaded
    root = Path(loaded.profile.output.root)
    facts = {**built.facts(), "command": sys.argv}
    run = RunFolder.create(name or loaded.name, root, out, loaded.resolved_yaml(), facts)
    write_json(run.path / "environment.json", environment())
    return run


def resumed(text: str, overrides: Sequence[str]) -> tuple[Built, RunFolder, Path]:
    """Build a stopped run again, to go on from its newest good checkpoint.

    Args:
        text: the run, as typed.
        overrides: changes of the profile (`train.max_steps` only).

    Raises:
        ResumeError: nothing to go on from, or the data are no longer the same.
    """
    run = existing_run(text)
    folder = run.path / "checkpoints"
    good = good_checkpoints(folder)
    torn = [p for p in sorted(folder.glob("step-*")) if p not in good]
    if not good:
        raise ResumeError(
            "there is no complete checkpoint to go on from",
            where=str(folder),
            hint="start again from the profile: amaqctl train " + str(run.path / "profile.yaml"),
        )
    built = build(load_profile(run.path / "profile.yaml", overrides))
    _check_same(run, built)
    last = int(good[-1].name[5:])
    if last >= built.loaded.profile.train.max_steps:
        raise ResumeError(
            f"the run is complete: it has {last} steps",
            where=str(run.path),
            hint=f"give more steps with --max-steps, above {last}",
        )
    for path in torn:
        run.log(f"{path.name} is not used: {fault_of(path)}")
    return built, run, good[-1]


def for_evaluation(
    text: str, checkpoint: str, overrides: Sequence[str], limit: int | None
) -> tuple[Built, RunFolder | None, int]:
    """Build a run with the weights of one checkpoint, or an untrained profile.

    Args:
        text: a run or a profile, as typed.
        checkpoint: ``best``, ``last`` or a step.
        limit: look at so many validation examples only.

    Returns:
        What was built, the run (None for a profile), and the steps it was trained for.
    """
    run = find_run(text, RUNS)
    if run is None:
        return build(load_profile(text, overrides), limit), None, 0
    chosen = choose_checkpoint(run, checkpoint)
    built = build(load_profile(run.path / "profile.yaml", overrides), limit)
    load_weights(chosen, built.contents)
    return built, run, int(chosen.name[5:])


def existing_run(text: str) -> RunFolder:
    """A run by folder, name or start of its id.

    Raises:
        InputError: there is none, or several fit.
    """
    run = find_run(text, RUNS)
    if run is None:
        raise InputError(
            f"there is no run '{text}'",
            hint="give the folder that `amaqctl train` named at its end",
            error_id="INPUT-RUN",
        )
    return run


def find_trace(text: str) -> Path:
    """A trace by its file, or the one trace of a run.

    Raises:
        InputError: there is none, or the run has several.
    """
    if Path(text).is_file():
        return Path(text)
    run = find_run(text, RUNS)
    if run is None:
        raise InputError(
            f"there is no trace and no run '{text}'",
            hint="make a trace with: amaqctl compress-trace --record PROFILE --out FILE",
            error_id="INPUT-TRACE",
        )
    folder = run.path / "traces"
    traces = sorted(folder.glob("*.trace"))
    if len(traces) == 1:
        return traces[0]
    if traces:
        raise InputError(
            f"there are {len(traces)} traces",
            where=str(folder),
            hint=f"give one of them: {', '.join(path.name for path in traces[:5])}",
            error_id="INPUT-TRACE",
        )
    profile, out = run.path / "profile.yaml", folder / "first.trace"
    raise InputError(
        "the run has no trace",
        where=str(run.path),
        hint=f"amaqctl compress-trace --record {profile} --out {out}",
        error_id="INPUT-TRACE",
    )


def choose_checkpoint(run: RunFolder, which: str) -> Path:
    """The checkpoint ``best``, ``last``, or of a step.

    Raises:
        InputError: it is not there or not whole; the good ones are named.
    """
    folder = run.path / "checkpoints"
    good = good_checkpoints(folder)
    losses = {r["step"]: r["loss"] for r in run.metrics() if r["kind"] == "eval" and r["loss"]}
    chosen: Path | None = None
    if which == "last":
        chosen = good[-1] if good else None
    elif which == "best":
        chosen = best_checkpoint(good, losses)
    elif which.isdecimal():
        path = folder / checkpoint_name(int(which))
        chosen = path if path in good else None
    if chosen is None:
        names = ", ".join(str(int(p.name[5:])) for p in good) or "none"
        raise InputError(
            f"there is no usable checkpoint '{which}'",
            where=str(folder),
            hint=f"usable steps: {names}",
            error_id="INPUT-CHECKPOINT",
        )
    return chosen


def save_evaluation(run: RunFolder, data: dict[str, Any]) -> Path:
    """Keep an evaluation in the run folder; an earlier one is never overwritten."""
    stamp = utc_now().replace("-", "").replace(":", "")
    path, number = run.path / "eval" / f"{stamp}.json", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stamp}-{number}.json")
    write_json(path, {"schema": "amaqctl.eval/1", "time": utc_now(), **data})
    return path


def environment() -> dict[str, Any]:
    """Versions and machine, as `environment.json` keeps them."""
    packages = ("amaqctl", "torch", "transformers", "peft", "numpy", "safetensors")
    plugins = {
        o.distribution: o.version for o in registry.offers(registry.QUANTIZERS) if not o.built_in
    }
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "plugins": plugins,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _check_same(run: RunFolder, built: Built) -> None:
    now = json.loads(json.dumps(built.facts()))
    for key in ("model", "data", "seed"):
        if run.run.get(key) != now[key]:
            raise ResumeError(
                f"the {key} of the run and of now differ: {run.run.get(key)} and {now[key]}",
                where=str(run.path),
                hint="bring back what the run was started with",
            )
