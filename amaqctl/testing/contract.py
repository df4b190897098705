"""`QuantizerContract`: the clauses as tests that a third party inherits.

pytest collects it, yet it is not imported here: parametrisation goes through the hook that
pytest calls on classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from amaqctl.quantizer import FLOAT_DTYPES, Role
from amaqctl.testing.check import check_clauses, subjects_of
from amaqctl.testing.clauses import CLAUSES, Clause
from amaqctl.testing.message_clauses import round_trip
from amaqctl.testing.subject import Subject, plain

_NUM_EXAMPLES = 15


class QuantizerContract:
    """Inherit, name a registered quantizer, and run pytest.

    Attributes:
        name: its registered name; the distribution must be installed.
        option_sets: options to check, as in a profile; None for those that the class declares.
        roles: directions to check; None for activations, and for gradients too where the
            quantizer has no parameters.
    """

    name: ClassVar[str]
    option_sets: ClassVar[Sequence[Mapping[str, Any]] | None] = None
    roles: ClassVar[Sequence[Role] | None] = None

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each clause, set of options and role."""
        subjects = subjects_of(self.name, self.option_sets, self.roles)
        metafunc.parametrize("subject", subjects, ids=str)
        if "clause" in metafunc.fixturenames:
            metafunc.parametrize("clause", CLAUSES, ids=lambda clause: clause.name)

    def test_clause(self, clause: Clause, subject: Subject) -> None:
        """The quantizer keeps this promise."""
        (done,) = check_clauses([subject], [clause])
        if done.finding is not None:
            raise AssertionError(str(done.finding)) from done.cause

    def test_any_shape_and_magnitude(self, subject: Subject) -> None:
        """Shapes, magnitudes and dtypes that nobody thought of; needs hypothesis."""
        from hypothesis import given, settings
        from hypothesis import strategies as st

        @settings(max_examples=_NUM_EXAMPLES, deadline=None, database=None, derandomize=True)
        @given(
            st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 40)),
            st.sampled_from(FLOAT_DTYPES),
            st.floats(-12, 4),
            st.integers(0, 2**31),
        )
        def check(shape: tuple[int, int, int], dtype: torch.dtype, power: float, seed: int) -> None:
            x = (plain(shape, seed) * 10.0**power).to(dtype)
            round_trip(subject, x, f"{dtype} of shape {shape}, scale 1e{power}, seed {seed}")

        check()
