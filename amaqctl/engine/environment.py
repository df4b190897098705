"""Versions and machine of a run: kept at its start, compared when it is gone on with."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from amaqctl import registry
from amaqctl.engine.identity import differences
from amaqctl.engine.run_documents import EnvironmentDocument
from amaqctl.errors import InputError
from amaqctl.storage import read_json


def environment() -> dict[str, Any]:
    """Versions and machine, as `environment.json` keeps them."""
    packages = ("amaqctl", "torch", "transformers", "peft", "numpy", "safetensors")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "plugins": _plugins(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def environment_differences(path: Path) -> list[str]:
    """What is another program or machine than at the start, one entry a difference.

    Args:
        path: `environment.json` of the run.
    """
    now = environment()
    try:
        then = read_json(path, EnvironmentDocument)
    except FileNotFoundError:
        return ["environment.json is missing"]
    except InputError as error:
        return [f"environment.json {error.message}"]
    if any(isinstance(kept, str) for kept in (then.get("plugins") or {}).values()):
        now["plugins"] = {o.distribution: o.version for o in _strangers(registry.QUANTIZERS)}
    return differences(then, json.loads(json.dumps(now)))


def gone_plugins(path: Path, said: str) -> str | None:
    """Which distributions offered what is not installed any more; None where nothing tells.

    Args:
        path: `environment.json` of the run.
        said: an error about the run's parts; only what it names in quotes counts.
    """
    try:
        kept = read_json(path, EnvironmentDocument).get("plugins") or {}
    except (FileNotFoundError, InputError):
        return None
    here = {o.name: o.distribution for group in _GROUPS for o in _strangers(group)}
    named = [
        f"'{name}' came from {offer['distribution']} {offer['version']}"
        for name, offer in kept.items()
        if isinstance(offer, dict) and name not in here and f"'{name}'" in said
    ]
    # An older file says which distributions there were, not what they offered.
    other = [
        f"{name} {version} was installed"
        for name, version in kept.items()
        if isinstance(version, str) and name not in here.values()
    ]
    found = ", ".join(named or other)
    return f"when the run was made, {found}" if found else None


_GROUPS = (registry.TRANSPORTS, registry.TASKS, registry.QUANTIZERS)


def _strangers(group: str) -> list[registry.Offer]:
    return [offer for offer in registry.offers(group) if not offer.built_in]


def _plugins() -> dict[str, dict[str, str]]:
    """Distribution and version of each installed part of a stranger, by its name.

    Of a task and a quantizer of one name, the quantizer is kept.
    """
    return {
        offer.name: {"distribution": offer.distribution, "version": offer.version}
        for group in _GROUPS
        for offer in _strangers(group)
    }
