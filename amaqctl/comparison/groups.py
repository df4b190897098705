"""Runs of the same quantizers folded into one group, with every group on the same seeds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaqctl.comparison.finished_run import ROLES, FinishedRun
from amaqctl.errors import InputError


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and the sample standard deviation (n - 1); None of a single seed."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Args:
        label: the quantizers, with the options in which groups of equal names differ.
        runs: sorted by seed.
    """

    label: str
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Sorted."""
        return tuple(run.seed for run in self.runs)

    def spread(self, key: str) -> Spread:
        """Of one number of the result."""
        return _spread([run.result[key] for run in self.runs])

    def difference(self, reference: Group, key: str) -> Spread:
        """This minus the reference, paired by seed."""
        pairs = zip(self.runs, reference.runs, strict=True)
        return _spread([own.result[key] - other.result[key] for own, other in pairs])


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """Runs by quantizers and options, in the order of their first runs."""
    members: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        members[json.dumps(run.quantizers, sort_keys=True)].append(run)
    kinds = [found[0].quantizers for found in members.values()]
    return [
        Group(_label(found[0].quantizers, kinds), tuple(sorted(found, key=lambda run: run.seed)))
        for found in members.values()
    ]


def _label(own: dict[str, dict[str, Any]], all_kinds: Sequence[dict[str, dict[str, Any]]]) -> str:
    """``amaq:target_bits=3/group``: only options in which quantizers of one name differ."""
    parts = []
    for role in ROLES:
        name, options = own[role]["name"], own[role]["options"]
        peers = [kind[role]["options"] for kind in all_kinds if kind[role]["name"] == name]
        telling = [
            f"{key}={value}"
            for key, value in options.items()
            if any(peer.get(key) != value for peer in peers)
        ]
        parts.append(f"{name}:{','.join(telling)}" if telling else name)
    return "/".join(parts)


def refuse_uneven_seeds(groups: Sequence[Group]) -> None:
    """Every group must have the same seeds, each of them once.

    Raises:
        InputError: it is not so; names the seeds of each group.
    """
    for group in groups:
        for run, following in zip(group.runs, group.runs[1:], strict=False):
            if run.seed == following.seed:
                raise InputError(
                    f"{run.title} and {following.title} have the same quantizers and the same "
                    f"seed {run.seed}: folding them would make one run count twice",
                    hint="leave one of them out",
                    error_id="INPUT-SEEDS",
                )
    if len({group.seeds for group in groups}) > 1:
        listing = "; ".join(f"{g.label} has {', '.join(map(str, g.seeds))}" for g in groups)
        raise InputError(
            f"the seeds are not the same for all: {listing}",
            hint="train what is missing with --seed N, or leave the odd ones out",
            error_id="INPUT-SEEDS",
        )


def _spread(values: Sequence[float]) -> Spread:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Spread(mean, math.sqrt(squares / (len(values) - 1)))
