"""What the folders of checkpoints are called: ``RUN/checkpoints/step-000050``. Needs no torch."""

from __future__ import annotations

from pathlib import Path


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after ``step`` optimizer steps."""
    return f"step-{step:06d}"


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, torn ones too, oldest first; a folder of another name is not ours."""
    found = [p for p in folder.glob("step-*") if p.name[5:].isdecimal() and p.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps behind a checkpoint, from its name."""
    return int(checkpoint.name[5:])
