"""Parameter-free slots where a stage's model has no layers of its own.

The vendor's forward runs unchanged: its masks, rotary tables, scalings and layer indices stay
the whole model's. A block that another stage holds becomes a ``Skip``; the hidden state comes in
at the ``Source`` in front of the first own block and is taken out at the ``Sink`` behind the last.

Shapes: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from amaqctl.errors import InputError
from amaqctl.model.cut import StageRange

_AFTER_BLOCKS = ("norm", "ln_f", "project_out", "lm_head")
_BEFORE_BLOCKS = ("project_in",)


class Skip(nn.Module):
    """Stands where another stage's block was and returns its input."""

    def __init__(self, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index

    def forward(self, hidden_BTC: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        cache = kwargs.get("past_key_values")
        if cache is None:
            cache = next((value for value in args if isinstance(value, Cache)), None)
        if cache is not None:
            self._count_tokens(hidden_BTC, cache)
        return hidden_BTC

    def _count_tokens(self, hidden_BTC: Tensor, cache: Cache) -> None:
        """Keep the cache's length right: past length and mask size are read off any layer.

        One byte a token, because an entry without elements counts as length 0.
        """
        batch, num_tokens, _ = hidden_BTC.shape
        dummy = torch.zeros(batch, 1, num_tokens, 1, dtype=torch.uint8, device=hidden_BTC.device)
        cache.update(dummy, dummy, self.layer_index)


class Source(Skip):
    """Returns the hidden state received from the stage before, whatever comes in."""

    def __init__(self, layer_index: int) -> None:
        super().__init__(layer_index)
        self.received_BTC: Tensor | None = None

    def forward(self, hidden_BTC: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        super().forward(hidden_BTC, *args, **kwargs)
        assert self.received_BTC is not None
        return self.received_BTC


class Sink(Skip):
    """Keeps the hidden state that comes in, for the stage after."""

    def __init__(self, layer_index: int) -> None:
        super().__init__(layer_index)
        self.captured_BTC: Tensor | None = None

    def forward(self, hidden_BTC: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.captured_BTC = hidden_BTC
        # What follows only passes through: no graph is needed there.
        return super().forward(hidden_BTC.detach(), *args, **kwargs)


class NoEmbedding(nn.Module):
    """Stands for a foreign embedding; zeros that broadcast over batch and tokens."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width = width
        self.dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros(1, 1, self.width, dtype=self.dtype)


class NoModule(nn.Module):
    """Stands for a foreign norm, projection or head; returns its input."""

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        return hidden_BTC


def layer_list(model: nn.Module, config: PreTrainedConfig) -> tuple[str, nn.ModuleList]:
    """Name and value of the one module list that holds the blocks.

    Raises:
        InputError: there is none, or more than one of that length.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    if len(found) != 1:
        raise _unknown_layout(config, f"{len(found)} lists of {config.num_hidden_layers} modules")
    return found[0]


def empty_foreign_slots(model: PreTrainedModel, stage_range: StageRange) -> None:
    """Put slots and stand-ins for everything that ``stage_range`` does not hold.

    The last stage of a tied model keeps the embedding, which *is* its head's weight.

    Raises:
        InputError: the model has a module with parameters outside its blocks that is not known
            to come before or after them.
    """
    list_name, blocks = layer_list(model, model.config)
    first, end = stage_range.first_layer, stage_range.end_layer
    for index in range(len(blocks)):
        if index == first - 1:
            blocks[index] = Source(index)
        elif index == end:
            blocks[index] = Sink(index)
        elif not first <= index < end:
            blocks[index] = Skip(index)
    kept = model.get_input_embeddings() if _holds_tied_head(model, stage_range) else None
    for parent, name, module in list(_outside(model, list_name)):
        before = _is_before_blocks(name, module, model.config)
        owned = stage_range.is_first if before else stage_range.is_last
        if not owned and module is not kept:
            setattr(parent, name, _stand_in(module))


def _holds_tied_head(model: PreTrainedModel, stage_range: StageRange) -> bool:
    return stage_range.is_last and bool(model.config.tie_word_embeddings)


def _outside(model: nn.Module, list_name: str) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Modules with parameters that hang off the path from the model to its block list."""
    parent = model
    for step in list_name.split("."):
        for name, child in parent.named_children():
            if name != step and next(child.parameters(), None) is not None:
                yield parent, name, child
        parent = getattr(parent, step)


def _is_before_blocks(name: str, module: nn.Module, config: PreTrainedConfig) -> bool:
    if isinstance(module, nn.Embedding) or name in _BEFORE_BLOCKS:
        return True
    if any(part in name for part in _AFTER_BLOCKS):
        return False
    raise _unknown_layout(config, f"a module '{name}' beside its blocks")


def _stand_in(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return NoEmbedding(module.embedding_dim, module.weight.dtype)
    return NoModule()


def _unknown_layout(config: PreTrainedConfig, found: str) -> InputError:
    return InputError(
        f"this {config.model_type} model cannot be cut: it has {found}",
        hint="install a transformers release that amaqctl was tested with",
        error_id="INPUT-MODEL-FAMILY",
    )
