from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaqctl.tasks.answers import after_marker, normalise


@pytest.mark.parametrize(
    "text, answer",
    [
        ("2 + 2 = 4\n#### 4", "4"),
        ("#### 4\n#### 5", "4"),
        ("####\n 1,234 \nmore", "1,234"),
        ("####", ""),
        ("####  \n ", ""),
        ("### 4", None),
        ("", None),
    ],
)
def test_after_marker(text: str, answer: str | None) -> None:
    assert after_marker(text, "####") == answer


@pytest.mark.parametrize(
    "text, form",
    [
        (" 42 ", "42"),
        ("42.", "42"),
        ("42.0", "42"),
        ("1,200", "1200"),
        ("$1,200.50", "1200.5"),
        ("-$3", "-3"),
        ("$ -3", "-3"),
        ("+7", "7"),
        ("-0.0", "0"),
        (".50", "0.5"),
        ("007", "7"),
        ("100", "100"),
        ("12%", "12"),
        ("1,2", "1,2"),
        ("12,34,567", "12,34,567"),
        ("4 apples", "4 apples"),
        ("the\n  answer ", "the answer"),
        ("Yes.", "Yes"),
        ("yes", "yes"),
        ("", ""),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.1"),
    ],
)
def test_normalise(text: str, form: str) -> None:
    assert normalise(text) == form


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**12),
                   max_value=10**12))  # fmt: skip
def test_equal_numbers_have_one_form(value: Decimal) -> None:
    form = normalise(f"{value:,f}")
    assert form == normalise(f"{value:f}") == normalise(form)
    assert Decimal(form) == value
