"""Where a quantizer stands, and what is known about one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from amaqctl.bits import BitAllocation

Role = Literal["activation", "gradient"]
End = Literal["sender", "receiver"]


@dataclass(frozen=True)
class Site:
    """Where a quantizer stands and what it will see, known before the first tensor.

    Args:
        link: index of the cut, from 0.
        role: which of the cut's two directions.
        num_channels: C, width of the hidden state.
        max_positions: longest sequence in tokens.
        num_samples: training samples, for memories bounded by it.
        seed: the run's seed.
        end: which end of the channel this instance is, ``sender`` or ``receiver``. What it decides
            may move no byte: it is for what one end alone has need of.
        batch_size: rows of a whole training batch, micro-batches together.
        num_micro_batches: messages that a training batch is sent in.
    """

    link: int
    role: Role
    num_channels: int
    max_positions: int
    num_samples: int
    seed: int
    end: End = "sender"
    batch_size: int = 1
    num_micro_batches: int = 1


@dataclass(frozen=True)
class TensorContext:
    """What is known about one tensor; rides in the message's header, except ``allocation``.

    Args:
        role, link: which channel it crosses.
        step: optimizer step, from 0. total_steps: of the run.
        micro_batch: index within the step, from 0.
        sample_ids: stable number of each sample of the batch, or () where there is none.
        lengths: tokens of each sample that are not padding, or () for no padding.
        left_padded: padding stands before the tokens (generation) instead of after.
        first_position: sequence position of the first token (cached generation), from 0.
        training: False in evaluation and generation, where no state may change.
        allocation: for a gradient, the widths of the activation message received on this link.
    """

    role: Role
    link: int
    step: int
    total_steps: int
    micro_batch: int = 0
    sample_ids: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    left_padded: bool = False
    first_position: int = 0
    training: bool = True
    allocation: BitAllocation | None = None

    @property
    def place(self) -> str:
        """Link, direction and step, as errors name them."""
        return f"link {self.link} {self.role} step {self.step}"
