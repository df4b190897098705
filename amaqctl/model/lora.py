"""LoRA on a stage, through peft, with weights that do not depend on where the model is cut.

Names keep the whole model's block indices, so the union of the stages' adapters is a standard
PEFT adapter. Each ``A`` has its own random generator, seeded by the run's seed and its name.
"""

from __future__ import annotations

import difflib
import math
import zlib
from collections.abc import Mapping

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from amaqctl.errors import InputError
from amaqctl.model.lora_settings import AttachedLora, LoraSettings
from amaqctl.model.low_bit import LowBitLinear
from amaqctl.model.slots import NoModule
from amaqctl.model.stage_model import StageModel

_ADAPTER_NAME = "default"
# What peft puts in front of a model's own names.
STOCK_PREFIX = "base_model.model."


def attach_lora(stage: StageModel, settings: LoraSettings, seed: int) -> None:
    """Add float32 adapters to the stage's own target layers, in place.

    The global random generator is left as it was.

    Raises:
        InputError: a target that matches no linear layer of the whole model.
    """
    assert stage.lora is None
    targets = _resolve_targets(stage.linear_names, settings)
    names = targeted(stage.linear_names, settings)
    own = {
        name: module
        for name, module in stage.model.named_modules()
        if name in names and not isinstance(module, NoModule)
    }
    _refuse_wrapped(own)
    transposed = any(_is_transposed(module) for module in own.values())
    stage.lora = AttachedLora(settings, names, targets, transposed)
    if not own:
        return
    config = peft_config(stage.lora)
    # Full names, because a short one may also match another stage's stand-in.
    config.target_modules = set(own)
    # A layer in few bits is held the usual way round, whatever its file has.
    config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in own.values())
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, stage.model, _ADAPTER_NAME)
    initialise_lora(lora_parameters(stage), seed)


def targeted(linear_names: tuple[str, ...], settings: LoraSettings) -> tuple[str, ...]:
    """The layers that get an adapter, in the model's order.

    Raises:
        InputError: a target that matches none.
    """
    targets = _resolve_targets(linear_names, settings)
    return tuple(name for name in linear_names if _matches(name, targets))


def initialise_lora(parameters: Mapping[str, nn.Parameter], seed: int) -> None:
    """Set ``A`` to peft's own Kaiming-uniform draw and ``B`` to zero, in float32.

    Args:
        parameters: by stock PEFT name, as ``lora_parameters`` gives them.
        seed: its crc32 together with the name seeds the parameter's own generator.
    """
    for name, parameter in parameters.items():
        start = torch.zeros(parameter.shape, dtype=torch.float32)
        if ".lora_A." in name:
            generator = torch.Generator()
            # torch's CPU generator looks at 32 bits of a seed only: mix both into those.
            generator.manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        parameter.data = start.to(parameter.device)


def lora_parameters(stage: StageModel) -> dict[str, nn.Parameter]:
    """The stage's adapter weights by stock PEFT name, as in ``adapter_model.safetensors``.

    Empty for a stage that holds no target layer.
    """
    return {
        STOCK_PREFIX + name.replace(f".{_ADAPTER_NAME}.", "."): parameter
        for name, parameter in stage.model.named_parameters()
        if ".lora_" in name
    }


def lora_places(stage: StageModel) -> dict[int, nn.Parameter]:
    """The stage's adapter weights, by place among those of the whole model, in its order.

    A projection beside the blocks stands before them all, wherever it is held.
    """
    assert stage.lora is not None
    names = [
        f"{STOCK_PREFIX}{n}.lora_{side}.weight" for n in stage.lora.module_names for side in "AB"
    ]
    held = lora_parameters(stage)
    return {place: held[name] for place, name in enumerate(names) if name in held}


def peft_config(lora: AttachedLora) -> LoraConfig:
    """peft's configuration for what is attached."""
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.settings.r,
        # peft types alpha as an integer, and reads whole numbers back as such.
        lora_alpha=_whole(lora.settings.alpha),
        lora_dropout=lora.settings.dropout,
        target_modules=list(lora.target_modules),
        fan_in_fan_out=lora.fan_in_fan_out,
    )


def _refuse_wrapped(targets: Mapping[str, nn.Module]) -> None:
    """Raise where a target layer is here and is no plain one, as an adapter leaves it."""
    for name, module in targets.items():
        if not isinstance(module, nn.Linear | Conv1D) or hasattr(module, "base_layer"):
            raise InputError(
                f"the target layer {name} is wrapped already, by {type(module).__name__}",
                where="lora.target_modules",
                hint="give a model without an adapter",
                error_id="INPUT-LORA-WRAPPED",
            )


def _is_transposed(module: nn.Module) -> bool:
    """Whether the layer's weight has inputs first in its file, as stock tools load it."""
    return isinstance(module, Conv1D) or (isinstance(module, LowBitLinear) and module.is_transposed)


def _whole(alpha: float) -> float | int:
    return int(alpha) if float(alpha).is_integer() else alpha


def _resolve_targets(linear_names: tuple[str, ...], settings: LoraSettings) -> tuple[str, ...]:
    ends = tuple(sorted({name.rpartition(".")[2] for name in linear_names}))
    if settings.target_modules == "all-linear":
        return ends
    for target in settings.target_modules:
        if not any(_matches(name, (target,)) for name in linear_names):
            near = difflib.get_close_matches(target, ends, n=1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(
                f"no linear layer of this model is named '{target}'",
                where="lora.target_modules",
                hint=f"{guess}it has: {', '.join(ends)}; or all-linear",
                error_id="INPUT-LORA-TARGET",
            )
    return tuple(sorted(settings.target_modules))


def _matches(name: str, targets: tuple[str, ...]) -> bool:
    """peft's rule for a list of targets."""
    return any(name == target or name.endswith(f".{target}") for target in targets)
