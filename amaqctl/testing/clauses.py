"""The contract as a list: `check_quantizer`, pytest and `amaqctl plugins --check` all run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amaqctl.testing.channel_clauses import non_finite, training
from amaqctl.testing.layout_clause import declared
from amaqctl.testing.learning_clauses import differences, surrogate
from amaqctl.testing.message_clauses import layouts, shapes, sizes, twin
from amaqctl.testing.options_clause import options
from amaqctl.testing.receiver_clauses import device, fresh, refused
from amaqctl.testing.sequence_clauses import generation, padding
from amaqctl.testing.speed_clause import speed
from amaqctl.testing.state_clauses import evaluation, memory, resume, seeds
from amaqctl.testing.subject import Subject


@dataclass(frozen=True)
class Clause:
    """One promise of the contract.

    Args:
        check: raises when ``subject`` breaks it; its docstring is the promise in words.
    """

    check: Callable[[Subject], None]

    @property
    def name(self) -> str:
        """One word, for reports and ``pytest -k``."""
        return self.check.__name__

    @property
    def promise(self) -> str:
        """What a quantizer that keeps the clause does."""
        return (self.check.__doc__ or "").strip().removesuffix(".")


CLAUSES = tuple(
    map(
        Clause,
        (
            options,
            speed,
            shapes,
            sizes,
            layouts,
            declared,
            padding,
            generation,
            twin,
            fresh,
            refused,
            device,
            seeds,
            evaluation,
            resume,
            surrogate,
            differences,
            non_finite,
            memory,
            training,
        ),
    )
)
