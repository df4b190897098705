"""Batches, and their order as a pure function of the seed and the step.

Nothing here keeps a position: what step 1000 sees can be computed without steps 0 to 999, so a
resumed run sees exactly the data of a straight one. Shape letters: B examples, T positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from amaqctl.errors import InputError
from amaqctl.tasks.task import IGNORE_INDEX, Example


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples padded on the right to one length.

    Attributes:
        input_ids_BT: int64, padded with the pad token.
        labels_BT: int64, not shifted, ``IGNORE_INDEX`` where no loss and on padding.
        lengths: tokens of each example before padding.
        sample_ids: ``Example.sample_id`` of each.
    """

    input_ids_BT: Tensor
    labels_BT: Tensor
    lengths: tuple[int, ...]
    sample_ids: tuple[int, ...]

    @property
    def num_loss_tokens(self) -> int:
        """Labels that count after the causal shift: position t predicts t + 1, so index 0 never."""
        return int((self.labels_BT[:, 1:] != IGNORE_INDEX).sum())

    @property
    def attention_mask_BT(self) -> Tensor:
        """int64, 1 on tokens and 0 on padding; on the device of the tokens."""
        device = self.input_ids_BT.device
        positions_T = torch.arange(self.input_ids_BT.shape[1], device=device)
        lengths_B = torch.tensor(self.lengths, device=device)
        return (positions_T[None, :] < lengths_B[:, None]).long()


def collate(examples: Sequence[Example], pad_token_id: int, multiple_of: int = 32) -> Batch:
    """Pad ``examples`` on the right to the longest, rounded up to a multiple of ``multiple_of``.

    A length not seen before costs set-up time in kernels and caches; rounding leaves few
    lengths. The result is less than ``multiple_of`` positions longer than the longest example.
    """
    assert examples, "a batch has at least one example"
    longest = max(len(example.input_ids) for example in examples)
    num_positions = -(-longest // multiple_of) * multiple_of
    shape = (len(examples), num_positions)
    input_ids_BT = torch.full(shape, pad_token_id, dtype=torch.long)
    labels_BT = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids_BT[row, :length] = torch.tensor(example.input_ids)
        labels_BT[row, :length] = torch.tensor(example.labels)
    return Batch(
        input_ids_BT,
        labels_BT,
        lengths=tuple(len(example.input_ids) for example in examples),
        sample_ids=tuple(example.sample_id for example in examples),
    )


def split_batch(batch: Batch, num_micro_batches: int) -> list[Batch]:
    """Cut a batch into micro-batches whose sizes differ by one at most, larger ones first.

    All keep the batch's padded length, so every micro-batch of a step has one shape in T.

    Raises:
        InputError: more micro-batches than examples.
    """
    return [
        Batch(
            batch.input_ids_BT[part],
            batch.labels_BT[part],
            batch.lengths[part],
            batch.sample_ids[part],
        )
        for part in _parts(len(batch.lengths), num_micro_batches)
    ]


def split_rows(values_BT: Tensor, num_micro_batches: int) -> list[Tensor]:
    """Cut the rows of a batch, of labels for one, as `split_batch` cuts it.

    Raises:
        InputError: more micro-batches than rows.
    """
    return [values_BT[part] for part in _parts(values_BT.shape[0], num_micro_batches)]


def _parts(size: int, num_micro_batches: int) -> list[slice]:
    if not 1 <= num_micro_batches <= size:
        raise InputError(
            f"a batch of {size} cannot be cut into {num_micro_batches} micro-batches",
            where="train.micro_batches",
            hint=f"set train.micro_batches between 1 and {size}",
            error_id="INPUT-BATCH",
        )
    small, num_larger = divmod(size, num_micro_batches)
    parts = []
    start = 0
    for index in range(num_micro_batches):
        parts.append(slice(start, start + small + (index < num_larger)))
        start = parts[-1].stop
    return parts


def epoch_order(num_examples: int, seed: int, epoch: int) -> list[int]:
    """A permutation of ``range(num_examples)``, the same in every version of Python and torch.

    Indices are ranked by a hash of (seed, epoch, index); no generator has a state to restore.
    """
    return list(_epoch_order(num_examples, seed, epoch))


@lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> tuple[int, ...]:
    def rank(index: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=16).digest()

    return tuple(sorted(range(num_examples), key=rank))


def refuse_no_batch(num_examples: int, batch_size: int) -> None:
    """Refuse data that do not fill one batch.

    Raises:
        InputError: fewer examples than ``batch_size``.
    """
    if num_examples < batch_size:
        raise InputError(
            f"{num_examples} train examples do not fill one batch of {batch_size}",
            where="train.batch_size",
            hint=f"set train.batch_size to {num_examples} or less, or give more data",
            error_id="INPUT-BATCH",
        )


def batch_at(
    examples: Sequence[Example], step: int, batch_size: int, seed: int, pad_token_id: int
) -> Batch:
    """The batch of optimizer step ``step`` (from 0), a pure function of its arguments.

    Each epoch is a fresh permutation cut into whole batches; a remainder smaller than a batch
    is left out of that epoch, so no batch straddles two epochs and none holds a sample twice.

    Raises:
        InputError: fewer examples than ``batch_size``.
    """
    refuse_no_batch(len(examples), batch_size)
    num_batches = len(examples) // batch_size
    epoch, index = divmod(step, num_batches)
    order = _epoch_order(len(examples), seed, epoch)
    chosen = order[index * batch_size : (index + 1) * batch_size]
    return collate([examples[i] for i in chosen], pad_token_id)
