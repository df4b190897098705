"""A quantizer with options as it is typed: ``NAME``, ``NAME:KEY=VALUE,…`` or ``NAME:{KEY: VALUE}``.

A value is YAML, as with ``--set``: ``4``, ``null``, ``{name: amaq, options: {target_bits: 3}}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaqctl.errors import ProfileError, UsageError

_FORM = "write NAME or NAME:KEY=VALUE,KEY=VALUE, such as group:bits=4,group_size=64"
_OPENING, _CLOSING = "[{", "]}"


def name_and_options(text: str, typed: str) -> tuple[str, dict[str, Any]]:
    """What ``text`` asks for.

    Args:
        typed: what stood before it on the command line, for messages: ``-q``.

    Raises:
        UsageError: the form is wrong, a value is no YAML, or an option is given twice.
    """
    name, colon, rest = text.partition(":")
    if not name:
        raise UsageError(f"{typed} {text}: no name", hint=_FORM)
    if rest.lstrip().startswith("{"):
        options = _yaml(rest, f"{typed} {text}")
        if not isinstance(options, dict):
            raise UsageError(f"{typed} {text}: '{rest}' is no mapping", hint=_FORM)
        return name, options
    found: dict[str, Any] = {}
    for item in _items(rest) if colon else ():
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise UsageError(f"{typed} {text}: '{item}' is no KEY=VALUE", hint=_FORM)
        if key in found:
            raise UsageError(f"{typed} {text}: the option '{key}' is given twice")
        found[key] = _yaml(value, f"{typed} {text}")
    return name, found


def _items(text: str) -> Iterator[str]:
    """The parts between commas, those within brackets and quotes left alone."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _yaml(text: str, where: str) -> Any:
    from amaqctl.profile.tree import Mark, to_plain
    from amaqctl.profile.yaml12 import YamlDocument

    try:
        document = YamlDocument(text, lambda line, column: Mark(where))
    except ProfileError as error:
        raise UsageError(f"{where}: '{text}' is no YAML: {error.message}", hint=_FORM) from error
    if document.problems:
        raise UsageError(f"{where}: {document.problems[0].message}", hint=_FORM)
    return to_plain(document.node)
