"""A profile as written: plain nodes that know where they stand.

Legend: a *key path* is a tuple of keys and list indices, ``("split", "cuts", 0)``; its dotted
form is ``split.cuts[0]``. Line and column count from 1; both are 0 in text that came from the
command line, which has no position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from amaqctl.errors import Problem

KeyPath = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Mark:
    """A place: a file and a position in it, or a ``--set`` item."""

    file: str
    line: int = 0
    column: int = 0

    def problem(self, message: str) -> Problem:
        """``message`` as a problem at this place."""
        return Problem(line=self.line, column=self.column, file=self.file, message=message)


@dataclass
class Scalar:
    """One value that is no list and no mapping."""

    value: bool | int | float | str | None
    mark: Mark


@dataclass
class Sequence:
    """A list."""

    items: list[Node]
    mark: Mark


@dataclass
class Mapping:
    """A mapping from text to nodes; ``key_marks`` has the place of every key."""

    mark: Mark
    entries: dict[str, Node] = field(default_factory=dict)
    key_marks: dict[str, Mark] = field(default_factory=dict)

    def put(self, key: str, node: Node, mark: Mark) -> None:
        """Set ``key``, replacing what it held."""
        self.entries[key] = node
        self.key_marks[key] = mark

    def drop(self, key: str) -> None:
        """Remove ``key`` if it is there."""
        self.entries.pop(key, None)
        self.key_marks.pop(key, None)


Node = Scalar | Sequence | Mapping


@dataclass
class Tree:
    """A profile before validation.

    Attributes:
        root: the sections.
        problems: what the text itself has wrong (keys given twice, tags, aliases).
        refused: key paths of nodes that are among ``problems``; they stand in as null, so no
            second fault must be reported of them.
    """

    root: Mapping
    problems: list[Problem]
    refused: list[KeyPath]

    def mark_at(self, path: KeyPath) -> Mark:
        """The place of ``path``, or of its nearest ancestor that was written.

        A mapping's entry stands where its key stands, a list's item where its value stands.
        """
        mark, node = self.root.mark, self.root
        for part in path:
            step = _step(node, part)
            if step is None:
                break
            mark, node = step
        return mark

    def written_part(self, path: KeyPath) -> KeyPath:
        """The longest beginning of ``path`` that was written."""
        node: Node = self.root
        for depth, part in enumerate(path):
            step = _step(node, part)
            if step is None:
                return path[:depth]
            node = step[1]
        return path

    def is_refused(self, path: KeyPath) -> bool:
        """Whether a fault at ``path`` is only the echo of one in ``problems``."""
        return any(
            path == other[: len(path)] or other == path[: len(other)] for other in self.refused
        )


def _step(node: Node, part: str | int) -> tuple[Mark, Any] | None:
    if isinstance(node, Mapping) and part in node.entries:
        return node.key_marks[str(part)], node.entries[str(part)]
    if isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
        return node.items[part].mark, node.items[part]
    return None


def to_plain(node: Node) -> Any:
    """The node as dicts, lists and values."""
    if isinstance(node, Mapping):
        return {key: to_plain(entry) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [to_plain(item) for item in node.items]
    return node.value


def from_plain(value: Any, mark: Mark) -> Node:
    """Dicts, lists and values as nodes that all stand at ``mark``."""
    if isinstance(value, dict):
        mapping = Mapping(mark)
        for key, entry in value.items():
            mapping.put(key, from_plain(entry, mark), mark)
        return mapping
    if isinstance(value, list):
        return Sequence([from_plain(item, mark) for item in value], mark)
    return Scalar(value, mark)


def dotted(path: KeyPath) -> str:
    """``("split", "cuts", 0)`` as ``split.cuts[0]``; a key with odd characters is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = shorten(part if _PLAIN_KEY.fullmatch(part) else repr(part))
            text += f".{shown}" if text else shown
    return text


def parse_dotted(text: str) -> KeyPath:
    """``split.cuts[0]`` as ``("split", "cuts", 0)``."""
    return tuple(
        int(index) if index else key for index, key in re.findall(r"\[(\d+)\]|([^.\[\]]+)", text)
    )


def show(value: Any) -> str:
    """A value for a message: as YAML would name it, on one line, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return shorten(f"[{', '.join(show(item) for item in value[:10])}]")
    return shorten(repr(value))


def shorten(text: str, width: int = 60) -> str:
    """``text`` cut to ``width`` characters, with an ellipsis where something went."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
