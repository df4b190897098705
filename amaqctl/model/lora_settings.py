"""What LoRA is asked for, and what a stage notes of it once it is attached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The two files of an adapter, as peft calls them."""
TRAINED_WEIGHTS = "weights.safetensors"
"""The file of what full fine-tuning has trained."""


@dataclass(frozen=True)
class LoraSettings:
    """LoRA (Hu et al. 2021): ``y = W x + alpha / r * B A dropout(x)``.

    ``target_modules`` are names, or ends of names, of linear layers; ``"all-linear"`` is every
    linear layer but the head, as in peft.
    """

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | Literal["all-linear"]


@dataclass(frozen=True)
class AttachedLora:
    """What is attached to a stage.

    Attributes:
        settings: as given.
        module_names: adapted layers of the *whole* model, by full name.
        target_modules: the same by peft's rule: names or ends of names.
        fan_in_fan_out: the layers store their weight transposed (GPT-2's Conv1D).
    """

    settings: LoraSettings
    module_names: tuple[str, ...]
    target_modules: tuple[str, ...]
    fan_in_fan_out: bool
