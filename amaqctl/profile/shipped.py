"""Where profiles are found: by path, or by the name of one that ships with amaqctl."""

from __future__ import annotations

import os
from pathlib import Path

from amaqctl.errors import InputError
from amaqctl.profile.faults import did_you_mean

_SUFFIXES = (".yaml", ".yml")


def _folder() -> Path:
    """The shipped profiles: inside an installed package, beside it in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "shipped_profiles"
    return installed if installed.is_dir() else package.parent / "profiles"


def shipped_names() -> list[str]:
    """Names of the shipped profiles, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The file that ``name_or_path`` means.

    It is a path if such a file exists or if it looks like one: it has a separator, or ends in
    ``.yaml`` or ``.yml``. Otherwise it is the name of a shipped profile, even where a folder
    (a run, perhaps) has that name.

    Raises:
        InputError: no such file, or no shipped profile of that name.
    """
    text = os.fspath(name_or_path)
    if os.path.isfile(text):
        return Path(text)
    separators = {os.sep, os.altsep or os.sep}
    if text.endswith(_SUFFIXES) or any(separator in text for separator in separators):
        if os.path.exists(text):
            return Path(text)
        raise InputError(
            "no such file", where=text, hint=_hint(Path(text).stem), error_id="INPUT-PROFILE"
        )
    if text in shipped_names():
        return _folder() / f"{text}.yaml"
    raise InputError(
        f"no profile named {text!r}",
        hint=_hint(text),
        error_id="INPUT-PROFILE",
    )


def _hint(name: str) -> str:
    names = shipped_names()
    guess = did_you_mean(name, names).removeprefix(", ")
    listing = f"shipped profiles: {', '.join(names) or 'none'}"
    return f"{guess} {listing}".strip()
