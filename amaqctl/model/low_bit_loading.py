"""The linear layers of a stage's blocks, read and held in few bits one after the other.

transformers fills the rest of the stage. Of full weights only one layer's are in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from amaqctl.errors import InputError
from amaqctl.model.low_bit import LowBitLinear
from amaqctl.model.slots import layer_list
from amaqctl.model.source import ModelSource


class _Vacant(nn.Module):
    """Stands where a linear layer will be, and has no weights that would be looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.empty(0)  # GPT-2 begins the weights of a projection anew by this name


@dataclass
class SetAside:
    """The layers that transformers is not to load.

    Args:
        bits: 8 or 4.
        is_transposed: by full name, whether the weight file has inputs first (GPT-2's Conv1D).
        slices: their weights and biases by full name, as yet unread.
    """

    bits: int
    is_transposed: dict[str, bool] = field(default_factory=dict)
    slices: dict[str, Any] = field(default_factory=dict)

    def take(self, model: Any, slices: dict[str, Any]) -> None:
        """Take the linear layers of the blocks out of a model without weights, and of slices."""
        prefix = f"{layer_list(model, model.config)[0]}."
        for name, module in list(model.named_modules()):
            if name.startswith(prefix) and isinstance(module, (nn.Linear, Conv1D)):
                self.is_transposed[name] = isinstance(module, Conv1D)
                for kind, _ in module.named_parameters():
                    place = f"{name}.{kind}"
                    self.slices[place] = slices.pop(place)
                model.set_submodule(name, _Vacant())

    def put_back(self, model: Any, dtype: torch.dtype, source: ModelSource) -> None:
        """Read, quantize and place one layer after the other, on the CPU.

        Raises:
            InputError: a weight is not finite, or too large for 16 bits.
        """
        layers = {name: self._layer(name, dtype) for name in self.is_transposed}
        for name, layer in layers.items():
            weight_OI = self.slices[f"{name}.weight"][...].to(dtype)
            if layer.is_transposed:
                weight_OI = weight_OI.T
            _check_finite(weight_OI, f"{name}.weight", self.bits, source)
            layer.hold(weight_OI)
            model.set_submodule(name, layer)

    def _layer(self, name: str, dtype: torch.dtype) -> LowBitLinear:
        rows, columns = self.slices[f"{name}.weight"].get_shape()
        is_transposed = self.is_transposed[name]
        shape = (columns, rows) if is_transposed else (rows, columns)
        bias = self.slices.get(f"{name}.bias")
        # A copy: what a slice gives may lie in the file's own memory.
        bias_O = None if bias is None else bias[...].to(dtype, copy=True)
        return LowBitLinear(shape, bias_O, self.bits, dtype, is_transposed)


def _check_finite(weight_OI: Tensor, name: str, bits: int, source: ModelSource) -> None:
    """A block's scale is its largest weight: one that is not finite would take others with it."""
    # The scales of 8 bits are taken from float16.
    seen = weight_OI.to(torch.float16) if bits == 8 else weight_OI
    if not bool(seen.isfinite().all()):
        raise InputError(
            f"{name} holds values that are not finite or too large for {bits} bits",
            where=source.model_id,
            hint="take the weights anew, or set model.base_bits to null",
            error_id="INPUT-MODEL",
        )
