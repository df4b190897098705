"""Trained weights and what the optimizer knows of them, out of one engine and into another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from amaqctl.engine.fellows import SharedState, Weights
from amaqctl.engine.stage import Stage


def weights_of(stages: Mapping[int, Stage]) -> dict[int, Tensor]:
    """Copies of the trained weights held here, float32 on the CPU, by place."""
    return {
        place: parameter.detach().cpu().clone()
        for stage in stages.values()
        for place, parameter in stage.lora_parameters.items()
    }


def set_weights(stages: Mapping[int, Stage], weights: Weights) -> None:
    """Give the trained weights held here the values of ``weights``, which has all of them."""
    with torch.no_grad():
        for stage in stages.values():
            for place, parameter in stage.lora_parameters.items():
                parameter.copy_(weights[place])


def gradients_of(stages: Mapping[int, Stage]) -> dict[int, Tensor]:
    """Those of the trained weights held here; what has none is left out."""
    return {
        place: parameter.grad
        for stage in stages.values()
        for place, parameter in stage.lora_parameters.items()
        if parameter.grad is not None
    }


def set_gradients(stages: Mapping[int, Stage], gradients: Weights) -> None:
    """Replace the gradients of the trained weights held here."""
    for stage in stages.values():
        for place, parameter in stage.lora_parameters.items():
            parameter.grad = gradients.get(place)


def shared_state(stages: Mapping[int, Stage]) -> SharedState:
    """Copies of all that engines of one model have alike."""
    memory: dict[int, dict[str, Tensor]] = {}
    for stage in stages.values():
        for place, parameter in stage.lora_parameters.items():
            known = {} if stage.optimizer is None else stage.optimizer.state.get(parameter, {})
            memory[place] = {name: torch.as_tensor(value).clone() for name, value in known.items()}
    return SharedState(weights_of(stages), memory)


def take_over(stages: Mapping[int, Stage], state: SharedState) -> None:
    """Make an engine's share like that of another one."""
    set_weights(stages, state.weights)
    for stage in stages.values():
        for place, parameter in stage.lora_parameters.items():
            if stage.optimizer is not None and state.optimizer[place]:
                stage.optimizer.state[parameter] = dict(state.optimizer[place])
