"""A profile that was read: the validated values, and where each was written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amaqctl.errors import InputError, Problem, ProfileError
from amaqctl.profile.faults import Settings, option_problems, profile_error, validate
from amaqctl.profile.overrides import apply_override, is_override
from amaqctl.profile.schema import Profile
from amaqctl.profile.shipped import locate
from amaqctl.profile.tree import Mapping as MappingNode
from amaqctl.profile.tree import Mark, Tree, parse_dotted, show, to_plain
from amaqctl.profile.yaml12 import YamlDocument, dump
from amaqctl.storage import read_bytes

_MAX_BYTES = 64 * 1024  # thirty times the longest sensible profile; read in a second or two


@dataclass(frozen=True)
class LoadedProfile:
    """A valid profile and its source.

    Attributes:
        profile: the values, defaults and overrides included.
        name: file name without suffix; the first part of a run's name.
        path: the file.
    """

    profile: Profile
    name: str
    path: Path
    _tree: Tree = field(repr=False, compare=False)

    def resolved_yaml(self) -> str:
        """The whole profile as YAML, every default and override written out.

        It trains as it is, and loads back to an equal ``Profile``.
        """
        return dump(self.profile.model_dump())

    def is_override(self, key: str) -> bool:
        """Whether the value of a dotted key came by ``--set``."""
        return is_override(self._tree.mark_at(parse_dotted(key)))

    def with_values(self, changes: Mapping[str, Any]) -> LoadedProfile:
        """The same with other values at dotted keys of the schema; nothing is validated again."""
        profile = self.profile
        for key, value in changes.items():
            profile = _with_value(profile, key.split("."), value)
        return replace(self, profile=profile)

    def problem_at(self, section_path: str, message: str) -> Problem:
        """A fault of the value at ``section_path`` (``split.cuts``), found after loading.

        The message gets the path in front; the place is the nearest that was written.
        """
        mark = self._tree.mark_at(parse_dotted(section_path))
        return mark.problem(f"{section_path}: {message}")

    def option_problems(
        self, section_path: str, error: Exception, known: Iterable[str], owner: str
    ) -> list[Problem]:
        """What a plugin found wrong with its options, at the profile's own paths and places.

        Args:
            section_path: the section that names the plugin: ``task``, ``quantizers.gradient``.
            error: the ``pydantic.ValidationError`` of its ``Config``; of another error only the
                text is used, at the options.
            known: names of the options that the plugin has, for suggestions.
            owner: the plugin's name, for the message.
        """
        return option_problems(self._tree, parse_dotted(section_path), error, known, owner)


def load_profile(
    path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> LoadedProfile:
    """Read, override and validate a profile.

    Args:
        path_or_name: a file, or the name of a shipped profile.
        overrides: ``KEY=VALUE`` items as given to ``--set``; a later one wins.

    Raises:
        InputError: no such file or shipped profile.
        ProfileError: it cannot be read or is not valid; carries every fault, sorted by line.
        UsageError: an override without ``=``.
    """
    path = locate(path_or_name)
    tree = _read_tree(path)
    for item in overrides:
        apply_override(tree, item)
    return LoadedProfile(validate(tree, Profile), path.stem, path, tree)


def load_settings(path: Path, model: type[Settings]) -> Settings:
    """Read another file of settings, in the form of a profile.

    Raises:
        ProfileError: it cannot be read or is not valid; carries every fault, sorted by line.
    """
    return validate(_read_tree(path), model)


def _with_value(section: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    inner = _with_value(getattr(section, path[0]), path[1:], value)
    return section.model_copy(update={path[0]: inner})


def _read_tree(path: Path) -> Tree:
    file = str(path)
    document = YamlDocument(_read_text(path), lambda line, column: Mark(file, line, column))
    if not isinstance(document.node, MappingNode):
        held = show(to_plain(document.node))
        problem = document.node.mark.problem(f"a mapping of sections is needed, got {held}")
        raise profile_error([*document.problems, problem], "PROFILE-SYNTAX")
    return Tree(document.node, document.problems, document.refused)


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark."""
    if path.is_dir():
        raise _unreadable(path, "is a folder, not a profile")
    try:
        data = read_bytes(path, _MAX_BYTES)
    except InputError as error:
        raise _unreadable(path, error.message) from error
    except FileNotFoundError as error:  # gone since it was found
        raise _unreadable(path, "cannot be read: it is gone") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        mark = Mark(str(path), line, column)
        problem = mark.problem(f"byte 0x{data[error.start]:02x} is not UTF-8")
        raise profile_error([problem], "PROFILE-SYNTAX") from None


def _unreadable(path: Path, message: str) -> ProfileError:
    return profile_error([Mark(str(path)).problem(message)], "PROFILE-FILE")
