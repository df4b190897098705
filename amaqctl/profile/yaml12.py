"""The one module that knows ruamel.yaml: text to nodes with positions, and values to text.

Only the pure-Python parser is used, and only its events: no constructor runs, so a tag can
never make an object. Tags, anchors and aliases are refused, which also ends alias bombs.
Values are resolved by ``scalars``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from amaqctl.errors import Problem
from amaqctl.profile.faults import MOST_FAULTS, profile_error
from amaqctl.profile.scalars import NotAllowedError, resolve
from amaqctl.profile.tree import (
    KeyPath,
    Mapping,
    Mark,
    Node,
    Scalar,
    Sequence,
    dotted,
    shorten,
    show,
)

MAX_DEPTH = 20
"""Levels of lists and mappings in each other."""

_PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)

Place = Callable[[int, int], Mark]
"""From line and column, both counted from 1, to the place that a message names."""


class _SyntaxError(Exception):
    """The text cannot be read any further."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.problem = mark.problem(message)


class YamlDocument:
    """One YAML document as nodes.

    Args:
        text: the document.
        place: makes the marks of its nodes.
        base: key path of the whole, where it is a part of a profile.

    Attributes:
        node: the whole; a null where the text is empty.
        problems: faults that did not stop the reading.
        refused: key paths of the nodes that those faults replaced by null.

    Raises:
        ProfileError: the text is not YAML; carries the faults found before, too.
    """

    def __init__(self, text: str, place: Place, base: KeyPath = ()) -> None:
        self.problems: list[Problem] = []
        self.refused: list[KeyPath] = []
        self._place = place
        self._base = base
        self._events = _events(text, place)
        try:
            self.node = self._document()
        except _SyntaxError as stop:
            raise profile_error([*self.problems, stop.problem], "PROFILE-SYNTAX") from None

    def _document(self) -> Node:
        node: Node | None = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if node is not None:
                    raise _SyntaxError(self._mark(event), "a second document starts here")
                if event.version not in (None, (1, 2)):
                    raise _SyntaxError(self._mark(event), "profiles are written in YAML 1.2")
            elif _starts_node(event):
                node = self._node(event, self._base)
        return node or Scalar(None, self._place(1, 1))

    def _mark(self, event: Any) -> Mark:
        return self._place(event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: Any, path: KeyPath) -> Node:
        mark = self._mark(event)
        if len(path) - len(self._base) >= MAX_DEPTH:
            raise _SyntaxError(mark, f"nested deeper than {MAX_DEPTH} levels")
        if len(self.problems) >= MOST_FAULTS - 1:
            raise _SyntaxError(mark, "too many faults; nothing from here on was read")
        if isinstance(event, AliasEvent):
            return self._refuse(mark, path, f"alias *{event.anchor} is not allowed in a profile")
        if event.anchor is not None:
            self.problems.append(
                mark.problem(f"anchor &{event.anchor} is not allowed in a profile")
            )
        node = self._untagged(event, mark, path)
        if event.tag is not None:
            return self._refuse(
                mark, path, f"tag {_short_tag(event.tag)} is not allowed in a profile"
            )
        return node

    def _untagged(self, event: Any, mark: Mark, path: KeyPath) -> Node:
        if isinstance(event, MappingStartEvent):
            return self._mapping(mark, path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(mark, path)
        if event.style is not None or event.tag is not None:
            return Scalar(event.value, mark)
        try:
            return Scalar(resolve(event.value), mark)
        except NotAllowedError as error:
            return self._refuse(mark, path, str(error))

    def _refuse(self, mark: Mark, path: KeyPath, message: str) -> Scalar:
        prefix = f"{dotted(path)}: " if path else ""
        self.problems.append(mark.problem(prefix + message))
        self.refused.append(path)
        return Scalar(None, mark)

    def _sequence(self, mark: Mark, path: KeyPath) -> Sequence:
        items: list[Node] = []
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items))))
        return Sequence(items, mark)

    def _mapping(self, mark: Mark, path: KeyPath) -> Mapping:
        mapping = Mapping(mark)
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            key_mark = self._mark(event)
            key = self._key(event, path)
            value = self._node(next(self._events), (*path, key or ""))
            if key is None:
                continue
            if key in mapping.entries:
                line = mapping.key_marks[key].line
                first = f", first in line {line}" if line else ""
                self.problems.append(key_mark.problem(f"key {show(key)} is given twice{first}"))
            else:
                mapping.put(key, value, key_mark)
        return mapping

    def _key(self, event: Any, path: KeyPath) -> str | None:
        """The text of a key; None, and a problem, where it is none."""
        num_problems = len(self.problems)
        node = self._node(event, (*path, ""))
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return node.value
        if len(self.problems) == num_problems:
            shown = show(node.value) if isinstance(node, Scalar) else "a list or mapping"
            self.problems.append(node.mark.problem(f"a key must be text, got {shown}"))
        return None


def _short_tag(tag: Any) -> str:
    return shorten(f"{tag}".replace("tag:yaml.org,2002:", "!!"))


def _starts_node(event: Any) -> bool:
    return isinstance(event, AliasEvent | ScalarEvent | SequenceStartEvent | MappingStartEvent)


def _events(text: str, place: Place) -> Iterator[Any]:
    """The parser's events, with whatever it raises turned into a ``_SyntaxError``."""
    mark = place(1, 1)
    try:
        for event in YAML(typ="safe", pure=True).parse(StringIO(text)):
            mark = place(event.start_mark.line + 1, event.start_mark.column + 1)
            yield event
    except ReaderError as error:
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        code = f"U+{ord(text[error.position]):04X}"
        raise _SyntaxError(
            place(before.count("\n") + 1, column), f"character {code} is not allowed in YAML"
        ) from None
    except MarkedYAMLError as error:
        found = error.problem_mark or error.context_mark
        here = place(found.line + 1, found.column + 1) if found else mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise _SyntaxError(here, f"not valid YAML: {' '.join(words.split())}") from None
    except (YAMLError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError):
        # The parser lets a few of its own slips through, such as "\U99999999".
        raise _SyntaxError(mark, "not valid YAML after this point") from None


def dump(value: dict[str, Any]) -> str:
    """``value`` as YAML 1.2 text that reads back equal; short lists stay on one line."""
    writer = YAML(typ="rt", pure=True)
    writer.Representer = _Representer
    writer.width = 10**6  # a folded text is harder to search and to compare
    stream = StringIO()
    writer.dump(_styled(value), stream)
    return stream.getvalue()


class _Representer(RoundTripRepresenter):  # type: ignore[misc]
    """Writes null as a word; a bare ``key:`` looks forgotten. Registering is by class."""

    def represent_none(self, _: None) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _styled(value: Any) -> Any:
    if isinstance(value, dict):
        return {_styled(key): _styled(entry) for key, entry in value.items()}
    if isinstance(value, list):
        items = CommentedSeq([_styled(item) for item in value])
        if not any(isinstance(item, dict | list) for item in value):
            items.fa.set_flow_style()
        return items
    if isinstance(value, str) and not _is_plain(value):
        return DoubleQuotedScalarString(value)
    return value


def _is_plain(text: str) -> bool:
    return _PLAIN_TEXT.fullmatch(text) is not None and resolve(text) == text
