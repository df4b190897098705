"""Every registered part that a profile names, looked up and with its options validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaqctl import registry
from amaqctl.build.strangers import read_options
from amaqctl.preflight import Part, look_up
from amaqctl.profile import LoadedProfile
from amaqctl.quantizer import ResolvedQuantizer, load_quantizer, resolve_quantizer


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
        PluginError: names are unknown, broken or ambiguous, in options too, and nothing else is
            wrong.
        ProfileError: something else is wrong, alone or beside such names.
    """
    found, error = look_up(loaded, _load, _made)
    if error is not None:
        raise error
    by_role = {section.rpartition(".")[2]: part for section, part in found.items()}
    return Parts(**by_role, lossless=resolve_quantizer("none"))


def _load(group: str, name: str) -> Any:
    return load_quantizer(name) if group == registry.QUANTIZERS else registry.load(group, name)


def _made(group: str, name: str, cls: Any, options: dict[str, Any]) -> Any:
    if group == registry.QUANTIZERS:
        return resolve_quantizer(name, options)
    return Part(name, cls, read_options(group, name, cls, options))
