"""What of a stage is trained: its adapter, or, in full fine-tuning, its weights themselves."""

from __future__ import annotations

from torch import nn

from amaqctl.model.lora import lora_parameters, lora_places
from amaqctl.model.stage_model import StageModel


def train_all(stage: StageModel) -> None:
    """Train the stage's own weights, but for those that another stage has too.

    An embedding that is tied to the head is at the first stage and at the last. Its gradient would
    be the sum of both, as large as itself, at every step; it stays as it is, wherever the model is
    cut.
    """
    assert stage.lora is None
    for name, parameter in stage.model.named_parameters():
        parameter.requires_grad_(name not in stage.tied_names)


def trained_parameters(stage: StageModel) -> dict[str, nn.Parameter]:
    """What is trained here, by its name in a file: stock PEFT names, or the model's own."""
    if stage.lora is not None:
        return lora_parameters(stage)
    return {name: p for name, p in stage.model.named_parameters() if p.requires_grad}


def trained_places(stage: StageModel) -> dict[int, nn.Parameter]:
    """What is trained here, by place among all that is trained of the whole model, in its order."""
    if stage.lora is not None:
        return lora_places(stage)
    held = trained_parameters(stage)
    return {n: held[name] for n, name in enumerate(stage.parameter_names) if name in held}
