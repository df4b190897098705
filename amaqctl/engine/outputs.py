"""What a run leaves beside its checkpoints: bit-widths of each save, and at the end its outcome."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from amaqctl.engine.checkpoint import (
    CheckpointContents,
    all_checkpoints,
    checkpoint_name,
    quantizer_state,
    step_of,
)
from amaqctl.engine.stage import Stage
from amaqctl.model.adapter import save_adapter
from amaqctl.storage import explained, remove_folder, write_file, write_json


def save_bits(run: Path, step: int, stages: Mapping[int, Stage]) -> None:
    """Write the widths of the last messages into ``bits/step-<step>.npz``.

    One array uint8 (K,) for each channel that has widths, by ``link<k>.<role>.<axis>``.

    Raises:
        ResourceError: it cannot be written.
    """
    widths: dict[str, Any] = {}
    for stage in stages.values():
        if stage.outgoing is None:
            continue
        for channel in (stage.outgoing.activations, stage.outgoing.gradients):
            allocation = channel.last_allocation
            if allocation is not None:
                place = f"link{channel.address.link}.{channel.address.role}.{allocation.axis}"
                widths[place] = allocation.widths_C.numpy()
    write_file(_bits_path(run, step), lambda temporary: _save_npz(temporary, widths))


def save_outcome(run: Path, step: int, contents: CheckpointContents) -> None:
    """Write adapter, quantizers and final widths of a run that ends after ``step`` steps.

    The widths are those of the last save: a run resumed at its very end has sent nothing.

    Raises:
        ResourceError: something cannot be written.
    """
    models = [stage.model for _, stage in sorted(contents.stages.items())]
    save_adapter(models, run / "adapter", contents.source, contents.lora)
    state = quantizer_state(contents)
    write_file(run / "quantizer" / "quantizer.safetensors", lambda path: save_file(state, path))
    options = {
        place: {"options": quantizer.config.model_dump(mode="json")}
        for place, quantizer in contents.quantizers().items()
    }
    write_json(run / "quantizer" / "options.json", options)
    last = _bits_path(run, step)
    write_file(run / "bits" / "final.npz", lambda temporary: _copy(last, temporary))


def drop_later(run: Path, step: int) -> None:
    """Remove what was saved of steps after ``step``: the run goes there again, its own way.

    Raises:
        ResourceError: something cannot be removed.
    """
    with explained(run):
        for path in all_checkpoints(run / "checkpoints"):
            if step_of(path) > step:
                remove_folder(path)
        for path in (run / "bits").glob("step-*.npz"):
            if path.stem[5:].isdecimal() and int(path.stem[5:]) > step:
                path.unlink()


def _bits_path(run: Path, step: int) -> Path:
    return run / "bits" / f"{checkpoint_name(step)}.npz"


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _save_npz(path: Path, arrays: dict[str, Any]) -> None:
    content = io.BytesIO()  # zipfile hides what a full disk says behind an error of its own
    np.savez_compressed(content, **arrays)
    path.write_bytes(content.getvalue())
