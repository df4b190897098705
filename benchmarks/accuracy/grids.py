"""What is compared. A cell is one training run; all cells of a task differ only in what is named.

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

from methods import (
    AMAQ,
    AMAQ_PAPER,
    AQ_SGD,
    AQ_SGD_16_WINDOWS_43_STEPS,
    AQ_SGD_16_WINDOWS_44_STEPS,
    AQ_SGD_26_STEPS,
    AQ_SGD_30_STEPS,
    EQUAL_WIDTHS,
    FIXED_CHANNEL,
    FIXED_TOKEN,
    GROUP_32,
    GROUP_64,
    GROUP_64_ZERO_POINT,
    GROUP_128,
    NONE,
    UNTRAINED,
    Method,
    amaq,
)
from tasks import GSM8K, SST2, TREC, WIKITEXT, WORDS, Part, TaskCase, larger

from amaqctl import registry
from amaqctl.profile import load_profile

EARLY, MIDDLE, LATE, U_SHAPE, ALL_LAYERS = [5], [12], [25], [5, 25], "all"
SEEDS = (17, 18, 19)
MANY_SEEDS = (17, 18, 19, 20, 21)
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
    """What a cell takes from the profile that it changes."""
    profile = load_profile("quickstart", []).profile
    dumped: dict[str, Any] = profile.model_dump(
        exclude={"description", "quantizers", "task", "output"}
    )
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


def _bars() -> list[Cell]:
    """In the order in which they matter: what the bars compare comes first, for all seeds."""
    found = [untrained(task) for task in (WIKITEXT, WORDS, TREC, SST2)]
    for seed in SEEDS:
        found += cells([WIKITEXT], [NONE, GROUP_64, AMAQ], [3], [seed])
        found += cells([WORDS, TREC, SST2], [FIXED_CHANNEL, AMAQ], [3], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [GROUP_64, AMAQ], [2, 4], [seed])
        # As many bytes as group-64 at 3 bits.
        found += cells([WIKITEXT], [AMAQ], [3.18], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [AQ_SGD, AQ_SGD_26_STEPS], [3], [seed])
        found += cells([WIKITEXT], [AQ_SGD, AQ_SGD_30_STEPS], [4], [seed])
        found += cells([WORDS, TREC, SST2], [NONE, GROUP_64], [3], [seed])
    for seed in SEEDS:
        found += cells([WORDS, TREC, SST2], [FIXED_TOKEN], [3], [seed])
        found += cells([WIKITEXT], [GROUP_64_ZERO_POINT], [3], [seed])
        found += cells([WIKITEXT], [FIXED_CHANNEL, FIXED_TOKEN, AMAQ_PAPER], [3], [seed])
        found += cells([WIKITEXT], [GROUP_32, GROUP_128], [3], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [EQUAL_WIDTHS], [3, 2], [seed])
        found += cells([TREC, SST2], [EQUAL_WIDTHS], [3], [seed])
        found += cells([WIKITEXT], [AQ_SGD], [2], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [AQ_SGD_16_WINDOWS_43_STEPS], [3], [seed])
        found += cells([WIKITEXT], [AQ_SGD_16_WINDOWS_44_STEPS], [4], [seed])
        found += cells([WORDS], [EQUAL_WIDTHS], [3], [seed])
        found += cells([TREC], [AMAQ, GROUP_64, EQUAL_WIDTHS], [2], [seed])
    return found


_NO_OUTLIERS = amaq("no-outlier-tokens", outlier_tokens=False)

_CUTS = [
    *cells([WIKITEXT], [GROUP_64, AMAQ, _NO_OUTLIERS], [3], SEEDS, MIDDLE),
    *cells([WIKITEXT], [GROUP_64, AMAQ, FIXED_CHANNEL], [3], SEEDS, LATE),
    *cells([WIKITEXT], [GROUP_64, AMAQ, FIXED_CHANNEL], [3], SEEDS, U_SHAPE),
    # What these cuts take to come within 2 % of no quantization.
    *(c for cuts in (LATE, U_SHAPE) for c in cells([WIKITEXT], [AMAQ], [3.5], SEEDS, cuts)),
    *cells([WIKITEXT], [GROUP_64, AMAQ], [4], SEEDS, ALL_LAYERS),
    # One seed: the same to the bit wherever the cut is.
    *(
        c
        for cuts in (LATE, U_SHAPE, ALL_LAYERS)
        for c in cells([WIKITEXT], [NONE], [3], [17], cuts)
    ),
]

_STABILITY = [
    untrained(WIKITEXT),
    untrained(TREC),
    *cells([WIKITEXT, TREC], [FIXED_CHANNEL, GROUP_64, AQ_SGD, AMAQ], [3, 2], MANY_SEEDS),
    *cells([WIKITEXT, TREC], [amaq("amaq-no-clip", clip=None)], [3, 2], MANY_SEEDS),
]

_GRADIENTS = [
    amaq(f"gradient-{bits}-bits", {"name": "group", "options": {"bits": bits}})
    for bits in (8, 4, 3)
]

_ABLATIONS = [
    NONE,
    AMAQ,
    AMAQ_PAPER,
    # Who gets what.
    amaq("learned", allocation="learned"),
    amaq("learned-lr-0.01", lr=0.01, allocation="learned"),
    amaq("learned-lr-1", lr=1.0, allocation="learned"),
    EQUAL_WIDTHS,
    amaq("memory-0", memory=0.0),
    amaq("memory-0.99", memory=0.99),
    amaq("min-bits-2", min_bits=2),
    # The schedule.
    amaq("fall-half", fall=0.5),
    amaq("learned-fall-half", fall=0.5, allocation="learned"),
    # The grid.
    _NO_OUTLIERS,
    amaq("center", center=True),
    amaq("center-no-outlier-tokens", center=True, outlier_tokens=False),
    amaq("no-spare-code", spare_code=False),
    amaq("no-clip", clip=None),
    amaq("clip-8-means", clip=8.0),
    amaq("scale-token", scale="token"),
    amaq("scale-channel-token", scale="channel-token"),
    # Gradients.
    *_GRADIENTS,
    amaq("gradient-reuses-widths", {"name": "fixed", "options": {"bits": "received"}}),
    amaq("gradient-amaq-6", {"name": "amaq", "options": {"target_bits": 6}}),
]

_ALL_TASKS = [WIKITEXT, WORDS, GSM8K, TREC, SST2]
_LARGE_TASKS = [larger(task) for task in _ALL_TASKS]
_ALL_METHODS = [
    NONE,
    FIXED_TOKEN,
    FIXED_CHANNEL,
    GROUP_32,
    GROUP_64,
    GROUP_128,
    AQ_SGD,
    AMAQ,
    AMAQ_PAPER,
]

GRIDS: dict[str, list[Cell]] = {
    # About an hour on two cores.
    "small": [
        *map(untrained, (WIKITEXT, TREC, WORDS)),
        *cells([WIKITEXT], [NONE, FIXED_CHANNEL, GROUP_64, AQ_SGD, AMAQ], [3], SEEDS),
        *cells([TREC, WORDS], [NONE, FIXED_CHANNEL, GROUP_64, AMAQ], [3], SEEDS),
    ],
    "bars": _bars(),
    "ablations": list(cells([WIKITEXT], _ABLATIONS, [3], SEEDS[:2], scored_on="validation")),
    "gradients": list(
        cells(
            [TREC, WORDS, WIKITEXT],
            [AMAQ, *_GRADIENTS],
            [3],
            SEEDS[:2],
            scored_on="validation",
        )
    ),
    "stability": _STABILITY,
    "cuts": _CUTS,
    "gsm8k": [
        untrained(GSM8K),
        *cells([GSM8K], [NONE, FIXED_CHANNEL, GROUP_64, AQ_SGD, AMAQ], [3], SEEDS),
    ],
    "full": [*map(untrained, _ALL_TASKS), *cells(_ALL_TASKS, _ALL_METHODS, [4, 3, 2], MANY_SEEDS)],
    # The same with batches and runs that ask for a GPU.
    "full-large": [
        *map(untrained, _LARGE_TASKS),
        *cells(_LARGE_TASKS, _ALL_METHODS, [4, 3, 2], MANY_SEEDS),
    ],
}
