"""Which plain text is which value: the core schema of YAML 1.2.2, section 10.3.2.

Kept apart from ruamel.yaml because that also reads ``1_000`` as a number and ``2026-11-21`` as
a date, which YAML 1.2 does not. ``1e-4`` is a number; ``no``, ``12:30`` and ``017x`` are text.
"""

from __future__ import annotations

import math
import re

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_INTEGER_BITS = 64
_INTEGER_DIGITS = 64  # of any base, leading zeros included; keeps int() from long work


class NotAllowedError(ValueError):
    """A number that YAML can write and a profile may not hold."""


def resolve(text: str) -> bool | int | float | str | None:
    """The value of an unquoted scalar.

    Raises:
        NotAllowedError: NaN, infinity, or a number too large for 64 bits.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            return _integer(text, base)
    if _NOT_FINITE.fullmatch(text):
        raise NotAllowedError(f"finite number needed, got {text}")
    if _FLOAT.fullmatch(text):
        return _float(text)
    return text


def _integer(text: str, base: int) -> int:
    if len(text) <= _INTEGER_DIGITS:
        value = int(text, base)
        if value.bit_length() < _INTEGER_BITS:
            return value
    raise NotAllowedError("the number does not fit 64 bits; put it in quotes if it is text")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotAllowedError("the number is too large; put it in quotes if it is text")
    return value
