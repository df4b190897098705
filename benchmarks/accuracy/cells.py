"""A cell is one training run; all cells of a task differ only in what is named.

Equal in all cells of a task: model, data and their order, steps, learning rate, gradient quantizer
(but for the row without quantization, where the gradient is what is compared, and in the rows of
AQ-SGD that are held to what AMAQ sends, by fewer steps or fewer samples).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from methods import UNTRAINED, Method
from tasks import Part, TaskCase

from amaqctl import registry
from amaqctl.profile import load_profile

EARLY = [5]
"""The cut of most cells."""
SEEDS = (17, 18, 19)
NEVER = 10**6


@dataclass(frozen=True)
class Cell:
    """One training run and what it is scored on.

    Args:
        bits: width of the method; None where it has none.
        cuts: of the profile's `split` section.
    """

    task: TaskCase
    method: Method
    bits: float | None
    seed: int
    cuts: str = json.dumps(EARLY)
    scored_on: Part = "test"

    @property
    def key(self) -> str:
        """Name of the cell, fit for a folder."""
        cuts = "-".join(map(str, cut)) if isinstance(cut := json.loads(self.cuts), list) else cut
        width = f"{self.bits}bit" if self.bits else "own"
        parts = (self.task.name, f"cut{cuts}", self.method.name, width, f"seed{self.seed}")
        return "_".join([*parts, self.scored_on])

    def changes(self, prepared: Path) -> dict[str, Any]:
        """What differs from the quickstart profile."""
        return {
            "task": self.task.profile_task(prepared),
            "split.cuts": json.loads(self.cuts),
            "quantizers": self.method.quantizers(self.bits),
            "optimizer.lr": self.task.lr,
            "optimizer.schedule": "linear",
            "optimizer.warmup_steps": 4,
            "train.seed": self.seed,
            "eval.every": NEVER,
            "eval.max_examples": 16,
            "checkpoint.every": NEVER,
            **{f"train.{key}": value for key, value in self.task.train.items()},
            **self.method.profile,
        }

    def scoring(self, prepared: Path) -> dict[str, Any]:
        """What the evaluation changes: the part of the data."""
        options = self.task.scored_on(self.scored_on, prepared)
        return {f"task.options.{key}": value for key, value in options.items()}

    def digest(self) -> str:
        """Changes with every setting, defaults included, wherever the data lie."""
        place = Path("data")
        quantizers = self.method.quantizers(self.bits).values()
        resolved = [_resolved(choice["name"], choice["options"]) for choice in quantizers]
        settings = (
            _quickstart(),
            self.changes(place),
            self.scoring(place),
            self.task.num_test,
            resolved,
        )
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _quickstart() -> dict[str, Any]:
    """What a cell takes from the profile that it changes; it has no several clients, and its base
    is as it came."""
    profile = load_profile("quickstart", []).profile
    dumped: dict[str, Any] = profile.model_dump(
        exclude={"description", "quantizers", "task", "output", "clients"}
    )
    del dumped["model"]["base_bits"]
    return dumped


def _resolved(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of a quantizer as they come out of its schema."""
    dumped: dict[str, Any] = registry.load(registry.QUANTIZERS, name).Config(**options).model_dump()
    return dumped


def cells(
    tasks: Iterable[TaskCase],
    methods: Iterable[Method],
    widths: Iterable[float],
    seeds: Iterable[int],
    cuts: list[int] | str = EARLY,
    scored_on: Part = "test",
) -> Iterator[Cell]:
    """Every combination, seed by seed, so that a grid cut short is a grid of fewer seeds."""
    seen = set()
    for seed, task, bits, method in product(list(seeds), list(tasks), list(widths), list(methods)):
        width = bits if method.width_option else None
        cell = Cell(task, method, width, seed, json.dumps(cuts), scored_on)
        if cell.key not in seen:  # a method without a width comes once
            seen.add(cell.key)
            yield cell


def untrained(task: TaskCase) -> Cell:
    """The model before training; no seed and no cut makes a difference to it."""
    return Cell(task, UNTRAINED, None, SEEDS[0])
