"""Runs and traces by what a person types, found without importing torch."""

from __future__ import annotations

from pathlib import Path

from amaqctl.engine.advice import advised
from amaqctl.engine.run_folder import RunFolder, find_run
from amaqctl.errors import InputError

RUNS = Path("runs")


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
        hint=advised("compress-trace", "--record", profile, "--out", out),
        error_id="INPUT-TRACE",
    )
