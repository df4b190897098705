"""Answers in generated text: finding them behind a marker, and comparing them fairly."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(
    r"\$?\s*([-+]?)\s*\$?\s*((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)\s*%?", re.ASCII
)


def after_marker(text: str, marker: str) -> str | None:
    """The rest of the line behind the first ``marker``, or None where the text has none."""
    _, found, rest = text.partition(marker)
    if not found:
        return None
    lines = rest.strip().splitlines()
    return lines[0].strip() if lines else ""


def normalise(text: str) -> str:
    """The form in which two answers are compared.

    Runs of white space become one space and a final full stop goes. A number loses its
    thousands commas, a dollar or percent sign, and zeros that change nothing, so ``$1,200.00``
    equals ``1200``. Upper and lower case differ.
    """
    joined = " ".join(text.split()).removesuffix(".").rstrip()
    number = _NUMBER.fullmatch(joined)
    if number is None:
        return joined
    sign, digits = number.groups()
    value = Decimal(digits.replace(",", ""))
    # Fixed-point text with trailing zeros cut: exact at any length, unlike Decimal.normalize.
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "-" + plain if sign == "-" and plain != "0" else plain
