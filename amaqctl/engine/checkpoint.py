"""Checkpoints: everything a run needs to go on, whole or not there.

A checkpoint is built in a hidden folder; ``COMPLETE``, with the size and SHA-256 of every other
file, is written last; then the folder is renamed into place. Tensors are safetensors, the rest is
JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amaqctl.engine.files import disk_error, put_folder_in_place, remove_folder, write_json
from amaqctl.engine.link import Channel
from amaqctl.engine.stage import Stage
from amaqctl.errors import InputError
from amaqctl.model.adapter import load_adapter, save_adapter
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.source import ModelSource

COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class CheckpointContents:
    """The parts of a run that a checkpoint holds.

    Args:
        stages: by index, with their optimizers.
        source, lora: for the adapter's configuration.
    """

    stages: Mapping[int, Stage]
    source: ModelSource
    lora: LoraSettings

    def quantizers(self) -> dict[str, nn.Module]:
        """Every quantizer instance held here, by ``link<k>.<role>.<end>``."""
        found: dict[str, nn.Module] = {}
        for place, channel in _channels(self.stages).items():
            found[f"{place}.sender"] = channel.quantizers.sender
            found[f"{place}.receiver"] = channel.quantizers.receiver
        return found


def _channels(stages: Mapping[int, Stage]) -> dict[str, Channel]:
    """The channels of the outgoing links, by ``link<k>.<role>``."""
    return {
        f"link{channel.address.link}.{channel.address.role}": channel
        for _, stage in sorted(stages.items())
        if stage.outgoing is not None
        for channel in (stage.outgoing.activations, stage.outgoing.gradients)
    }


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after ``step`` optimizer steps."""
    return f"step-{step:06d}"


def save_checkpoint(
    folder: Path, step: int, contents: CheckpointContents, trainer_state: dict[str, Any]
) -> Path:
    """Write the checkpoint after ``step`` steps into ``folder``.

    Args:
        folder: the run's ``checkpoints`` folder.
        trainer_state: plain JSON values the trainer wants back.

    Returns:
        The checkpoint's folder.

    Raises:
        ResourceError: it cannot be written; earlier checkpoints are untouched.
    """
    final = folder / checkpoint_name(step)
    unfinished = folder / f".tmp-{checkpoint_name(step)}"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write_parts(unfinished, step, contents, trainer_state)
        if final.exists():  # the leftover of a run that went on from an earlier step
            remove_folder(final)
        put_folder_in_place(unfinished, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise disk_error(error, final) from error
    return final


def _write_parts(
    folder: Path, step: int, contents: CheckpointContents, trainer_state: dict[str, Any]
) -> None:
    models = [stage.model for _, stage in sorted(contents.stages.items())]
    save_adapter(models, folder / "adapter", contents.source, contents.lora)
    save_file(quantizer_state(contents), folder / "quantizer.safetensors")
    tensors, groups = _optimizer_state(contents.stages)
    # Sequence numbers ride in the headers: without them a resumed run would send other bytes.
    messages = {p: [c.num_sent, c.num_received] for p, c in _channels(contents.stages).items()}
    save_file(tensors, folder / "trainer.safetensors")
    write_json(
        folder / "trainer.json",
        {"step": step, "optimizers": groups, "messages": messages, **trainer_state},
    )
    manifest = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / COMPLETE, manifest)


def fault_of(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when every file is as it was written."""
    try:
        manifest = json.loads((folder / COMPLETE).read_text("utf-8"))
        if not manifest:
            return f"{COMPLETE} cannot be read"
        for name, expected in manifest.items():
            path = folder / name
            if path.stat().st_size != expected["bytes"] or _digest(path) != expected["sha256"]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{COMPLETE} cannot be read"
    return None


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, torn ones too, oldest first; a folder of another name is not ours."""
    found = [p for p in folder.glob("step-*") if p.name[5:].isdecimal() and p.is_dir()]
    return sorted(found, key=step_of)


def good_checkpoints(folder: Path) -> list[Path]:
    """Usable checkpoints of a run, oldest first."""
    return [path for path in all_checkpoints(folder) if fault_of(path) is None]


def step_of(checkpoint: Path) -> int:
    """Optimizer steps behind a checkpoint, from its name."""
    return int(checkpoint.name[5:])


def identity_of(checkpoint: Path) -> dict[str, Any]:
    """Which run a good checkpoint was made by; empty when it does not say.

    Raises:
        InputError: it cannot be read.
    """
    path = checkpoint / "trainer.json"
    try:
        identity = json.loads(path.read_text("utf-8")).get("identity")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error
    return identity if isinstance(identity, dict) else {}


def best_checkpoint(checkpoints: Sequence[Path], losses: Mapping[int, float]) -> Path | None:
    """The one with the lowest validation loss; None when none was evaluated at its step."""
    scored = [(losses[step_of(p)], p) for p in checkpoints if step_of(p) in losses]
    return min(scored)[1] if scored else None


def load_weights(folder: Path, contents: CheckpointContents) -> None:
    """Load adapter and quantizers from a checkpoint into what is built already.

    Raises:
        InputError: they do not fit, or cannot be read.
    """
    load_adapter([stage.model for _, stage in sorted(contents.stages.items())], folder / "adapter")
    path = folder / "quantizer.safetensors"
    tensors = _read_tensors(path)
    for place, quantizer in contents.quantizers().items():
        prefix = f"{place}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            quantizer.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            first_line = str(error).splitlines()[-1].strip()
            raise InputError(
                f"the quantizer state of {place} does not fit: {first_line}", where=str(path)
            ) from error


def load_optimizers(folder: Path, stages: Mapping[int, Stage]) -> dict[str, Any]:
    """Load the optimizers' states and the channels' sequence numbers.

    Returns:
        The trainer's own JSON values.

    Raises:
        InputError: they do not fit, or cannot be read.
    """
    path = folder / "trainer.json"
    tensors = _read_tensors(folder / "trainer.safetensors")
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        _fill_optimizers(stages, tensors, document["optimizers"])
        for place, channel in _channels(stages).items():
            channel.num_sent, channel.num_received = document["messages"][place]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the optimizer state does not fit: {error}", where=str(path)) from error
    return document


def _fill_optimizers(
    stages: Mapping[int, Stage], tensors: Mapping[str, Tensor], groups: Mapping[str, Any]
) -> None:
    for index, stage in stages.items():
        if stage.optimizer is None:
            continue
        state: dict[int, dict[str, Tensor]] = {}
        prefix = f"stage{index}."
        for key, tensor in tensors.items():
            if key.startswith(prefix):
                parameter, name = key.removeprefix(prefix).split(".", 1)
                state.setdefault(int(parameter), {})[name] = tensor
        stage.optimizer.load_state_dict({"state": state, "param_groups": groups[str(index)]})


def quantizer_state(contents: CheckpointContents) -> dict[str, Tensor]:
    """The state of every quantizer, both ends, as flat tensors."""
    flat: dict[str, Tensor] = {}
    for place, quantizer in contents.quantizers().items():
        for key, tensor in quantizer.state_dict().items():
            flat[f"{place}.{key}"] = tensor.detach().cpu().contiguous().clone()
    return flat


def _optimizer_state(stages: Mapping[int, Stage]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    for index, stage in stages.items():
        if stage.optimizer is None:
            continue
        state = stage.optimizer.state_dict()
        groups[str(index)] = state["param_groups"]
        for parameter, entries in state["state"].items():
            for name, value in entries.items():
                tensor = value if isinstance(value, Tensor) else torch.tensor(value)
                tensors[f"stage{index}.{parameter}.{name}"] = tensor.detach().cpu().contiguous()
    return tensors, groups


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
