"""One finished run as numbers and settings, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError

if TYPE_CHECKING:
    from amaqctl.profile import Profile

ROLES = ("activation", "gradient")

# What may differ. local_files_only has no effect on what is computed.
_FREE = (
    "description",
    "output",
    "checkpoint",
    "quantizers",
    "train.seed",
    "model.local_files_only",
)
_NEEDED = (
    "steps",
    "loss_after",
    "wire_bytes",
    "wire_values",
    *(f"{role}_bits_{when}" for role in ROLES for when in ("over_run", "at_end")),
)


@dataclass(frozen=True)
class FinishedRun:
    """One run that reached its end.

    Args:
        path: its folder.
        title: the folder's name; the whole path where two have that name.
        seed: of weights, data order and noise.
        quantizers: ``name`` and ``options`` by role, defaults included as far as they are known.
        settings: everything that must be equal, by dotted key.
        result: the numbers at its end, as `run.json` keeps them.
    """

    path: Path
    title: str
    seed: int
    quantizers: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    result: dict[str, float]


def read_finished_run(folder: RunFolder, title: str) -> FinishedRun:
    """Read a run whose status is ``done``.

    Raises:
        InputError: numbers are missing, or its files cannot be read.
        ProfileError: its profile is not valid.
    """
    from amaqctl.profile import load_profile  # slow, and `--help` comes by here

    profile = load_profile(folder.path / "profile.yaml").profile
    result = folder.run.get("result")
    data = folder.run.get("data")
    numbers = {k: v for k, v in dict(result or {}).items() if isinstance(v, int | float)}
    lacking = [key for key in _NEEDED if key not in numbers]
    lacking += [] if isinstance(data, dict) and data.get("fingerprint") else ["data.fingerprint"]
    if lacking:
        raise InputError(
            f"run.json lacks {', '.join(lacking)}", where=str(folder.path), error_id="INPUT-RUN"
        )
    assert isinstance(data, dict)
    settings = {f"data.{key}": value for key, value in data.items()}
    settings |= {"steps": numbers["steps"], **_settings(profile)}
    changes = folder.run.get("max_steps_changes")
    if changes and profile.optimizer.schedule != "constant":  # its learning rate jumped there
        settings["max_steps_changes"] = changes
    return FinishedRun(
        folder.path, title, profile.train.seed, _quantizers(folder, profile), settings, numbers
    )


def _settings(profile: Profile) -> dict[str, Any]:
    flat = _flat(profile.model_dump(), "")
    if profile.optimizer.schedule == "constant":
        # The steps are compared as they were taken, since a resumed run may have more than its
        # profile says; another schedule ends where the profile ends.
        del flat["train.max_steps"]
    return {
        key: value
        for key, value in flat.items()
        if not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    }


def _flat(mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _quantizers(folder: RunFolder, profile: Profile) -> dict[str, dict[str, Any]]:
    """Names and options by role; a finished run keeps its options with their defaults."""
    chosen = {role: getattr(profile.quantizers, role) for role in ROLES}
    found = {r: {"name": c.name, "options": dict(c.options)} for r, c in chosen.items()}
    for role, options in folder.quantizer_options().items():
        found[role]["options"] = options
    return found
