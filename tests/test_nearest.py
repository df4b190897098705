"""Suggestions are plausible slips, and lists of names stay short."""

import pytest

from amaqctl.nearest import listed, nearest


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("alhpa", ["r", "alpha"], "alpha"),
        ("Prompt", ["prompt", "completion"], "prompt"),
        ("completion", ["prompt", "Completion "], "Completion "),
        ("completion", ["prompt", "question"], None),
        ("prompt", ["prompt;completion"], None),
        ("x" * 200_000, ["x" * 200_000], None),
    ],
)
def test_nearest(name, known, found):
    assert nearest(name, known) == found


def test_a_name_with_a_meaning_of_its_own_is_no_slip():
    assert nearest("answers", ["answer"], but=["answer"]) is None


def test_listed():
    assert listed(["a", "b"]) == "a, b"
    assert listed(f"c{i}" for i in range(40_000)).endswith("c18, c19 and 39,980 more")
    assert listed(["x" * 500]) == "x" * 100 + "…"
