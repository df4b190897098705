"""What happens on a small or read-only disk, played inside a mount namespace of its own.

    unshare -m python tests/full_disk.py FOLDER

Mounts a tmpfs on FOLDER, fills it while runs go on, and prints one JSON object with what was seen.
Nothing here is collected by pytest; `test_cli_full_disk.py` starts it once and looks at the result.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from amaqctl.cli.main import app
from amaqctl.engine.checkpoint_folder import good_checkpoints

TINY = ["--set", "model.id=tiny", "--set", "eval.max_examples=2", "--set", "train.max_length=32"]
TINY += ["--set", "checkpoint.every=1", "--set", "eval.every=2", "--set", "checkpoint.keep_last=9"]
SIZE_KIB = 4096
# How much is left when the run goes on; a checkpoint of it is about 100 KiB.
LEFT_KIB = (0, 60, 230, 245)
Seen = dict[str, Any]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(folder)], check=True
    )
    elsewhere = folder.with_name("elsewhere")
    straight = command("train", "quickstart", *TINY, "--max-steps", "4", "--out", elsewhere)
    assert straight["code"] == 0, straight
    seen = {
        "straight": digest(elsewhere / "adapter"),
        # First: what a run has read it may hold in memory, and give back while the disk is full.
        "trace": trace(folder),
        "full": {left: full(folder, left) for left in LEFT_KIB},
        "read-only": read_only(folder),
    }
    print(json.dumps(seen))


def command(*arguments: object) -> Seen:
    """Type it; what came of it."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return {"code": done.exit_code, "stdout": done.stdout, "stderr": done.stderr}


def fill(folder: Path, left_kib: int) -> Path:
    """Leave only so much room."""
    filler = folder / "filler"
    handle = os.open(filler, os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):  # what is free is told too roughly: write until it is full
        while True:
            os.write(handle, bytes(1024))
    os.ftruncate(handle, os.fstat(handle).st_size - 1024 * left_kib)
    os.close(handle)
    return filler


def full(folder: Path, left_kib: int) -> Seen:
    """Go on with a run of two steps while the disk gets full; make room; go on again."""
    run = folder / f"run-{left_kib}"
    first = command("train", "quickstart", *TINY, "--max-steps", "2", "--out", run)
    assert first["code"] == 0, first
    before = state(run)
    filler = fill(folder, left_kib)
    stopped = command("train", "--resume", run, "--max-steps", "4", "--json")
    good = [path.name for path in good_checkpoints(run / "checkpoints")]
    after = state(run)
    filler.unlink()
    resumed = command("train", "--resume", run, "--max-steps", "4")
    seen = {
        "stopped": stopped,
        "good": good,
        "lost": [name for name, sha in before.items() if after.get(name) != sha],
        "resumed": resumed,
        "adapter": digest(run / "adapter") if (run / "adapter").exists() else None,
        "left over": [p.name for p in run.rglob(".*")],
    }
    subprocess.run(["rm", "-r", str(run)], check=True)
    return seen


def trace(folder: Path) -> Seen:
    """A trace that was promised room which is gone when it is written."""
    filler = fill(folder, 20)
    out = folder / "a.trace"
    seen = command("compress-trace", "--record", "quickstart", *TINY, "--out", out, "--json")
    seen["there"] = [p.name for p in folder.iterdir() if p != filler]
    filler.unlink()
    return seen


def read_only(folder: Path) -> Seen:
    """Commands on a folder that may be read only."""
    run = folder / "run"
    first = command("train", "quickstart", *TINY, "--max-steps", "2", "--out", run)
    assert first["code"] == 0, first
    gc.collect()  # a deleted checkpoint that garbage still maps would keep the disk busy
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    return {
        "train": command("train", "quickstart", *TINY, "--out", folder / "new", "--json"),
        "resume": command("train", "--resume", run, "--max-steps", "4", "--json"),
        "eval": command("eval", run, "--limit", "1", "--json"),
        "map": command("inspect-bits", run, "--export", folder / "a.csv", "--json"),
        "look": command("inspect-bits", run, "--quiet"),
    }


def state(run: Path) -> dict[str, str]:
    """Hash of every checkpoint's file and of the adapter."""
    files = [p for p in run.rglob("*") if p.is_file() and "step-" in str(p)]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def digest(folder: Path) -> str:
    """Of an adapter's weights."""
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
