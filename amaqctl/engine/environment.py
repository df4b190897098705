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
    plugins = {
        o.distribution: o.version for o in registry.offers(registry.QUANTIZERS) if not o.built_in
    }
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "plugins": plugins,
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
    return differences(then, json.loads(json.dumps(now)))
