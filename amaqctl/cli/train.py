"""`amaqctl train`: from a profile to a trained adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amaqctl.cli.console.early import checked_profile
from amaqctl.cli.console.render import facts, trained_row
from amaqctl.cli.console.session import Json, Quiet, Session, Set, Traceback, command
from amaqctl.cli.dry_run import dry_run as forecast_run
from amaqctl.cli.party import train_as_party
from amaqctl.cli.party_dry_run import dry_run_as_party
from amaqctl.engine.advice import advised, name_of
from amaqctl.engine.checkpoint_folder import checkpoint_name
from amaqctl.engine.resumable import refuse_early
from amaqctl.engine.run_folder import RunFolder
from amaqctl.engine.run_search import RUNS, existing_run
from amaqctl.errors import UsageError
from amaqctl.units import duration, mib


def train(
    profile: Annotated[
        str | None, typer.Argument(help="A profile file, or the name of a shipped one.")
    ] = None,
    set_: Set = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with a stopped run.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run folder itself.")
    ] = None,
    party: Annotated[
        Path | None,
        typer.Option("--party", metavar="FILE", help="Train with others; who and where this is."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="First part of the run's name.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Short for --set train.seed=N.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="Short for --set train.max_steps=N.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what the run would do, and make nothing.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Train a LoRA adapter across the cuts of a profile, over bytes that are really sent.

    Ends with the adapter in RUN/adapter, which stock PEFT loads, and a report of losses and
    bytes. Ctrl-C saves everything and stops.
    """
    with command(_schema(dry_run, party), json=json, quiet=quiet, traceback=traceback) as session:
        overrides = list(set_ or [])
        if seed is not None:
            overrides.append(f"train.seed={seed}")
        if max_steps is not None:
            overrides.append(f"train.max_steps={max_steps}")
        _check_arguments(profile, resume, name, bool(out or name or set_ or seed is not None))
        if party is not None and name is not None:
            raise UsageError("--party goes without --name")
        if dry_run:
            if profile is None:
                raise UsageError("--dry-run goes with a profile, not with --resume")
            if party is not None:
                dry_run_as_party(session, party, profile, overrides)
                return
            forecast_run(session, profile, overrides, out, name)
        else:
            where = (profile, resume, overrides, out)
            if party is not None:
                done = train_as_party(session, party, *where, max_steps)
            else:
                done = _train(session, *where, name, max_steps)
            if done is not None:
                _tell(session, *done)


def _schema(dry_run: bool, party: Path | None) -> str:
    if not dry_run:
        return "amaqctl.train/1"
    return "amaqctl.dry-run/1" if party is None else "amaqctl.agreement/1"


def _check_arguments(
    profile: str | None, resume: str | None, name: str | None, is_changed: bool
) -> None:
    if (profile is None) == (resume is None):
        raise UsageError("give a profile, or --resume RUN", hint="amaqctl profile list")
    if resume is not None and is_changed:
        raise UsageError("--resume takes no change but --max-steps")
    if name is not None and Path(name).name != name:
        raise UsageError(f"--name {name!r}: a name has no '/'", hint="the place is --out's")


def _train(
    session: Session,
    profile: str | None,
    resume: str | None,
    overrides: list[str],
    out: Path | None,
    name: str | None,
    max_steps: int | None,
) -> tuple[dict[str, Any], RunFolder]:
    loaded = None if profile is None else checked_profile(profile, overrides, out)
    if resume is not None and Path(resume).parent.name != "checkpoints":
        refuse_early(existing_run(resume), max_steps)
    session.note("loading …")
    from amaqctl import build, forecast, runs
    from amaqctl.cli.console.progress import TrainingProgress

    if loaded is None:
        assert resume is not None
        built, run, checkpoint = runs.resumed(resume, overrides, session.warn)
    else:
        built = build.build(loaded)
        forecast.refuse_full_disk(built, out)
        run, checkpoint = runs.new_run(built, out, name), None
    for text in built.warnings:
        session.warn(text)
    for reason, count in built.task.num_dropped.items():
        session.warn(f"{count} rows left out, {reason}")
    if checkpoint is not None:
        session.note(f"going on from {checkpoint.name}")
    with TrainingProgress(run.path.name, session.quiet) as progress:
        return built.trainer(run, progress).train(checkpoint), run


def _tell(session: Session, result: dict[str, Any], run: RunFolder) -> None:
    last = checkpoint_name(result["steps"])
    data = {"run": str(run.path), "id": run.run["id"], "checkpoint": last, **result}
    name = name_of(run, RUNS)
    whole = ("eval", name, "--boundary", "both")
    way_on = advised(*(("inspect-bits", name) if run.is_of_parties else whole))
    session.result(data, _report(data, run.path, way_on), str(run.path))


def _report(data: dict[str, Any], run: Path, way_on: str) -> str:
    raw_bytes = 2 * data["wire_values"]
    scores = "".join(
        f"; {name.replace('_', ' ')} {data[f'{name}_before']:.3f} before, "
        f"{data[f'{name}_after']:.3f} after"
        for name in ("accuracy", "exact_match")
        if f"{name}_after" in data
    )
    bits = {
        role: f"{role} {data[f'{role}_bits_at_end']:.2f} at the end, "
        f"{data[f'{role}_bits_over_run']:.2f} over the run"
        for role in ("activation", "gradient")
    }
    smaller = raw_bytes / data["wire_bytes"]
    rows = [
        ("run", data["run"]),
        ("status", f"done after {data['steps']} steps, {duration(data['seconds'])}"),
        ("loss", f"{data['loss_before']:.4f} before, {data['loss_after']:.4f} after{scores}"),
        ("bits", f"{bits['activation']} (a value, all bytes)"),
        ("", bits["gradient"]),
        ("wire", f"{mib(data['wire_bytes'])} sent; 16 bit: {mib(raw_bytes)} ({smaller:.2f}x)"),
        ("memory", f"{data['peak_memory_mib']} MiB at its peak"),
        trained_row(run),
        ("next", way_on),
    ]
    return facts(rows)
