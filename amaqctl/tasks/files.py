"""Options that all tasks over files share, and how a file becomes train and validation rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from amaqctl.errors import InputError
from amaqctl.tasks.rows import Row, read_rows
from amaqctl.tasks.task import Task

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Limit = Annotated[int, Field(ge=1)]


class FileConfig(Task.Config):
    """Where the rows are, and how many of them to use."""

    train: str = Field(
        min_length=1,
        description="data file: .jsonl or .json (one object a line), or .csv with a header; "
        "a relative path starts at the current directory",
    )
    validation: str | Fraction = Field(
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


def load_rows(config: FileConfig) -> tuple[list[Row], list[Row], str, str]:
    """Train rows, validation rows, and the place that messages name for each.

    Raises:
        InputError: a file cannot be used, or holding out leaves no train row.
    """
    rows = read_rows(Path(config.train))
    if isinstance(config.validation, str):
        held_out = read_rows(Path(config.validation))
        place = config.validation
    else:
        rows, held_out = hold_out(rows, config.validation, config.train)
        place = f"{config.train} ({config.validation:g} held out)"
    return (
        rows[: config.train_limit],
        held_out[: config.validation_limit],
        config.train,
        place,
    )


def hold_out(rows: Sequence[Row], fraction: float, place: str) -> tuple[list[Row], list[Row]]:
    """Split off about ``fraction`` of ``rows``, at least one: (rest, held out), order kept.

    Rows are ranked by a hash of their content. Equal rows therefore stay on one side, so no
    validation row is trained on, and adding rows to the file moves few of the others.

    Raises:
        InputError: nothing is left to train on.
    """
    digests = [_digest(row) for row in rows]
    num_held_out = max(1, round(fraction * len(rows)))
    chosen = set(sorted(digests)[:num_held_out])
    rest = [row for row, digest in zip(rows, digests, strict=True) if digest not in chosen]
    if not rest:
        raise InputError(
            f"holding out {fraction:g} of {len(rows)} rows leaves none to train on",
            where=place,
            hint="give a smaller fraction, more rows, or a file as task.options.validation",
            error_id="INPUT-EMPTY",
        )
    return rest, [row for row, digest in zip(rows, digests, strict=True) if digest in chosen]


def _digest(row: Row) -> bytes:
    return hashlib.sha256(json.dumps(row.values, sort_keys=True).encode()).digest()
