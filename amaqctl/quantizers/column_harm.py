"""What a column's width would cost: running means of gradient energy and of error curves (ours).

To second order the loss rises by E[g_c²] · D_c(b) when column c has b bits, with g the gradient by
its values and D_c(b) the mean squared error at b bits; E[g²] stands in for the curvature (the
empirical Fisher information). Both are measured, never modelled: gradients come back anyway, and
the sender can try every width on what it is about to send.

A running mean is the plain mean of all that was seen until its memory is full, then an exponential
one, so it is good from the first step and forgets how the model was before it learned.

Legend: K columns (channels or positions), W legal widths.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from amaqctl.errors import DivergedError

STEPS_BETWEEN_ERRORS = 8
"""Error curves change as slowly as the layers before the cut; trying every width is dear."""


class _StepSoFar:
    """Gradient energy before a step, and of the micro-batches that it had so far.

    Not in checkpoints, which are made between steps.
    """

    def __init__(self, before_K: Tensor) -> None:
        self.before_K = before_K.clone()
        self.sum_K = torch.zeros_like(before_K)
        self.num_K = torch.zeros_like(before_K)
        self.is_sent_K = torch.zeros_like(before_K, dtype=torch.bool)


class ColumnHarm(nn.Module):
    """Running means of one sender, kept in checkpoints.

    Args:
        num_columns: K.
        min_bits, max_bits: the legal widths.
        memory: share of an old mean that outlives an observation, 0 to 1.
        axis: what a column is.
    """

    gradient_energy_K: Tensor
    range_energy_K: Tensor
    error_WK: Tensor
    num_gradients_K: Tensor
    num_errors_K: Tensor

    def __init__(
        self,
        num_columns: int,
        min_bits: int,
        max_bits: int,
        memory: float,
        axis: Literal["channel", "position"],
    ) -> None:
        super().__init__()
        self.widths = range(min_bits, max_bits + 1)
        self._memory = memory
        self._axis = axis
        self._of_step: _StepSoFar | None = None
        self.register_buffer("gradient_energy_K", torch.zeros(num_columns))
        self.register_buffer("range_energy_K", torch.zeros(num_columns))
        self.register_buffer("error_WK", torch.zeros(len(self.widths), num_columns))
        self.register_buffer("num_gradients_K", torch.zeros(num_columns, dtype=torch.int64))
        self.register_buffer("num_errors_K", torch.zeros(num_columns, dtype=torch.int64))

    def is_error_due(self, step: int) -> bool:
        """Whether error curves are to be measured at this step."""
        return step % STEPS_BETWEEN_ERRORS == 0 or not bool(self.num_errors_K.any())

    def begin_step(self) -> None:
        """The gradients that come from here on belong to a new step."""
        self._of_step = None

    def observe_error(
        self, error_WK: Tensor, range_K: Tensor, columns: slice, is_sent_K: Tensor
    ) -> None:
        """Take in an error curve of each column.

        Args:
            error_WK: mean squared error of real tokens at every width.
            range_K: largest range.
            columns: which columns these are.
            is_sent_K: whether a column had a real token; the others keep what they have.

        Raises:
            DivergedError: an error is not finite, and every later width would be spoiled.
        """
        if not bool(torch.isfinite(error_WK).all() and torch.isfinite(range_K.square()).all()):
            raise DivergedError("an activation is too large to be squared")
        self.num_errors_K[columns] += is_sent_K
        weight_K = self._weight_K(self.num_errors_K[columns]) * is_sent_K
        _move(self.error_WK[:, columns], error_WK, weight_K)
        _move(self.range_energy_K[columns], range_K.square(), weight_K)

    def observe_gradient(
        self, gradient: Tensor, columns: slice, is_sent_K: Tensor, is_empty_K: Tensor
    ) -> None:
        """Take in the loss gradient by what was sent, (…, T, C).

        The micro-batches of a step count as one observation, their mean, so that ``memory`` means
        the same however a batch is divided.

        Args:
            columns: which columns these are.
            is_sent_K: whether a column had a real token; the others keep what they have.
            is_empty_K: whether a column had no bits. Where nothing but zeros came back for it, the
                gradient had none either (`fixed` with ``bits: received``): that says nothing, and
                a mean of zero would keep it without bits for ever.

        Raises:
            DivergedError: the energy is not finite, and every later width would be spoiled.
        """
        if not gradient.numel():
            return  # an empty batch has no mean
        energy = gradient.detach().to(torch.float32).square()
        energy = energy.mean(-1) if self._axis == "position" else energy
        energy_K = energy.reshape(-1, energy.shape[-1]).mean(0)
        if not bool(torch.isfinite(energy_K).all()):
            raise DivergedError("a gradient is too large to be squared")
        is_sent_K = is_sent_K & ~(is_empty_K & (energy_K == 0))
        if self._of_step is None:
            self._of_step = _StepSoFar(self.gradient_energy_K)
        step = self._of_step
        step.sum_K[columns] += energy_K * is_sent_K
        step.num_K[columns] += 1  # rows of padding dilute the mean of a whole batch just so
        is_new_K = is_sent_K & ~step.is_sent_K[columns]
        step.is_sent_K[columns] |= is_sent_K
        self.num_gradients_K[columns] += is_new_K
        weight_K = self._weight_K(self.num_gradients_K[columns]) * step.is_sent_K[columns]
        before_K = step.before_K[columns]
        mean_K = step.sum_K[columns] / step.num_K[columns]
        self.gradient_energy_K[columns] = before_K + weight_K * (mean_K - before_K)

    def harm_WK(self) -> Tensor:
        """E[g²] · D(b) of every column at every width, shape (W, K).

        Where no gradient came yet all columns matter alike; a column that was never sent counts
        as the median of the others.
        """
        energy_K, is_felt_K = self.gradient_energy_K, self.num_gradients_K > 0
        if not bool(is_felt_K.any()):
            energy_K, is_felt_K = torch.ones_like(energy_K), self.num_errors_K > 0
        harm_WK = energy_K * self.error_WK
        is_known_K = is_felt_K & (self.num_errors_K > 0)
        if bool(is_known_K.all()) or not bool(is_known_K.any()):
            return harm_WK
        # The median: a mean would be that of the one position that everything attends to.
        return torch.where(is_known_K, harm_WK, _lower_median(harm_WK[:, is_known_K]))

    def _weight_K(self, count_K: Tensor) -> Tensor:
        """Weight of the newest of so many observations."""
        return (1.0 / count_K.clamp(min=1)).clamp(min=1 - self._memory)


def _lower_median(values_WK: Tensor) -> Tensor:
    """The median of each row, of an even number the lower one; shape (W, 1).

    `torch.median` gives indices too, and CUDA refuses those where algorithms must be deterministic.
    """
    return values_WK.sort(1).values[:, [(values_WK.shape[1] - 1) // 2]]


def _move(mean: Tensor, new: Tensor, weight_K: Tensor) -> None:
    """mean += weight · (new - mean), in place."""
    mean += weight_K * (new - mean)
