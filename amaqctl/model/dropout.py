"""Dropout drawn block by block, so that neither a cut nor who holds a stage has a say in it.

Dropout draws from the process's own generator, one number after another. Each block therefore
begins its draws anew, at a seed that is a function of (seed, step, micro-batch, block); what comes
before the first block (the dropout of an embedding, an adapter of a projection there) has a seed of
its own, and what comes after the last goes on from that block's draws. The unsplit model draws the
same under the same rule: give this class its list of blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

_BEFORE_BLOCKS = "embedding"


class SeededDropout:
    """Makes every draw inside of blocks a function of where it stands.

    Args:
        blocks: the model's own blocks, by index in the whole model, from 0.
        seed: of the run.
    """

    def __init__(self, blocks: Mapping[int, nn.Module], seed: int) -> None:
        self._seed = seed
        self._turn: tuple[int, int] | None = None
        self._parameter = next((p for b in blocks.values() for p in b.parameters()), None)
        for index, block in blocks.items():
            block.register_forward_pre_hook(lambda *_, index=index: self._begin(index))

    @contextlib.contextmanager
    def drawing(self, step: int, micro_batch: int) -> Iterator[None]:
        """Around a forward in training, and around its backward: activations that were not kept
        are computed there once more, and must drop the same.

        The process's own generator is left as it was.

        Args:
            step: from 0.
            micro_batch: from 0.
        """
        with torch.random.fork_rng(self._devices()):
            self._turn = (step, micro_batch)
            self._begin(_BEFORE_BLOCKS)
            try:
                yield
            finally:
                self._turn = None

    def _begin(self, place: int | str) -> None:
        if self._turn is None:  # an evaluation
            return
        step, micro_batch = self._turn
        text = f"{self._seed} {step} {micro_batch} {place}"
        digest = hashlib.sha256(text.encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def _devices(self) -> list[torch.device]:
        """Beside the processor's generator, which is always kept."""
        if self._parameter is None or self._parameter.device.type == "cpu":
            return []
        return [self._parameter.device]
