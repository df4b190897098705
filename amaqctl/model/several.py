"""For a server of several clients: copies of a stage over one base, and the shapes of theirs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from amaqctl.model.loading import adaptable_linears
from amaqctl.model.lora import targeted
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.stage_model import StageModel


def copy_over_base(stage: StageModel) -> StageModel:
    """A copy with trained weights of its own, and the frozen ones and buffers of ``stage``."""
    frozen: list[Any] = [p for p in stage.parameters() if not p.requires_grad]
    memo = {id(tensor): tensor for tensor in (*frozen, *stage.buffers())}
    return copy.deepcopy(stage, memo)


def adapter_shapes(config: PreTrainedConfig, settings: LoraSettings) -> dict[int, tuple[int, ...]]:
    """Shapes of all adapter weights of the whole model, by place as `lora_places` has it.

    No weight is read.
    """
    vendor: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        model = vendor(config)
    linears: dict[str, Any] = {**adaptable_linears(model)}
    shapes: dict[int, tuple[int, ...]] = {}
    for number, name in enumerate(targeted(tuple(linears), settings)):
        weight = linears[name].weight
        rows, columns = weight.shape
        is_linear = isinstance(linears[name], torch.nn.Linear)
        outputs, inputs = (rows, columns) if is_linear else (columns, rows)
        shapes[2 * number] = (settings.r, inputs)
        shapes[2 * number + 1] = (outputs, settings.r)
    return shapes
