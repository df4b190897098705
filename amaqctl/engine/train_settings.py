"""Numbers of the training loop, in plain values."""

from __future__ import annotations

from dataclasses import dataclass

from amaqctl.engine.learning_rate import LearningRate


@dataclass(frozen=True)
class TrainSettings:
    """What the loop needs to know, in plain values (all steps are optimizer steps)."""

    max_steps: int
    batch_size: int
    seed: int
    learning_rate: LearningRate
    average_every: int
    evaluate_every: int
    save_every: int
    keep_last: int
