"""Checkpoints: everything a run needs to go on, whole or not there.

A checkpoint is built in a hidden folder; ``COMPLETE``, with the size and SHA-256 of every other
file, is written last; then the folder is renamed into place. The files are always the same five,
and ``COMPLETE`` must list just those: nothing is read that was not compared. Tensors are
safetensors, the rest is JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from amaqctl.engine.channels import channels_of
from amaqctl.engine.checkpoint_folder import (
    COMPLETE,
    FILES_OF_LORA,
    FILES_OF_WEIGHTS,
    WEIGHTS_FOLDER,
    checkpoint_name,
    digest_of,
    step_of,
)
from amaqctl.engine.optimizer_state import load_optimizers, optimizer_state, read_tensors
from amaqctl.engine.run_documents import CheckpointIdentity, TrainingDocument
from amaqctl.engine.stage import Stage
from amaqctl.errors import InputError
from amaqctl.model.adapter import load_adapter, write_adapter
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.source import ModelSource
from amaqctl.model.whole_weights import load_weights_into, write_weights
from amaqctl.quantizer import QuantizerEnd
from amaqctl.storage import (
    read_document,
    write_folder,
)

_MAX_TRAINER_BYTES = 8 * 2**20  # it keeps every evaluation


DocumentType = TypeVar("DocumentType", bound=TrainingDocument)


@dataclass(frozen=True)
class CheckpointContents:
    """The parts of a run that a checkpoint holds.

    Args:
        stages: by index, with their optimizers.
        source, lora: for the adapter's configuration; no ``lora`` where weights are trained.
    """

    stages: Mapping[int, Stage]
    source: ModelSource
    lora: LoraSettings | None

    def quantizers(self) -> dict[str, QuantizerEnd]:
        """Every quantizer held here, by ``link<k>.<role>.<end>``."""
        return {
            f"{place}.{end}": quantizer
            for place, channel in channels_of(self.stages).items()
            for end, quantizer in channel.quantizers.ends.items()
        }


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
    write_folder(
        final,
        lambda made: _write_parts(made, step, contents, trainer_state),
        replace=True,  # the leftover of a run that went on from an earlier step
    )
    return final


def _write_parts(
    folder: Path, step: int, contents: CheckpointContents, trainer_state: dict[str, Any]
) -> None:
    models = [stage.model for _, stage in sorted(contents.stages.items())]
    if contents.lora is None:
        (folder / WEIGHTS_FOLDER).mkdir()
        write_weights(models, folder / WEIGHTS_FOLDER)
    else:
        (folder / "adapter").mkdir()
        write_adapter(models, folder / "adapter", contents.source, contents.lora)
    save_file(quantizer_state(contents), folder / "quantizer.safetensors")
    # Sequence numbers ride in the headers: without them a resumed run would send other bytes.
    messages = {p: [c.num_sent, c.num_received] for p, c in channels_of(contents.stages).items()}
    save_file(optimizer_state(contents.stages), folder / "trainer.safetensors")
    dump(folder / "trainer.json", {"step": step, "messages": messages, **trainer_state})
    seal(folder)


def seal(folder: Path) -> None:
    """Write ``COMPLETE`` beside the files of a checkpoint, the last of all."""
    manifest = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest_of(folder / name)}
        for name in sorted(FILES_OF_LORA | FILES_OF_WEIGHTS)
        if (folder / name).exists()
    }
    dump(folder / COMPLETE, manifest)


def dump(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document of a checkpoint."""
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def identity_of(checkpoint: Path) -> dict[str, Any]:
    """Which run a good checkpoint was made by; empty when it does not say."""
    path = checkpoint / "trainer.json"
    try:
        return dict(read_document(path, CheckpointIdentity, _MAX_TRAINER_BYTES).identity or {})
    except InputError:
        return {}


def best_checkpoint(checkpoints: Sequence[Path], losses: Mapping[int, float]) -> Path | None:
    """The one with the lowest validation loss; None when none was evaluated at its step."""
    scored = [(losses[step_of(p)], p) for p in checkpoints if step_of(p) in losses]
    return min(scored)[1] if scored else None


def load_weights(folder: Path, contents: CheckpointContents) -> None:
    """Load adapter and quantizers from a checkpoint into what is built already.

    Raises:
        InputError: they do not fit, or cannot be read.
    """
    models = [stage.model for _, stage in sorted(contents.stages.items())]
    if contents.lora is None:
        load_weights_into(models, folder / WEIGHTS_FOLDER)
    else:
        load_adapter(models, folder / "adapter")
    path = folder / "quantizer.safetensors"
    tensors = read_tensors(path)
    for place, quantizer in contents.quantizers().items():
        prefix = f"{place}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            quantizer.load_state_dict(state)
        except InputError as error:
            raise InputError(f"quantizer of {place}: {error.message}", where=str(path)) from error


def load_training_state(
    folder: Path, stages: Mapping[int, Stage], document_type: type[DocumentType]
) -> DocumentType:
    """Load the optimizers' states and the channels' sequence numbers.

    Args:
        document_type: what this party's ``trainer.json`` is.

    Returns:
        What else the trainer wrote down.

    Raises:
        InputError: they do not fit, or cannot be read.
    """
    path = folder / "trainer.json"
    document = read_document(path, document_type, _MAX_TRAINER_BYTES)
    channels = channels_of(stages)
    if document.step != step_of(folder) or document.messages.keys() != channels.keys():
        raise InputError(
            f"it is of step {document.step} with {', '.join(document.messages) or 'no channels'}; "
            f"due is step {step_of(folder)} with {', '.join(channels)}",
            where=str(path),
        )
    load_optimizers(folder / "trainer.safetensors", stages)
    for place, channel in channels.items():
        channel.restart(*document.messages[place])
    return document


def quantizer_state(contents: CheckpointContents) -> dict[str, Tensor]:
    """The state of every quantizer, both ends, as flat tensors."""
    flat: dict[str, Tensor] = {}
    for place, quantizer in contents.quantizers().items():
        for key, tensor in quantizer.state_dict().items():
            flat[f"{place}.{key}"] = tensor.detach().cpu().contiguous().clone()
    return flat
