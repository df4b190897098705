"""Options that all tasks over files share, and how a file becomes train and validation rows."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from amaqctl.errors import InputError
from amaqctl.paths import FilePath, shown
from amaqctl.tasks.groups import choose_groups
from amaqctl.tasks.rows import Row, read_rows
from amaqctl.tasks.task import Task

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Limit = Annotated[int, Field(ge=1)]


class FileConfig(Task.Config):
    """Where the rows are, and how many of them to use."""

    train: FilePath = Field(
        description="data file: .jsonl or .json (one object a line), or .csv with a header; "
        "a relative path starts at the current directory",
    )
    validation: FilePath | Fraction = Field(
        default=0.05,
        description="a second data file, or the fraction of train rows to hold out; which rows "
        "depends on their content alone, not on the seed or their order",
    )
    train_limit: Limit | None = Field(
        default=None, description="use only the first so many train rows; null for all"
    )
    validation_limit: Limit | None = Field(
        default=None, description="use only the first so many validation rows; null for all"
    )


@dataclass(frozen=True)
class LoadedRows:
    """Rows of both sides, the place that messages name for each, and what the user should know."""

    train: list[Row]
    validation: list[Row]
    train_place: str
    validation_place: str
    warnings: tuple[str, ...]


def load_rows(config: FileConfig, columns: Sequence[str]) -> LoadedRows:
    """Read the files, or hold some rows out of the one.

    Args:
        columns: those that the task reads; rows are equal where these are.

    Raises:
        InputError: a file cannot be used, or holding out leaves no train row.
    """
    train = shown(config.train)
    rows = read_rows(train, columns)
    warnings: tuple[str, ...] = ()
    if isinstance(config.validation, str):
        validation = shown(config.validation)
        held_out, place = read_rows(validation, columns), str(validation)
    else:
        rows, held_out, warnings = hold_out(rows, config.validation, str(train), columns)
        place = f"{train} ({config.validation:g} held out)"
    return LoadedRows(
        rows[: config.train_limit],
        held_out[: config.validation_limit],
        str(train),
        place,
        warnings,
    )


def hold_out(
    rows: Sequence[Row], fraction: float, place: str, columns: Sequence[str] = ()
) -> tuple[list[Row], list[Row], tuple[str, ...]]:
    """Split off about ``fraction`` of ``rows``, at least one: (rest, held out, warnings).

    Rows are ranked by a hash of their content, so adding rows to the file moves few of the
    others. Rows that are equal in ``columns`` (in all, if none are named) stay on one side, so
    no validation row is trained on; the fraction is met as near as such groups allow. The order
    is kept.

    Raises:
        InputError: nothing is left to train on, or a row lacks one of ``columns``.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        read = {column: row.value(column) for column in columns}
        groups[_digest(read or row.values)].append(index)
    if len(groups) < 2:
        raise InputError(
            f"holding out {fraction:g} of {len(rows)} {'equal ' if len(rows) > 1 else ''}rows "
            "leaves none to train on",
            where=place,
            hint="give other rows too, or a file as task.options.validation",
            error_id="INPUT-EMPTY",
        )
    num_wanted = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    ranked = sorted(groups.values(), key=lambda group: min(_digest(rows[i].values) for i in group))
    chosen = choose_groups([len(group) for group in ranked], num_wanted)
    held = {index for number in chosen for index in ranked[number]}
    rest = [row for index, row in enumerate(rows) if index not in held]
    warnings = _on_repeats(len(rows), len(groups), len(held), num_wanted)
    return rest, [row for index, row in enumerate(rows) if index in held], warnings


def _on_repeats(num_rows: int, num_groups: int, num_held: int, num_wanted: int) -> tuple[str, ...]:
    if num_groups == num_rows:
        return ()
    missed = "" if num_held == num_wanted else f", not the {num_wanted:,} asked for"
    return (
        f"{num_rows - num_groups:,} of {num_rows:,} rows repeat another; equal rows stay on one "
        f"side, so {num_held:,} are held out{missed}",
    )


def _digest(values: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
