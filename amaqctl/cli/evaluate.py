"""`amaqctl eval`: score a run, with the quantizers in the path, without, or both side by side."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaqctl.cli.console import render
from amaqctl.cli.console.early import checked_profile
from amaqctl.cli.console.scoring import ScoringProgress
from amaqctl.cli.console.session import Json, Quiet, Session, Set, Traceback, command
from amaqctl.engine.run_folder import find_run
from amaqctl.engine.run_search import RUNS
from amaqctl.errors import CheckError, InputError, ResourceError, UsageError

if TYPE_CHECKING:
    from amaqctl.engine.engine import Boundary
    from amaqctl.engine.evaluator import Evaluator
    from amaqctl.engine.run_folder import RunFolder


class BoundaryChoice(StrEnum):
    """What is in the path at the cuts."""

    quantized = "quantized"
    clean = "clean"
    both = "both"


def evaluate(
    run_or_profile: Annotated[
        str, typer.Argument(metavar="RUN|PROFILE", help="A run, or a profile (untrained).")
    ],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="best|last|STEP", help="Which one of the run.")
    ] = "last",
    boundary: Annotated[
        BoundaryChoice, typer.Option("--boundary", help="Quantizers in the path, or not.")
    ] = BoundaryChoice.quantized,
    set_: Set = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Look at so many examples only.")
    ] = None,
    min_: Annotated[
        list[str] | None, typer.Option("--min", metavar="METRIC=X", help="Exit 8 if below.")
    ] = None,
    max_: Annotated[
        list[str] | None, typer.Option("--max", metavar="METRIC=X", help="Exit 8 if above.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Report loss, perplexity, and accuracy or exact match on the validation examples.

    `--boundary both` runs the same weights with the quantizers in the path and without, which
    tells what the adapter learned less from what the wire loses.
    """
    with command("amaqctl.eval/1", json=json, quiet=quiet, traceback=traceback) as session:
        bounds = [_bound(x, k) for k, texts in (("min", min_), ("max", max_)) for x in texts or []]
        _check_early(run_or_profile, set_ or [])
        session.note("loading …")
        from amaqctl import runs

        built, run, choice = runs.for_evaluation(run_or_profile, checkpoint, set_ or [], limit)
        step = choice.step if choice else 0
        changes = runs.changes_since_training(built, run, choice) if run and choice else []
        for line in [*built.warnings, *(choice.warnings() if choice else ()), *changes]:
            session.warn(line)
        wanted = ["quantized", "clean"] if boundary == BoundaryChoice.both else [boundary.value]
        scores = _scores(session, built.evaluator, step, wanted)  # type: ignore[arg-type]
        data: dict[str, Any] = {
            "run": str(run.path) if run else None,
            "profile": str(built.loaded.path),
            "step": step,
            "passed_over": dict(choice.passed_over) if choice else {},
            "overrides": list(set_ or []),
            "changed_since_training": changes,
            "num_examples": len(built.evaluator.examples),
            "num_validation": len(built.task.validation),
            "metrics": scores,
        }
        _check_names(scores[wanted[0]], bounds)
        if run is not None:
            _keep(session, run, data)
        text, bare = _text(data, wanted), f"{scores[wanted[0]]['loss']:.6f}"
        if failed := _failed(scores[wanted[0]], bounds):
            session.failed_check(data, text, bare, CheckError("; ".join(failed)))
        session.result(data, text, bare)


def _check_early(run_or_profile: str, overrides: list[str]) -> None:
    run = find_run(run_or_profile, RUNS)
    if run is not None:
        run.refuse_of_parties("an evaluation")
        return
    try:
        checked_profile(run_or_profile, overrides)
    except InputError as error:
        if error.error_id != "INPUT-PROFILE" or error.where is not None:  # a file, by its looks
            raise
        raise InputError(
            f"there is no run and no profile '{run_or_profile}'",
            hint=f"give the folder that `amaqctl train` named at its end; {error.hint}",
            error_id="INPUT-RUN",
        ) from error


def _keep(session: Session, run: RunFolder, data: dict[str, Any]) -> None:
    from amaqctl import runs

    try:
        data["saved"] = str(runs.save_evaluation(run, data))
    except (InputError, ResourceError) as error:  # what was measured is worth more than its copy
        session.warn(f"not kept with the run: {error}")


def _scores(
    session: Session, evaluator: Evaluator, step: int, wanted: list[Boundary]
) -> dict[str, dict[str, float]]:
    with ScoringProgress(len(evaluator.examples), session.quiet) as progress:
        return {name: evaluator.evaluate(step, name, progress.on_batch(name)) for name in wanted}


def _bound(text: str, kind: str) -> tuple[str, str, float]:
    name, _, value = text.partition("=")
    try:
        bound = float(value)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise UsageError(
            f"--{kind} {text}: METRIC=NUMBER is needed", hint=f"for example --{kind} loss=2.5"
        )
    return name, kind, bound


def _check_names(metrics: dict[str, float], bounds: list[tuple[str, str, float]]) -> None:
    for name, _, _ in bounds:
        if name not in metrics:
            raise UsageError(f"there is no metric '{name}'", hint=f"there are {', '.join(metrics)}")


def _failed(metrics: dict[str, float], bounds: list[tuple[str, str, float]]) -> list[str]:
    """What is out of bounds, in words; NaN is within none."""
    return [
        f"{name} is {metrics[name]:.4g}, not {bound:g} or {'more' if kind == 'min' else 'less'}"
        for name, kind, bound in bounds
        if not (metrics[name] >= bound if kind == "min" else metrics[name] <= bound)
    ]


def _text(data: dict[str, Any], wanted: list[str]) -> str:
    scores = data["metrics"]
    header = ["metric", *wanted]
    rows = [[name, *(f"{scores[b][name]:.4f}" for b in wanted)] for name in scores[wanted[0]]]
    if len(wanted) == 2:
        header.append("lost")
        for row in rows:
            row.append(f"{scores['quantized'][row[0]] - scores['clean'][row[0]]:+.4f}")
    place = Path(data["run"] or data["profile"]).name
    seen = f"{data['num_examples']} of {data['num_validation']} examples"
    lines = [render.wrap(f"{place}  step {data['step']}  {seen}"), render.table(header, rows)]
    if data["num_examples"] < data["num_validation"]:
        lines.append("not all examples were used: do not publish")
    if "saved" in data:
        lines.append(f"saved {data['saved']}")
    return "\n".join(lines)
