"""What optimizers remember, as flat tensors, and back.

Moments and step counts only: learning rates, betas and weight decay are the profile's, and a
file of a run never changes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amaqctl.engine.stage import Stage
from amaqctl.errors import InputError
from amaqctl.storage import check_regular

_NAME = re.compile(r"stage(\d+)\.(\d+)\.(\w+)")
_STEP = "step"
_MAX_STEPS = 2**53


def optimizer_state(stages: Mapping[int, Stage]) -> dict[str, Tensor]:
    """The state of every optimizer, by ``stage<s>.<parameter>.<what>``."""
    tensors: dict[str, Tensor] = {}
    for index, stage in stages.items():
        if stage.optimizer is None:
            continue
        for parameter, entries in stage.optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                tensor = value if isinstance(value, Tensor) else torch.tensor(value)
                tensors[f"stage{index}.{parameter}.{name}"] = tensor.detach().cpu().contiguous()
    return tensors


def load_optimizers(path: Path, stages: Mapping[int, Stage]) -> None:
    """Load what `optimizer_state` gave; all is checked before anything is changed.

    Raises:
        InputError: it does not fit, or cannot be read.
    """
    tensors = read_tensors(path)
    found: dict[int, dict[int, dict[str, Tensor]]] = {index: {} for index in stages}
    for name, tensor in tensors.items():
        parts = _NAME.fullmatch(name)
        if parts is None or int(parts[1]) not in found:
            raise _misfit(path, f"'{name[:60]}' is of no stage here")
        found[int(parts[1])].setdefault(int(parts[2]), {})[parts[3]] = tensor
    for index, stage in stages.items():
        _check(path, index, stage, found[index])
    for index, stage in stages.items():
        if stage.optimizer is not None:
            groups = stage.optimizer.state_dict()["param_groups"]
            stage.optimizer.load_state_dict({"state": found[index], "param_groups": groups})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        InputError: it is missing, or cannot be read.
    """
    try:
        check_regular(path)
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error


def _check(path: Path, index: int, stage: Stage, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    optimizer = stage.optimizer
    parameters: list[nn.Parameter] = []
    if optimizer is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entries in state.items():
        if number >= len(parameters):
            raise _misfit(path, f"stage{index} has no parameter {number}")
        for name, tensor in entries.items():
            place = f"stage{index}.{number}.{name}"
            shape = torch.Size([]) if name == _STEP else parameters[number].shape
            if tensor.shape != shape or not tensor.is_floating_point():
                raise _misfit(
                    path, f"{place} is {tensor.dtype} of shape {tuple(tensor.shape)}, not {shape}"
                )
            if not bool(tensor.isfinite().all()):
                raise _misfit(path, f"{place} has values that are not finite")
        if not _names_fit(entries):
            raise _misfit(path, f"stage{index}.{number} has {', '.join(sorted(entries))}")


def _names_fit(entries: Mapping[str, Tensor]) -> bool:
    """AdamW's moments and how often it stepped, a whole number from 1."""
    if entries.keys() - {"max_exp_avg_sq"} != {"exp_avg", "exp_avg_sq", _STEP}:
        return False
    num_steps = float(entries[_STEP])
    return 1 <= num_steps <= _MAX_STEPS and num_steps.is_integer()


def _misfit(path: Path, message: str) -> InputError:
    return InputError(f"the optimizer state does not fit: {message}", where=str(path))
