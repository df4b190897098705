"""The stages' LoRA weights as one stock PEFT adapter folder, and back.

What is written loads with ``PeftModel.from_pretrained`` on the uncut model; nothing of ours is
in it. Bytes depend on the weights and settings only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amaqctl.errors import InputError
from amaqctl.model.lora import (
    STOCK_PREFIX,
    lora_parameters,
    peft_config,
)
from amaqctl.model.lora_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AttachedLora, LoraSettings
from amaqctl.model.source import ModelSource
from amaqctl.model.stage_model import StageModel
from amaqctl.storage import check_regular, read_json, write_folder

# Settings beside r and alpha by which peft makes something else of the same weights.
_MEANING = (
    "peft_type",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "lora_bias",
)


def save_adapter(
    stages: Sequence[StageModel], folder: Path, source: ModelSource, settings: LoraSettings
) -> None:
    """Write the union of the stages' adapters; the folder appears whole or not at all.

    An adapter that is there already is replaced; a folder with anything else in it is not.

    Raises:
        InputError: ``folder`` holds other files.
        ResourceError: it cannot be written.
    """
    _refuse_foreign_content(folder)
    write_folder(folder, lambda made: write_adapter(stages, made, source, settings), replace=True)


def write_adapter(
    stages: Sequence[StageModel], folder: Path, source: ModelSource, settings: LoraSettings
) -> None:
    """Write the files of an adapter into an empty folder, one after the other.

    Raises:
        OSError, SafetensorError: one cannot be written.
    """
    weights: dict[str, Tensor] = {}
    for stage in stages:
        weights |= {n: p.detach().cpu().contiguous() for n, p in lora_parameters(stage).items()}
    text = json.dumps(_config_document(stages, source, settings), indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def load_adapter(stages: Sequence[StageModel], folder: Path) -> None:
    """Copy an adapter's weights into LoRA that is attached already.

    All is checked before anything is changed. Weights of stages held elsewhere are passed over,
    and need not be there.

    Raises:
        InputError: unreadable files, or names, shapes or alpha that do not fit.
    """
    weights, config = read_adapter(folder)
    for stage in stages:
        assert stage.lora is not None, "attach_lora comes first"
        _check_fit(stage, stage.lora, weights, config, folder)
    for stage in stages:
        for name, parameter in lora_parameters(stage).items():
            with torch.no_grad():
                parameter.copy_(weights[name])


def _config_document(
    stages: Sequence[StageModel], source: ModelSource, settings: LoraSettings
) -> dict[str, Any]:
    attached = [stage.lora for stage in stages if stage.lora is not None]
    assert len(attached) == len(stages)
    assert all(lora.settings == settings for lora in attached)
    config: LoraConfig = peft_config(attached[0])
    config.fan_in_fan_out = any(lora.fan_in_fan_out for lora in attached)
    config.base_model_name_or_path = source.base_model_name
    config.revision = source.revision
    config.inference_mode = True
    return {key: _plain(value) for key, value in config.to_dict().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return sorted(value) if isinstance(value, (set, frozenset)) else value


def _refuse_foreign_content(folder: Path) -> None:
    if not folder.exists():
        return
    ours = {ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    foreign = [e.name for e in folder.iterdir() if e.name not in ours] if folder.is_dir() else [""]
    if foreign:
        raise InputError(
            "an adapter cannot be written over other files",
            where=str(folder),
            hint="name a folder that does not exist yet",
            error_id="INPUT-ADAPTER",
        )


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights by name, all of them finite, and the configuration.

    Raises:
        InputError: unreadable files, or a weight that is not finite.
    """
    try:
        config = read_json(folder / ADAPTER_CONFIG)
        check_regular(folder / ADAPTER_WEIGHTS)
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, InputError, SafetensorError) as error:
        raise _misfit(folder, f"the adapter cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise _misfit(folder, f"{ADAPTER_CONFIG} holds no JSON object")
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise InputError(
                f"{name} of the adapter holds values that are not finite",
                where=str(folder / ADAPTER_WEIGHTS),
                hint="take an earlier checkpoint, or train again",
                error_id="INPUT-ADAPTER",
            )
    return weights, config


def _check_fit(
    stage: StageModel,
    lora: AttachedLora,
    weights: dict[str, Tensor],
    config: dict[str, Any],
    folder: Path,
) -> None:
    of_the_model = {
        f"{STOCK_PREFIX}{name}.lora_{side}.weight" for name in lora.module_names for side in "AB"
    }
    for problem, names in (
        ("lacks", lora_parameters(stage).keys() - weights.keys()),
        ("also has", weights.keys() - of_the_model),
    ):
        if names:
            raise _misfit(folder, f"the adapter {problem} {min(names)} ({len(names)} such names)")
    for name, parameter in lora_parameters(stage).items():
        if weights[name].shape != parameter.shape:
            found, wanted = tuple(weights[name].shape), tuple(parameter.shape)
            raise _misfit(folder, f"{name} has shape {found}, the model needs {wanted}")
    if config.get("lora_alpha") != lora.settings.alpha:
        raise _misfit(
            folder, f"the adapter's alpha is {config.get('lora_alpha')}, not {lora.settings.alpha}"
        )
    plain = {key: _plain(value) for key, value in peft_config(lora).to_dict().items()}
    for key in _MEANING:
        if config.get(key, plain[key]) != plain[key]:
            raise _misfit(folder, f"the adapter's {key} is {config[key]!r}, not {plain[key]!r}")


def _misfit(folder: Path, message: str) -> InputError:
    return InputError(
        message,
        where=str(folder),
        hint="use an adapter of the same model, r, alpha and target_modules",
        error_id="INPUT-ADAPTER",
    )
