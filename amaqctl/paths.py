"""One rule for every path: ``~`` is your home, and what is relative starts where you are.

A run keeps absolute paths, so it can be evaluated from anywhere. Where its folder was moved, what
lies at the same place as seen from the run is taken first: a project that moves as a whole stays
whole, and a run that was copied alone finds what it used where that still lies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

KeyPath = tuple[str | int, ...]


class PathText(str):
    """A path as an option's Config hands it on: absolute."""


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` replaced, from the current directory on."""
    return Path(os.path.expanduser(path)).absolute()


def shown(path: str | os.PathLike[str]) -> Path:
    """The path as a person would type it here: relative where it lies in the current directory."""
    whole, here = absolute(path), Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) else whole


FilePath = Annotated[
    str, Field(min_length=1), AfterValidator(lambda text: PathText(absolute(text)))
]
"""Type of an option that is a path."""


@dataclass(frozen=True)
class Moved:
    """A folder that was elsewhere; both absolute."""

    before: Path
    now: Path

    def of(self, path: Path) -> Path:
        """Where a path of before is to be looked for now."""
        beside = Path(os.path.normpath(self.now / os.path.relpath(path, self.before)))
        return beside if beside.exists() else path


def paths_in(options: Any, validated: Any, at: KeyPath = ()) -> dict[KeyPath, Path]:
    """The absolute paths among options, by their keys.

    Args:
        options: as written.
        validated: the same as a part's Config holds them; what it made a `PathText`, or a
            ``pathlib`` path, is a path.
    """
    if isinstance(validated, (PathText, PurePath)) and isinstance(options, str):
        return {at: absolute(options)}
    found: dict[KeyPath, Path] = {}
    if isinstance(options, Mapping) and isinstance(validated, (Mapping, BaseModel)):
        get: Callable[[str], Any] = (
            validated.get
            if isinstance(validated, Mapping)
            else lambda key: getattr(validated, key, None)
        )
        for key, value in options.items():
            found |= paths_in(value, get(key), (*at, key))
    elif isinstance(options, list) and isinstance(validated, (list, tuple)):
        for index, (value, other) in enumerate(zip(options, validated, strict=False)):
            found |= paths_in(value, other, (*at, index))
    return found


def put(options: Any, at: KeyPath, value: Any) -> Any:
    """A copy of options with another value at one key."""
    if not at:
        return value
    first, rest = at[0], at[1:]
    copy: Any = dict(options) if isinstance(options, Mapping) else list(options)
    copy[first] = put(copy[first], rest, value)
    return copy
