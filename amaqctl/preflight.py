"""What a profile names, found before torch is imported: parts, files, folders, the cuts.

Names of quantizers, tasks and transports are looked up without importing a quantizer, and tasks
are light. The options of quantizers come later (`amaqctl.build`), since their code needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amaqctl import registry
from amaqctl.errors import AmaqError, InputError, PluginError, Problem
from amaqctl.extras import refuse_without_low_bit
from amaqctl.model.cut import stage_ranges
from amaqctl.model.source import check_model_id, known_num_blocks, model_folder
from amaqctl.paths import Moved, absolute, paths_in, put
from amaqctl.profile import LoadedProfile, PluginChoice, Profile, profile_error


@dataclass(frozen=True)
class Part:
    """A registered part with its validated options."""

    name: str
    cls: Any
    config: Any


_GROUPS = {
    "quantizers.activation": registry.QUANTIZERS,
    "quantizers.gradient": registry.QUANTIZERS,
    "task": registry.TASKS,
    "transport": registry.TRANSPORTS,
}


def choices(profile: Profile) -> dict[str, PluginChoice]:
    """Every part that a profile names, by the section that names it."""
    return {
        "quantizers.activation": profile.quantizers.activation,
        "quantizers.gradient": profile.quantizers.gradient,
        "task": profile.task,
        "transport": profile.transport,
    }


def placed(loaded: LoadedProfile, moved: Moved | None = None) -> LoadedProfile:
    """The profile with every path absolute, wrong options left as they are.

    Args:
        moved: of the run whose profile it is. Paths given by ``--set`` are where they say.
    """

    def place(key: str, path: Path) -> str:
        return str(path if moved is None or loaded.is_override(key) else moved.of(path))

    profile = loaded.profile
    found = model_folder(profile.model.id)
    if found is None and Path(profile.model.id).is_absolute():
        found = Path(profile.model.id)
    changes: dict[str, Any] = {"output.root": place("output.root", absolute(profile.output.root))}
    if found is not None:
        changes["model.id"] = place("model.id", found)
    for section, choice in choices(profile).items():
        options: Any = choice.options
        for at, path in _paths(section, choice).items():
            options = put(options, at, place(f"{section}.options.{at[0]}", path))
        changes[f"{section}.options"] = options
    return loaded.with_values(changes)


def refuse_early(loaded: LoadedProfile, *, has_data: bool = True) -> None:
    """Raise for the first thing that is wrong and can be told without torch.

    Args:
        has_data: whether this process reads the data that the profile names.

    Raises:
        ProfileError, PluginError, InputError: as building would.
    """
    for key, error in faults(loaded):
        if has_data or not key.startswith("task."):
            raise error


def faults(loaded: LoadedProfile) -> Iterator[tuple[str, AmaqError]]:
    """What is wrong, with the key that says it."""
    yield from _part_faults(loaded)
    yield from missing(loaded)


def missing(loaded: LoadedProfile) -> Iterator[tuple[str, AmaqError]]:
    """Files, folders and packages that are not here, and cuts where the model has none."""
    profile = loaded.profile
    if profile.model.base_bits is not None:
        try:
            refuse_without_low_bit("model.base_bits")
        except InputError as error:
            yield "model.base_bits", error
    try:
        check_model_id(profile.model.id)
        num_blocks = known_num_blocks(profile.model.id)
        if num_blocks is not None:
            stage_ranges(num_blocks, profile.split.cuts)
    except InputError as error:
        if error.error_id == "INPUT-CUTS":
            problem = loaded.problem_at("split.cuts", error.message)
            yield "split.cuts", profile_error([problem])
        else:
            yield "model.id", error
    for section, choice in choices(profile).items():
        for at, path in _paths(section, choice).items():
            if not path.exists():
                yield f"{section}.options.{at[0]}", no_such_file(path)


def no_such_file(path: Path) -> InputError:
    """The error for a data file that is not there."""
    return InputError(
        "no such file",
        where=str(path),
        hint=f"relative paths start at the current directory, {Path.cwd()}",
        error_id="INPUT-FILE",
    )


def _paths(section: str, choice: PluginChoice) -> dict[Any, Path]:
    """Paths among the options of a part; none where the part or its options are wrong."""
    if _GROUPS[section] == registry.QUANTIZERS:
        return {}  # importing one needs torch
    try:
        cls = registry.load(_GROUPS[section], choice.name)
        return paths_in(choice.options, _part_if_sound("", choice.name, cls, choice.options).config)
    except (PluginError, ValidationError):
        return {}


def _part_faults(loaded: LoadedProfile) -> Iterator[tuple[str, AmaqError]]:
    _, error = look_up(loaded, _load_light, _part_if_sound)
    if isinstance(error, PluginError):  # whether other faults stand beside it, options tell
        _, error = look_up(loaded, _load, _made)
    if error is not None:
        yield "", error


def _load_light(group: str, name: str) -> Any:
    """The part; None for a quantizer that there is, since importing one needs torch."""
    registry.find(group, name)
    return None if group == registry.QUANTIZERS else registry.load(group, name)


def _load(group: str, name: str) -> Any:
    if group != registry.QUANTIZERS:
        return registry.load(group, name)
    from amaqctl.quantizer import load_quantizer

    return load_quantizer(name)


def _made(group: str, name: str, cls: Any, options: dict[str, Any]) -> Any:
    if group != registry.QUANTIZERS:
        return _part_if_sound(group, name, cls, options)
    from amaqctl.quantizer import resolve_quantizer

    return resolve_quantizer(name, options)


def _part_if_sound(_: str, name: str, cls: Any, options: dict[str, Any]) -> Part:
    """The part; what a stranger's own code does wrong is told when it is built."""
    try:
        return Part(name, cls, cls.Config(**options))
    except ValidationError:
        raise
    except Exception:
        return Part(name, cls, None)


def look_up(
    loaded: LoadedProfile,
    load: Callable[[str, str], Any],
    make: Callable[[str, str, Any, dict[str, Any]], Any],
) -> tuple[dict[str, Any], AmaqError | None]:
    """Look up every named part and validate its options; all faults are gathered.

    Args:
        load: a part's class by group and name; None where it is not to be imported.
        make: the part by group, name, class and options.

    Returns:
        The parts by section, and an error of all faults: a ``PluginError`` where names, also in
        the options of quantizers, are unknown, broken or ambiguous and nothing else is wrong,
        else a ``ProfileError``.
    """
    problems: list[Problem] = []
    unknown: list[tuple[PluginError, Problem]] = []
    found: dict[str, Any] = {}
    for section, choice in choices(loaded.profile).items():
        group = _GROUPS[section]
        try:
            cls = load(group, choice.name)
            if cls is not None:
                found[section] = make(group, choice.name, cls, choice.options)
        except PluginError as error:
            unknown.append(_unknown(loaded, f"{section}.name", error))
        except ValidationError as error:
            inner = _inner_plugin_errors(error) if group == registry.QUANTIZERS else []
            if inner and len(inner) == error.error_count():
                unknown += [_unknown(loaded, f"{section}.options.{at}", e) for at, e in inner]
                continue
            known = cls.Config.model_fields
            problems += loaded.option_problems(section, error, known, choice.name)
    if problems:
        return found, profile_error([*problems, *(problem for _, problem in unknown)])
    return found, _plugin_error(unknown) if unknown else None


def _inner_plugin_errors(error: ValidationError) -> list[tuple[str, PluginError]]:
    from amaqctl.quantizer.choice import inner_plugin_errors  # options were checked: it is there

    return inner_plugin_errors(error)


def _unknown(loaded: LoadedProfile, path: str, error: PluginError) -> tuple[PluginError, Problem]:
    """A name that cannot be had, at its place: as the only fault, and as one of several."""
    place = loaded.problem_at(path, error.message)
    alone = PluginError(str(place), problems=[place], hint=error.hint, error_id=error.error_id)
    hint = f" ({error.hint})" if error.hint else ""
    return alone, replace(place, message=f"{place.message}{hint}")


def _plugin_error(unknown: Sequence[tuple[PluginError, Problem]]) -> PluginError:
    """One error for names that cannot be had."""
    first = unknown[0][0]
    if len(unknown) == 1:
        return first
    return PluginError(
        f"{len(unknown)} faults; the first: {first.message}",
        problems=[problem for _, problem in unknown],
        error_id=first.error_id,
    )
