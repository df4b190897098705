"""What the tests of a run's files share: the command, its failures, and what a folder holds."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from kill_points import settings
from typer.testing import CliRunner

from amaqctl.cli.main import app

NEWEST = "checkpoints/step-000004"


def amaqctl(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def failure(code: int, *arguments: object) -> dict[str, Any]:
    """What a command that fails says in JSON; on stderr it is one line and its hint."""
    result = amaqctl(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    error: dict[str, Any] = json.loads(result.stdout)["error"]
    return error


def state(folder: Path) -> dict[str, str]:
    """What every file below a folder holds."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def sign(checkpoint: Path) -> None:
    """Make the list of files fit what is there now."""
    manifest = json.loads((checkpoint / "COMPLETE").read_text())
    for name in manifest:
        data = (checkpoint / name).read_bytes()
        manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "COMPLETE").write_text(json.dumps(manifest))


def refused_resume(run: Path) -> dict[str, Any]:
    before = state(run)
    error = failure(9, "train", "--resume", run, "--max-steps", 6)
    assert state(run) == before
    return error


def train_four_steps(folder: Path) -> Path:
    """A finished run, made with the usual umask."""
    changes = [*settings(folder, "amaq", 4), "split.cuts=[1]", "optimizer.schedule=linear"]
    sets = [part for item in changes for part in ("--set", item)]
    before = os.umask(0o022)
    try:
        result = amaqctl("train", "quickstart", *sets, "--out", folder / "run", "--quiet")
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.stderr
    return folder / "run"
