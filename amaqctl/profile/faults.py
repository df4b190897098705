"""What is wrong with a profile, in our words: pydantic's findings with names and places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from amaqctl.errors import Problem, ProfileError
from amaqctl.nearest import listed, nearest
from amaqctl.profile.schema import Profile, section_at
from amaqctl.profile.tree import KeyPath, Tree, dotted, show, to_plain
from amaqctl.profile.value_types import NEEDED, RULE

_WORDS = {
    "int_type": "whole number",
    "int_parsing": "whole number",
    "int_from_float": "whole number",
    "float_type": "number",
    "float_parsing": "number",
    "finite_number": "finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "list",
    "tuple_type": "list",
    "dict_type": "mapping",
    "model_type": "mapping",
    "none_required": "null",
    "greater_than": "number > {gt}",
    "greater_than_equal": "number >= {ge}",
    "less_than": "number < {lt}",
    "less_than_equal": "number <= {le}",
    "multiple_of": "multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_too_short": "text of {min_length} or more characters",
    "too_short": "{min_length} or more items",
    "too_long": "{max_length} or fewer items",
}
"""What is needed, by pydantic's error type and context, for options that others validate."""


MOST_FAULTS = 100
"""How many faults of one profile are told; a longer list helps nobody and takes its time."""


Settings = TypeVar("Settings", bound=BaseModel)


def profile_error(problems: Sequence[Problem], error_id: str = "PROFILE-INVALID") -> ProfileError:
    """One error that carries the first ``MOST_FAULTS`` of ``problems``; at least one is needed.

    Where there are more, the last that is carried says how many follow.
    """
    found = sorted(set(problems))
    first = found[0]
    if len(found) > MOST_FAULTS:
        more = f"and {len(found) - MOST_FAULTS + 1:,} more faults from here on"
        found[MOST_FAULTS - 1 :] = [replace(found[MOST_FAULTS - 1], message=more)]
    if len(found) == 1:
        place = f"{first.file}:{first.line}:{first.column}" if first.line else first.file
        return ProfileError(first.message, problems=found, where=place, error_id=error_id)
    files = sorted({problem.file for problem in found})
    message = f"{len(found)} faults; the first: {first.message}"
    where = files[0] if len(files) == 1 else None
    return ProfileError(message, problems=found, where=where, error_id=error_id)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'alpha'?`` for the name in ``known`` nearest to ``name``; else empty."""
    near = nearest(name, known)
    return f", did you mean '{near}'?" if near else ""


def unknown_key(path: KeyPath) -> str:
    """The message for a key that the schema does not have, without its path."""
    section = section_at(path[:-1])
    assert section is not None, path
    known, name = list(section.model_fields), str(path[-1])
    guess = _elsewhere(name) or did_you_mean(name, known)
    return f"unknown key{guess or ', known here: ' + listed(known)}"


def _elsewhere(name: str) -> str:
    """The suggestion for a key that stands in the wrong section, where only one has it."""
    homes = [
        home
        for home in Profile.model_fields
        if (section := section_at((home,))) and name in section.model_fields
    ]
    return f", did you mean '{homes[0]}.{name}'?" if len(homes) == 1 else ""


def validate(tree: Tree, model: type[Settings]) -> Settings:
    """The profile, or another document of settings, that ``tree`` holds.

    Raises:
        ProfileError: with every fault of the text and of the values, sorted by line.
    """
    problems = list(tree.problems)
    try:
        settings = model.model_validate(to_plain(tree.root))
    except ValidationError as error:
        details, rest = _in_order(tree, (), error)
        problems += rest
        for detail in details:
            if not tree.is_refused(detail["loc"]):
                problems.append(_own_problem(tree, detail, model))
    if problems:
        raise profile_error(problems)
    return settings


def _in_order(
    tree: Tree, base: KeyPath, error: ValidationError
) -> tuple[list[ErrorDetails], list[Problem]]:
    """The findings that stand first, and a blank problem for each that will not be told.

    Only those told are worth words: a suggestion for each of very many would take its time.
    """

    def position(detail: ErrorDetails) -> tuple[int, int]:
        mark = tree.mark_at((*base, *detail["loc"]))
        return mark.line, mark.column

    details = sorted(error.errors(include_url=False), key=position)
    rest = [(*base, *detail["loc"]) for detail in details[MOST_FAULTS:]]
    return details[:MOST_FAULTS], [tree.mark_at(path).problem(dotted(path)) for path in rest]


def _own_problem(tree: Tree, detail: ErrorDetails, model: type[BaseModel]) -> Problem:
    path = detail["loc"]
    if detail["type"] == "extra_forbidden" and model is Profile:
        words = unknown_key(path)
    elif detail["type"] == "extra_forbidden":
        words = f"unknown key{did_you_mean(str(path[-1]), model.model_fields)}"
    elif detail["type"] == "missing":
        words = "required key is missing"
    else:
        words = _wrong_value(detail)
    return tree.mark_at(path).problem(f"{dotted(path)}: {words}")


def _wrong_value(detail: ErrorDetails) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == RULE:
        return detail["msg"]
    if kind == NEEDED:
        needed = detail["msg"]
    elif kind in _WORDS:
        needed = f"{_WORDS[kind].format(**detail.get('ctx', {}))} needed"
    elif kind in ("value_error", "assertion_error"):
        return one_line(str(detail["ctx"]["error"]))
    else:
        return one_line(detail["msg"])
    is_text = needed.startswith("text") and isinstance(value, bool | int | float)
    return f"{needed}, got {show(value)}{' (put it in quotes)' if is_text else ''}"


def one_line(text: str) -> str:
    """``text`` with all white space folded and no final full stop."""
    return " ".join(text.split()).removesuffix(".")


def option_problems(
    tree: Tree, section: KeyPath, error: Exception, known: Iterable[str], owner: str
) -> list[Problem]:
    """A plugin's complaint about its options, at the places where they were written.

    Several findings of one value, as a union gives them, become one problem.
    """
    base: KeyPath = (*section, "options")
    if not isinstance(error, ValidationError):
        message = f"{dotted(base)}: {one_line(str(error)) or type(error).__name__}"
        return [tree.mark_at(base).problem(message)]
    known = list(known)
    found: dict[KeyPath, list[str]] = defaultdict(list)
    details, rest = _in_order(tree, base, error)
    for detail in details:
        path, words = _option_fault(tree, base, detail, known, owner)
        if words not in found[path]:
            found[path].append(words)
    told = [
        tree.mark_at(path).problem(f"{dotted(path)}: {'; or '.join(words)}")
        for path, words in found.items()
    ]
    return sorted([*told, *rest])


def _option_fault(
    tree: Tree, base: KeyPath, detail: ErrorDetails, known: list[str], owner: str
) -> tuple[KeyPath, str]:
    path: KeyPath = (*base, *detail["loc"])
    if detail["type"] == "missing":
        return path, f"required option of {owner} is missing"
    if detail["type"] == "missing_option":  # of an inner quantizer; see amaqctl.quantizer.choice
        return path, detail["msg"]
    # Past what was written pydantic's location names types, such as 'list[int]'.
    written = tree.written_part(path)
    path = written if len(written) >= len(base) else base
    if detail["type"] != "extra_forbidden":
        return path, _wrong_value(detail)
    top_level = len(detail["loc"]) == 1
    guess = did_you_mean(str(detail["loc"][-1]), known) if top_level else ""
    if not guess and top_level:
        guess = f", known options: {listed(known)}" if known else ", it has no options"
    return path, f"unknown option of {owner}{guess}"
