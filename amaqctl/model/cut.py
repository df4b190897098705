"""Where the model is cut: from cuts in the profile to runs of blocks.

A cut ``c`` lies after block ``c``, counting from 1, so the stage in front of it holds the first
``c`` blocks. This file imports no torch: profiles are checked without loading a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from amaqctl.errors import InputError

Cuts = Sequence[int] | Literal["all"]


@dataclass(frozen=True)
class StageRange:
    """Blocks ``[first_layer, end_layer)``, counted from 0, of a model with ``num_layers``."""

    first_layer: int
    end_layer: int
    num_layers: int

    def __post_init__(self) -> None:
        assert 0 <= self.first_layer < self.end_layer <= self.num_layers

    @property
    def is_first(self) -> bool:
        """Whether the stage holds the embedding."""
        return self.first_layer == 0

    @property
    def is_last(self) -> bool:
        """Whether the stage holds the final norm and the head."""
        return self.end_layer == self.num_layers

    def __str__(self) -> str:
        return f"blocks {self.first_layer + 1}-{self.end_layer} of {self.num_layers}"


def stage_ranges(num_layers: int, cuts: Cuts) -> list[StageRange]:
    """The stages that ``cuts`` make of a model with ``num_layers`` blocks.

    ``[8, 28]`` gives ``[0, 8)``, ``[8, 28)``, ``[28, num_layers)``; ``"all"`` cuts at every
    boundary between blocks.

    Raises:
        InputError: no cut, a cut outside ``1..num_layers-1``, or cuts that do not ascend.
    """
    if num_layers < 2:
        raise _refusal("the model has one block only and cannot be cut", "use a deeper model")
    positions = list(range(1, num_layers)) if cuts == "all" else [int(cut) for cut in cuts]
    _check(positions, num_layers)
    edges = [0, *positions, num_layers]
    return [StageRange(first, end, num_layers) for first, end in pairwise(edges)]


def _check(positions: list[int], num_layers: int) -> None:
    legal = f"legal cuts for this model: 1 to {num_layers - 1}, ascending, or all"
    if not positions:
        raise _refusal("no cut given", legal)
    for cut in positions:
        if not 1 <= cut <= num_layers - 1:
            raise _refusal(f"cut {cut} lies outside the model's {num_layers} blocks", legal)
    for before, after in pairwise(positions):
        if before == after:
            raise _refusal(f"cut {after} is given twice", legal)
        if before > after:
            raise _refusal(f"cut {after} comes after cut {before}: cuts must ascend", legal)


def _refusal(message: str, hint: str) -> InputError:
    return InputError(message, where="split.cuts", hint=hint, error_id="INPUT-CUTS")
