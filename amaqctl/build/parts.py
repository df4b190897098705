"""Every registered part that a profile names, looked up and with its options validated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from amaqctl import registry
from amaqctl.build.strangers import read_options
from amaqctl.errors import PluginError, Problem
from amaqctl.profile import LoadedProfile, profile_error
from amaqctl.quantizer import ResolvedQuantizer, load_quantizer, resolve_quantizer


@dataclass(frozen=True)
class Part:
    """A registered task or transport with its validated options."""

    name: str
    cls: Any
    config: Any


@dataclass(frozen=True)
class Parts:
    """Every registered part that a profile names."""

    activation: ResolvedQuantizer
    gradient: ResolvedQuantizer
    lossless: ResolvedQuantizer
    task: Part
    transport: Part


def resolve_parts(loaded: LoadedProfile) -> Parts:
    """Look up every named part and validate its options; all faults are shown together.

    Raises:
        PluginError: one name is unknown, broken or ambiguous, and nothing else is wrong.
        ProfileError: options are wrong, or more than one thing is.
    """
    profile = loaded.profile
    problems: list[Problem] = []
    sections = {
        "activation": (registry.QUANTIZERS, "quantizers.activation", profile.quantizers.activation),
        "gradient": (registry.QUANTIZERS, "quantizers.gradient", profile.quantizers.gradient),
        "task": (registry.TASKS, "task", profile.task),
        "transport": (registry.TRANSPORTS, "transport", profile.transport),
    }
    found: dict[str, Any] = {}
    missing: list[PluginError] = []
    for key, (group, path, choice) in sections.items():
        is_quantizer = group == registry.QUANTIZERS
        try:
            cls = load_quantizer(choice.name) if is_quantizer else registry.load(group, choice.name)
        except PluginError as error:
            place = loaded.problem_at(f"{path}.name", error.message)
            missing.append(PluginError(str(place), hint=error.hint, error_id=error.error_id))
            problems.append(replace(place, message=f"{place.message} ({error.hint})"))
            continue
        try:
            if is_quantizer:
                found[key] = resolve_quantizer(choice.name, choice.options)
            else:
                config = read_options(group, choice.name, cls, choice.options)
                found[key] = Part(choice.name, cls, config)
        except ValidationError as error:
            known = cls.Config.model_fields
            problems += loaded.option_problems(path, error, known, choice.name)
    if len(problems) == len(missing) == 1:  # nothing else is wrong: an error of its own kind
        raise missing[0]
    if problems:
        raise profile_error(problems)
    return Parts(**found, lossless=resolve_quantizer("none"))
