"""The types of a profile's values, each with the words in which a wrong value is answered.

So a union or a bound gives one plain sentence instead of pydantic's several.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

SCHEMA_VERSION = 1

NEEDED = "needed"
"""Error type of a wrong value; its message says what is needed."""

RULE = "rule"
"""Error type of two keys that do not fit together; its message is the whole sentence."""


def _needs(words: str) -> WrapValidator:
    """Answer every failure of the wrapped type with ``<words> needed``."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(NEEDED, "{words} needed", {"words": words}) from None

    return WrapValidator(check)


def _strictly_rising(cuts: list[int] | str) -> list[int] | str:
    if isinstance(cuts, list) and any(a >= b for a, b in pairwise(cuts)):
        raise ValueError("not strictly rising")
    return cuts


Version = Annotated[
    int,
    Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION, json_schema_extra={"const": SCHEMA_VERSION}),
    _needs(f"schema version {SCHEMA_VERSION}"),
]
Text = Annotated[str, Field(min_length=1), _needs("text")]
OptionalText = Annotated[str | None, _needs("text or null")]
Flag = Annotated[bool, _needs("true or false")]
Count = Annotated[int, Field(ge=1), _needs("whole number >= 1")]
CountFromZero = Annotated[int, Field(ge=0), _needs("whole number >= 0")]
Schedule = Annotated[Literal["constant", "linear"], _needs("constant or linear")]
Seed = Annotated[int, Field(ge=0, lt=2**32), _needs("whole number from 0 to 4294967295")]
# Beyond this a rate or a scale overflows float32 at once.
_LARGEST = 1e6
Positive = Annotated[float, Field(gt=0, le=_LARGEST), _needs(f"number > 0 and <= {_LARGEST:,.0f}")]
NotNegative = Annotated[
    float, Field(ge=0, le=_LARGEST), _needs(f"number >= 0 and <= {_LARGEST:,.0f}")
]
Alpha = Annotated[int, Field(ge=1, le=int(_LARGEST)), _needs("whole number from 1 to 1,000,000")]
Share = Annotated[float, Field(ge=0, lt=1), _needs("number >= 0 and below 1")]
GradientNorm = Annotated[
    Annotated[float, Field(gt=0)] | None, _needs("number > 0, or null to switch clipping off,")
]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], _needs("float32, bfloat16 or float16")]
BaseBits = Annotated[Literal[8, 4] | None, _needs("8, 4 or null")]
Cuts = Annotated[
    Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | Literal["all"],
    AfterValidator(_strictly_rising),
    _needs("all, or a list of strictly rising whole numbers >= 1 such as [4, 8],"),
]
TargetModules = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    | Literal["all-linear"],
    _needs("all-linear, or a list of module names such as [q_proj, v_proj],"),
]
