"""Room for a run: disk for its folder, memory so far."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from amaqctl.build import Built
from amaqctl.engine.checkpoint import save_checkpoint
from amaqctl.engine.checkpoint_folder import WEIGHTS_FOLDER
from amaqctl.errors import ResourceError
from amaqctl.forecast.rehearsal import Rehearsal
from amaqctl.model.trained import trained_parameters

_METRICS_BYTES = 1024
"""A step's line in metrics.jsonl, roughly."""
_FOLDER_BYTES = 2**16
"""Profile, run.json, environment, bit widths, log: little, and less than this."""


@dataclass(frozen=True)
class DiskForecast:
    """Disk that a run takes.

    Args:
        folder: an existing one on the disk that the run will be on.
        checkpoint_bytes: the last and largest checkpoint.
        num_checkpoints: most that exist at once: the newest, the best, and the one being written.
        adapter_bytes: the result. state_bytes: what quantizers remember of samples, kept in
            unnamed temporary files while the run lasts.
        needed_bytes: all of it, with the metrics. free_bytes: on that disk now.
    """

    folder: str
    checkpoint_bytes: int
    num_checkpoints: int
    adapter_bytes: int
    state_bytes: int
    needed_bytes: int
    free_bytes: int

    @property
    def is_enough(self) -> bool:
        """Whether the run fits."""
        return self.needed_bytes <= self.free_bytes


def disk_forecast(
    built: Built, rehearsal: Rehearsal, num_samples: int, num_seen: int, out: Path | None
) -> DiskForecast:
    """Disk that the run will take, from a checkpoint that is really saved and thrown away.

    Args:
        num_samples: different samples of the whole run. num_seen: of the rehearsed steps.
        out: the run folder to be, or None for one under ``output.root``.

    Raises:
        ResourceError: the folder for temporary files has no room for one checkpoint.
    """
    before, after = rehearsal.state_bytes
    growth = (after - before) / num_seen * (num_samples - num_seen)
    with tempfile.TemporaryDirectory(prefix="amaqctl-") as temporary:
        saved = save_checkpoint(Path(temporary), 0, built.contents, {})
        sizes = {p.relative_to(saved): p.stat().st_size for p in saved.rglob("*") if p.is_file()}
    result = ("adapter", WEIGHTS_FOLDER)
    adapter = sum(size for path, size in sizes.items() if path.parts[0] in result)
    checkpoint = round(sum(sizes.values()) + growth)
    profile = built.loaded.profile
    num_saves = -(-profile.train.max_steps // profile.checkpoint.every)
    num_checkpoints = min(num_saves, profile.checkpoint.keep_last + 2)
    state = round(after - before + growth)
    needed = num_checkpoints * checkpoint + adapter + after + round(growth) + state
    folder = _existing_folder(built, out)
    return DiskForecast(
        folder=str(folder),
        checkpoint_bytes=checkpoint,
        num_checkpoints=num_checkpoints,
        adapter_bytes=adapter,
        state_bytes=state,
        needed_bytes=needed + _FOLDER_BYTES + _METRICS_BYTES * profile.train.max_steps,
        free_bytes=shutil.disk_usage(folder).free,
    )


def refuse_full_disk(built: Built, out: Path | None) -> None:
    """Refuse a run that cannot even save once: adapter and moments, and the adapter again.

    Args:
        out: the run folder to be, or None for one under ``output.root``.

    Raises:
        ResourceError: clearly not enough room; nothing was written.
    """
    adapter = sum(
        parameter.nbytes
        for stage in built.engine.stages.values()
        for parameter in trained_parameters(stage.model).values()
    )
    least, folder = 4 * adapter, _existing_folder(built, out)  # AdamW has two moments a weight
    free = shutil.disk_usage(folder).free
    if free < least:
        raise ResourceError(
            f"a checkpoint and what is trained need {least / 2**20:.1f} MiB, and "
            f"{free / 2**20:.1f} MiB are free",
            where=str(folder),
            hint="free some space, or choose another place with output.root or --out",
            error_id="RESOURCE-DISK",
        )


def _existing_folder(built: Built, out: Path | None) -> Path:
    """The run folder to be, or the nearest folder above it that exists."""
    path = (out or Path(built.loaded.profile.output.root)).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
