"""`amaqctl eval`: score a run, with the quantizers in the path, without, or both side by side."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amaqctl.cli import render
from amaqctl.cli.session import Json, Quiet, Session, Set, Traceback, command
from amaqctl.errors import CheckError, UsageError


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
        bounds = [_bound(text, "min") for text in min_ or []]
        bounds += [_bound(text, "max") for text in max_ or []]
        from amaqctl import runs

        session.note("loading …")
        built, run, step = runs.for_evaluation(run_or_profile, checkpoint, set_ or [], limit)
        wanted = ["quantized", "clean"] if boundary == BoundaryChoice.both else [boundary.value]
        scores = {name: built.evaluator.evaluate(step, name) for name in wanted}  # type: ignore[arg-type]
        data: dict[str, Any] = {
            "run": str(run.path) if run else None,
            "profile": str(built.loaded.path),
            "step": step,
            "num_examples": len(built.evaluator.examples),
            "num_validation": len(built.task.validation),
            "metrics": scores,
        }
        if run is not None:
            data["saved"] = str(runs.save_evaluation(run, data))
        for name, kind, value in bounds:
            _check(scores[wanted[0]], name, kind, value)
        _show(session, data, wanted)


def _bound(text: str, kind: str) -> tuple[str, str, float]:
    name, _, value = text.partition("=")
    try:
        return name, kind, float(value)
    except ValueError:
        raise UsageError(f"--{kind} {text}: METRIC=NUMBER is needed") from None


def _check(metrics: dict[str, float], name: str, kind: str, bound: float) -> None:
    if name not in metrics:
        raise UsageError(f"there is no metric '{name}'", hint=f"there are {', '.join(metrics)}")
    value = metrics[name]
    if (value < bound) if kind == "min" else (value > bound):
        side = "below" if kind == "min" else "above"
        raise CheckError(f"{name} is {value:.4g}, {side} {bound:g}")


def _show(session: Session, data: dict[str, Any], wanted: list[str]) -> None:
    scores = data["metrics"]
    header = ["metric", *wanted]
    rows = [[name, *(f"{scores[b][name]:.4f}" for b in wanted)] for name in scores[wanted[0]]]
    if len(wanted) == 2:
        header.append("lost")
        for row in rows:
            row.append(f"{scores['quantized'][row[0]] - scores['clean'][row[0]]:+.4f}")
    place = Path(data["run"] or data["profile"]).name
    seen = f"{data['num_examples']} of {data['num_validation']} examples"
    lines = [f"{place}  step {data['step']}  {seen}", render.table(header, rows)]
    if data["num_examples"] < data["num_validation"]:
        lines.append("not all examples were used: do not publish")
    if "saved" in data:
        lines.append(f"saved {data['saved']}")
    session.result(data, "\n".join(lines), f"{scores[wanted[0]]['loss']:.6f}")
