"""Cuts: which stages they make, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaqctl.errors import InputError
from amaqctl.model.cut import StageRange, stage_ranges


def test_two_cuts_make_three_stages() -> None:
    stages = stage_ranges(30, [8, 28])
    assert stages == [StageRange(0, 8, 30), StageRange(8, 28, 30), StageRange(28, 30, 30)]
    assert [stage.is_first for stage in stages] == [True, False, False]
    assert [stage.is_last for stage in stages] == [False, False, True]
    assert str(stages[1]) == "blocks 9-28 of 30"


def test_all_cuts_at_every_boundary() -> None:
    assert stage_ranges(3, "all") == [StageRange(i, i + 1, 3) for i in range(3)]
    assert stage_ranges(3, "all") == stage_ranges(3, [1, 2])


@given(st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n - 1)))))
def test_stages_cover_every_block_once(case: tuple[int, set[int]]) -> None:
    num_layers, cuts = case
    if not cuts:
        return
    stages = stage_ranges(num_layers, sorted(cuts))
    held = [i for stage in stages for i in range(stage.first_layer, stage.end_layer)]
    assert held == list(range(num_layers))
    assert [stage.end_layer for stage in stages[:-1]] == sorted(cuts)


@pytest.mark.parametrize(
    "cuts, message",
    [
        ([0], "cut 0 lies outside the model's 8 blocks"),
        ([8], "cut 8 lies outside the model's 8 blocks"),
        ([-1], "cut -1 lies outside the model's 8 blocks"),
        ([3, 3], "cut 3 is given twice"),
        ([5, 2], "cut 2 comes after cut 5: cuts must ascend"),
        ([], "no cut given"),
    ],
)
def test_illegal_cuts_name_the_legal_range(cuts: list[int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        stage_ranges(8, cuts)
    assert caught.value.message == message
    assert caught.value.hint == "legal cuts for this model: 1 to 7, ascending, or all"
    assert (caught.value.where, caught.value.error_id) == ("split.cuts", "INPUT-CUTS")


def test_a_model_of_one_block_cannot_be_cut() -> None:
    with pytest.raises(InputError, match="one block only"):
        stage_ranges(1, "all")


def test_cuts_are_checked_without_torch() -> None:
    code = "import amaqctl.model.cut, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
