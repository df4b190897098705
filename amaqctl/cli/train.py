"""`amaqctl train`: from a profile to a trained adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amaqctl.cli.render import duration, facts, mib
from amaqctl.cli.session import Json, Quiet, Set, Traceback, command
from amaqctl.errors import UsageError


def train(
    profile: Annotated[
        str | None, typer.Argument(help="A profile file, or the name of a shipped one.")
    ] = None,
    set_: Set = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with a stopped run.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder itself.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="First part of the run's name.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Short for --set train.seed=N.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="Short for --set train.max_steps=N.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Train a LoRA adapter across the cuts of a profile, over bytes that are really sent.

    Ends with the adapter in RUN/adapter, which stock PEFT loads, and a report of losses and
    bytes. Ctrl-C saves everything and stops.
    """
    with command("amaqctl.train/1", json=json, quiet=quiet, traceback=traceback) as session:
        overrides = list(set_ or [])
        if seed is not None:
            overrides.append(f"train.seed={seed}")
        if max_steps is not None:
            overrides.append(f"train.max_steps={max_steps}")
        if (profile is None) == (resume is None):
            raise UsageError("give a profile, or --resume RUN", hint="amaqctl profile list")
        if resume is not None and (out or name or set_ or seed is not None):
            raise UsageError("--resume takes no change but --max-steps")
        from amaqctl import build, runs
        from amaqctl.cli.progress import TrainingProgress
        from amaqctl.engine.checkpoint import checkpoint_name
        from amaqctl.profile import load_profile

        session.note("loading …")
        if resume is not None:
            built, run, checkpoint = runs.resumed(resume, overrides)
        else:
            assert profile is not None
            built = build.build(load_profile(profile, overrides))
            run, checkpoint = runs.new_run(built, out, name), None
        for reason, count in built.task.num_dropped.items():
            session.warn(f"{count} rows left out, {reason}")
        if checkpoint is not None:
            session.note(f"going on from {checkpoint.name}")
        with TrainingProgress(run.path.name, quiet) as progress:
            result = built.trainer(run, progress).train(checkpoint)
        last = checkpoint_name(built.loaded.profile.train.max_steps)
        data = {"run": str(run.path), "id": run.run["id"], "checkpoint": last, **result}
        session.result(data, _report(data), str(run.path))


def _report(data: dict[str, Any]) -> str:
    raw_bytes = 2 * data["wire_values"]
    scores = "".join(
        f"; {name.replace('_', ' ')} {data[f'{name}_before']:.3f} before, "
        f"{data[f'{name}_after']:.3f} after"
        for name in ("accuracy", "exact_match")
        if f"{name}_after" in data
    )
    bits = "; ".join(
        f"{role} {data[f'{role}_bits_at_end']:.2f} at the end, "
        f"{data[f'{role}_bits_over_run']:.2f} over the run"
        for role in ("activation", "gradient")
    )
    smaller = raw_bytes / data["wire_bytes"]
    rows = [
        ("run", data["run"]),
        ("status", f"done after {data['steps']} steps, {duration(data['seconds'])}"),
        ("loss", f"{data['loss_before']:.4f} before, {data['loss_after']:.4f} after{scores}"),
        ("bits", f"{bits} (a value, all bytes counted)"),
        ("wire", f"{mib(data['wire_bytes'])} sent; 16 bit: {mib(raw_bytes)} ({smaller:.2f}x)"),
        ("memory", f"{data['peak_memory_mib']} MiB at its peak"),
        ("adapter", f"{data['run']}/adapter"),
        ("next", f"amaqctl eval {data['id']} --boundary both"),
    ]
    return facts(rows)
