"""The order of a run's data: counted step for step at the start, extrapolated in a long run.

The work and the memory are the same for any number of steps beyond those that are counted. What
is extrapolated follows from the order itself (`amaqctl.tasks.batch`): each epoch is a fresh
permutation, so padded lengths keep their mean; no sample comes twice in an epoch, so all of the
first epoch's are first visits; afterwards only the few that the first epoch left out are new.

Legend: S steps looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from amaqctl.build import Built
from amaqctl.forecast.rehearsal import batch_of

MOST_COUNTED = 5_000
"""Steps whose batches are built; at most as many are looked at in the rest of the first epoch, and
at most as many in all that comes later, evenly spread."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class DataOrder:
    """The run's data: each of the first steps, and later ones that stand for their neighbours.

    Args:
        num_steps: of the run. num_counted: of those whose batches were built, from step 0.
        steps_S: the steps looked at, from 0, ascending; the last is the last of the run.
        weights_S: how many steps each stands for; 1 for the counted ones. Their sum is
            ``num_steps``.
        positions_S: B x T of each, padding included.
        first_visits_S: share of the rows whose sample was in no earlier step, 0 to 1.
        first_steps: step of each sample's first visit, among the counted steps.
        num_samples: different samples of the run: exact where all is counted, else at most one
            batch too many.
        epoch_steps: of one pass over the data.
    """

    num_steps: int
    num_counted: int
    steps_S: Array
    weights_S: Array
    positions_S: Array
    first_visits_S: Array
    first_steps: Mapping[int, int]
    num_samples: int
    epoch_steps: int

    def is_old(self, sample: int, step: int) -> bool:
        """Whether a sample of the batch of ``step`` was in an earlier step."""
        if sample in self.first_steps:
            return self.first_steps[sample] < step
        return step >= self.epoch_steps

    def total(self, of_each_S: Array) -> float:
        """Sum over all steps of the run of what is known of those looked at."""
        return float((self.weights_S * of_each_S).sum())


def data_order(built: Built) -> DataOrder:
    """The order in which the run will see its data: a pure function of seed and step."""
    train = built.loaded.profile.train
    num_samples = len(built.task.train)
    num_counted = min(train.max_steps, MOST_COUNTED)
    epoch_steps = max(1, num_samples // train.batch_size)  # fewer than a batch: refused below
    first_steps: dict[int, int] = {}
    positions, first_visits = [], []
    for step in range(num_counted):
        batch = batch_of(built, step)
        for sample in batch.sample_ids:
            first_steps.setdefault(sample, step)
        new = [first_steps[sample] == step for sample in batch.sample_ids]
        positions.append(batch.input_ids_BT.numel())
        first_visits.append(sum(new) / len(new))
    later_S, later_weights_S = _later(num_counted, epoch_steps, train.max_steps)
    if len(later_S):
        num_samples = min(num_samples, train.max_steps * train.batch_size)
    return DataOrder(
        num_steps=train.max_steps,
        num_counted=num_counted,
        steps_S=np.concatenate([np.arange(num_counted), later_S]),
        weights_S=np.concatenate([np.ones(num_counted), later_weights_S]),
        positions_S=np.concatenate(
            [np.array(positions), np.full(len(later_S), np.mean(positions))]
        ),
        first_visits_S=np.concatenate([np.array(first_visits), 1.0 * (later_S < epoch_steps)]),
        first_steps=first_steps,
        num_samples=num_samples if len(later_S) else len(first_steps),
        epoch_steps=epoch_steps,
    )


def _later(num_counted: int, epoch_steps: int, num_steps: int) -> tuple[Array, Array]:
    """Steps after the counted ones, and how many each stands for: the first epoch's, and others."""
    end = min(max(epoch_steps, num_counted), num_steps)
    parts = [
        (spread(first, length, MOST_COUNTED), length)
        for first, length in ((num_counted, end - num_counted), (end, num_steps - end))
        if length
    ]
    weights = [np.full(len(steps_S), length / len(steps_S)) for steps_S, length in parts]
    none = np.array([])
    steps = [steps_S for steps_S, _ in parts]
    return np.concatenate([none, *steps]), np.concatenate([none, *weights])


def spread(first: int, num_steps: int, most: int) -> Array:
    """At most ``most`` of ``num_steps`` steps from ``first`` on, evenly, both ends included."""
    num_shown = max(0, min(num_steps, most))
    return np.linspace(first, first + num_steps - 1, num_shown).round()
