"""What full fine-tuning has trained, as a file: safetensors, by the model's own names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, no_grad

from amaqctl.errors import InputError
from amaqctl.model.lora_settings import TRAINED_WEIGHTS
from amaqctl.model.stage_model import StageModel
from amaqctl.model.trained import trained_parameters
from amaqctl.storage import check_regular


def write_weights(stages: Sequence[StageModel], folder: Path) -> None:
    """Write the trained weights of some stages into an empty folder.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    weights = {
        name: parameter.detach().cpu().contiguous()
        for stage in stages
        for name, parameter in trained_parameters(stage).items()
    }
    save_file(weights, folder / TRAINED_WEIGHTS, metadata={"format": "pt"})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights by name, all of them finite.

    Raises:
        InputError: the file cannot be read, or a weight is not finite.
    """
    path = folder / TRAINED_WEIGHTS
    try:
        check_regular(path)
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, InputError, SafetensorError) as error:
        raise _misfit(path, f"the weights cannot be read: {error}") from error
    for name, weight in weights.items():
        if not weight.is_floating_point() or not bool(weight.isfinite().all()):
            raise _misfit(path, f"{name} holds values that are not finite")
    return weights


def load_weights_into(stages: Sequence[StageModel], folder: Path) -> None:
    """Copy trained weights into stages; all is checked before anything is changed.

    Weights of stages held elsewhere are passed over.

    Raises:
        InputError: unreadable, or names or shapes that do not fit.
    """
    weights, path = read_weights(folder), folder / TRAINED_WEIGHTS
    for stage in stages:
        for name, parameter in trained_parameters(stage).items():
            if name not in weights:
                raise _misfit(path, f"it lacks {name}")
            if weights[name].shape != parameter.shape:
                found, wanted = tuple(weights[name].shape), tuple(parameter.shape)
                raise _misfit(path, f"{name} has shape {found}, the model needs {wanted}")
        if strange := weights.keys() - set(stage.parameter_names):
            raise _misfit(path, f"it also has {min(strange)}")
    with no_grad():
        for stage in stages:
            for name, parameter in trained_parameters(stage).items():
                parameter.copy_(weights[name])


def _misfit(path: Path, message: str) -> InputError:
    return InputError(
        message,
        where=str(path),
        hint="use the weights of a run of the same model",
        error_id="INPUT-WEIGHTS",
    )
