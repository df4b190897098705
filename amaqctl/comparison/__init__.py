"""Finished runs side by side: what must be equal between them, and seeds folded together.

Only quantizers, seed, description, output and checkpoints may differ, so that a difference in
bytes or loss is the quantizers' doing. Every group must have the same seeds: differences to the
reference are then taken seed by seed, on equal data order and equal first weights. Needs no torch.

How a data file is spelled does not count where the recorded fingerprints of the data are equal.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaqctl.comparison.finished_run import ROLES, FinishedRun, read_finished_run
from amaqctl.comparison.groups import Group, Spread, grouped, refuse_uneven_seeds
from amaqctl.engine.run_folder import DATA_FILES, RunFolder, find_run
from amaqctl.errors import InputError

__all__ = ["ROLES", "Comparison", "FinishedRun", "Group", "Spread", "compare_runs"]


@dataclass(frozen=True)
class Comparison:
    """Groups that may be compared.

    Args:
        groups: in the order in which their first runs were given.
        reference: one of them.
        settings: what is equal in all runs, by dotted key; spellings of data files left out
            where they differ.
        keys: numbers of the result that every run has.
    """

    groups: tuple[Group, ...]
    reference: Group
    settings: dict[str, Any]
    keys: tuple[str, ...]


def compare_runs(texts: Sequence[str], reference: str | None, root: Path) -> Comparison:
    """Read runs and fold them.

    Args:
        texts: runs as typed.
        reference: the run whose group is the reference; None is the first of ``texts``. One that
            is not among ``texts`` is put in front.
        root: where run folders are.

    Raises:
        InputError: a run is missing, unfinished or given twice; the runs differ in more than
            they may, all of it named; or the groups have different seeds.
        ProfileError: a run's profile cannot be read.
    """
    folders = [_folder(text, root) for text in texts]
    first = folders[0] if reference is None else _folder(reference, root)
    paths = [folder.path.resolve() for folder in folders]
    if first.path.resolve() not in paths:
        folders.insert(0, first)
    _refuse_repeated(folders)
    _refuse_unfinished(folders)
    runs = [read_finished_run(folder, title) for folder, title in _titled(folders)]
    differing = _differing(runs)
    _refuse_differences(runs, differing)
    groups = grouped(runs)
    refuse_uneven_seeds(groups)
    chosen = next(g for g in groups if any(run.path == first.path for run in g.runs))
    shared = set.intersection(*({*run.result} for run in runs))
    keys = tuple(key for key in runs[0].result if key in shared)
    settings = {k: v for k, v in runs[0].settings.items() if k not in differing}
    return Comparison(tuple(groups), chosen, settings, keys)


def _folder(text: str, root: Path) -> RunFolder:
    run = find_run(text, root)
    if run is None:
        raise InputError(
            f"there is no run '{text}'",
            hint="amaqctl runs lists them",
            error_id="INPUT-RUN",
        )
    return run


def _titled(folders: Sequence[RunFolder]) -> list[tuple[RunFolder, str]]:
    names = [folder.path.resolve().name for folder in folders]
    return [
        (folder, name if names.count(name) == 1 else str(folder.path))
        for folder, name in zip(folders, names, strict=True)
    ]


def _refuse_repeated(folders: Sequence[RunFolder]) -> None:
    paths = [folder.path.resolve() for folder in folders]
    twice = sorted({path.name for path in paths if paths.count(path) > 1})
    if twice:
        raise InputError(f"given twice: {', '.join(twice)}", error_id="INPUT-RUN")


def _refuse_unfinished(folders: Sequence[RunFolder]) -> None:
    unfinished = [
        f"{title} ({folder.run.get('status', 'status unknown')})"
        for folder, title in _titled(folders)
        if folder.run.get("status") != "done"
    ]
    if unfinished:
        raise InputError(
            f"only finished runs can be compared, these are not: {', '.join(unfinished)}",
            hint="finish them with `amaqctl train --resume RUN`, or leave them out",
            error_id="INPUT-UNFINISHED",
        )


def _differing(runs: Sequence[FinishedRun]) -> dict[str, dict[str, list[str]]]:
    """Titles by value, as shown, for each setting that is not the same in all runs."""
    found = {}
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        titles_by_value: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            titles_by_value[_shown(key, run.settings.get(key))].append(run.title)
        if len(titles_by_value) > 1:
            found[key] = dict(titles_by_value)
    return found


def _refuse_differences(
    runs: Sequence[FinishedRun], differing: dict[str, dict[str, list[str]]]
) -> None:
    found = []
    for key, titles_by_value in differing.items():
        if "data.fingerprint" not in differing and _names_data_files(key, runs):
            continue
        values = (f"{v} in {', '.join(t)}" for v, t in titles_by_value.items())
        found.append(f"{key}: {' but '.join(values)}")
    if found:
        raise InputError(
            f"the runs differ in more than quantizers and seed: {'; '.join(found)}",
            hint="compare runs of one profile that differ in `quantizers` and `train.seed` only",
            error_id="INPUT-DIFFERENT",
        )


def _names_data_files(key: str, runs: Sequence[FinishedRun]) -> bool:
    """Whether a setting is a path or paths in all runs, and not, say, a fraction to hold out."""
    values = [run.settings.get(key) for run in runs]
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return key in DATA_FILES and all(isinstance(name, str) for name in names)


def _shown(key: str, value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text[1:13] if key == "data.fingerprint" and text[0] == '"' else text
