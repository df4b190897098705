"""The learning rate as a pure function of the step, so that a resumed run has the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear"]


@dataclass(frozen=True)
class LearningRate:
    """Warmup, then constant or falling in a straight line to zero.

    Args:
        peak: highest rate.
        shape: `linear` reaches 0 one step after the last.
        warmup_steps: optimizer steps at rates below ``peak``, in equal steps up from 0.
        max_steps: optimizer steps of the whole run.
    """

    peak: float
    shape: Shape
    warmup_steps: int
    max_steps: int

    def at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        if self.shape == "constant":
            return self.peak
        falling_steps = self.max_steps - self.warmup_steps
        return self.peak * max(0, self.max_steps - step) / max(1, falling_steps)
