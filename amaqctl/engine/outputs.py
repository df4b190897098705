"""What a run leaves beside its checkpoints: bit-widths of each save, and at the end its outcome."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from amaqctl.engine.bits_report import SiteReport, Vector, report_arrays
from amaqctl.engine.channels import sending_channels
from amaqctl.engine.checkpoint import CheckpointContents, quantizer_state
from amaqctl.engine.checkpoint_folder import (
    WEIGHTS_FOLDER,
    all_checkpoints,
    checkpoint_name,
    step_of,
)
from amaqctl.engine.link import Channel
from amaqctl.engine.stage import Stage
from amaqctl.model.adapter import save_adapter
from amaqctl.model.whole_weights import write_weights
from amaqctl.storage import explained, remove_folder, write_file, write_folder, write_json


def save_bits(run: Path, step: int, stages: Mapping[int, Stage]) -> None:
    """Write the widths of the last messages into ``bits/step-<step>.npz``.

    One array uint8 (K,) for each channel that has widths, by ``link<k>.<role>.<axis>``, and what
    every sender says of itself beside them: see `amaqctl.engine.bits_report`.

    Raises:
        ResourceError: it cannot be written.
        PluginError: a sender's report fails.
    """
    arrays: dict[str, Any] = {}
    reports: dict[tuple[int, str], SiteReport] = {}
    for place, channel in sending_channels(stages).items():
        if channel.last_bits is None:  # nothing was sent
            continue
        reports[channel.address.link, channel.address.role] = _report_of(channel, channel.last_bits)
        if (allocation := channel.last_allocation) is not None:
            arrays[f"{place}.{allocation.axis}"] = allocation.widths_C.numpy()
    arrays |= report_arrays(reports)
    write_file(_bits_path(run, step), lambda temporary: _save_npz(temporary, arrays))


def _report_of(channel: Channel, bits_a_value: float) -> SiteReport:
    sender = channel.quantizers.sender
    report = sender.report()
    return SiteReport(
        bits_a_value,
        channel.last_allocation is not None,
        None if report.target_bits is None else float(report.target_bits),
        report.column,
        sender.legal_bits(),
        _plain(report.range_K),
        _plain(report.gradient_energy_K),
    )


def _plain(values_K: Tensor | None) -> Vector | None:
    return None if values_K is None else values_K.detach().to("cpu", torch.float32).numpy()


def save_outcome(run: Path, step: int, contents: CheckpointContents) -> None:
    """Write adapter, quantizers and final widths of a run that ends after ``step`` steps.

    The widths are those of the last save: a run resumed at its very end has sent nothing.

    Raises:
        ResourceError: something cannot be written.
    """
    models = [stage.model for _, stage in sorted(contents.stages.items())]
    if contents.lora is None:
        folder = run / WEIGHTS_FOLDER
        write_folder(folder, lambda made: write_weights(models, made), replace=True)
    else:
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
