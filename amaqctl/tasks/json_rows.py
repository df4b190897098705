"""JSON lines: one object a line, as strict as JSON itself is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from amaqctl.errors import InputError

_MAX_DEPTH = 100
_BRACKETS = ("{", "[")


class _RefusedError(ValueError):
    """JSON as Python reads it, which JSON itself or a row is not; the text says what."""


def json_rows(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line (from 1) and values of each row of ``text``; blank lines are skipped.

    Raises:
        InputError: a line is no JSON object; names the place in ``path``.
    """
    # Not splitlines(): it would also cut at U+2028, which is legal inside a JSON string.
    start, number = 0, 1
    while start < len(text):  # one line at a time: all together are the file once more
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else None]
        if line.strip():
            yield number, _object(line, f"{path}:{number}")
        start, number = start + len(line) + 1, number + 1


def json_type(value: Any) -> str:
    """``value`` in JSON's words, with an article: ``a list``."""
    names = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object"}
    return names.get(type(value), "a string" if isinstance(value, str) else "a number")


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        if sum(line.count(bracket) for bracket in _BRACKETS) > _MAX_DEPTH:
            _check_depth(value)
    except json.JSONDecodeError as error:
        fault = f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    except _RefusedError as error:
        fault = str(error)
    except RecursionError:
        fault = f"nested deeper than {_MAX_DEPTH} levels"
    except ValueError:  # the only other one: a limit of Python's
        fault = "holds a whole number of thousands of digits"
    else:
        if isinstance(value, dict):
            return value
        fault = f"holds {json_type(value)}, not an object"
    raise InputError(
        fault,
        where=place,
        hint='write one object a line, such as {"prompt": "...", "completion": "..."}',
        error_id="INPUT-FORMAT",
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"not JSON that is clear: key {json.dumps(key)} is given twice")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise _RefusedError(f"not JSON: {name} is no number there; write null")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    if level:
        raise _RefusedError(f"nested deeper than {_MAX_DEPTH} levels")
