"""Where two documents differ, in words."""

from __future__ import annotations

from typing import Any


def _shown(values: dict[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def first_difference(mine: Any, theirs: Any, key: str) -> tuple[str, str, str] | None:
    """Place of the first difference and both values as text."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in sorted({*mine, *theirs}):
            place = f"{key}.{name}" if key else str(name)
            if name not in mine or name not in theirs:  # null is a value, an absent key is none
                return place, _shown(mine, name), _shown(theirs, name)
            found = first_difference(mine[name], theirs[name], place)
            if found:
                return found
        return None
    are_lists = isinstance(mine, list | tuple) and isinstance(theirs, list | tuple)
    if are_lists and len(mine) == len(theirs):
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            found = first_difference(*pair, f"{key}[{index}]")
            if found:
                return found
        return None
    is_same = mine == theirs and isinstance(mine, bool) == isinstance(theirs, bool)
    return None if is_same else (key, repr(mine), repr(theirs))
