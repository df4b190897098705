"""Language modelling over the user's own text: plain files, or one column of data files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from amaqctl.errors import InputError
from amaqctl.nearest import listed
from amaqctl.paths import FilePath, shown
from amaqctl.tasks.data_text import read_text
from amaqctl.tasks.files import Fraction, Limit
from amaqctl.tasks.rows import ROW_SUFFIXES, read_rows
from amaqctl.tasks.task import Example, Metric, Split, Task
from amaqctl.tasks.windows import windows_of

Paths = FilePath | Annotated[tuple[FilePath, ...], Field(min_length=1)]


class TextTask(Task):
    """Windows of ``max_length`` tokens over all documents, scored by perplexity.

    A document is a plain file or one row; each is closed by the end-of-sequence token.
    """

    class Config(Task.Config):
        """Options of the task ``text``."""

        train: Paths = Field(
            description="plain text file, or .jsonl, .json or .csv with a column of text; "
            "a list joins several; a relative path starts at the current directory"
        )
        validation: Fraction | Paths = Field(
            default=0.05,
            description="further files, or the fraction of the windows, taken at the end, to "
            "hold out",
        )
        column: str | None = Field(
            default=None, description="column that holds the text; null for plain text files"
        )
        train_limit: Limit | None = Field(
            default=None, description="use only the first so many train windows; null for all"
        )
        validation_limit: Limit | None = Field(
            default=None, description="use only the first so many validation windows; null for all"
        )

    config: Config
    metric: Metric = "perplexity"

    def load(self) -> tuple[Split, Split]:
        """Read the files, tokenize and cut them; see ``Task``."""
        validation = self.config.validation
        train = self._windows(self.config.train)
        if isinstance(validation, float):
            kept, held_out = _hold_out(list(train.examples), validation, train.place)
            train = replace(train, examples=kept)
            # The rows came before the split, so they are counted once, with train.
            other = Split(held_out, f"{train.place} ({validation:g} held out)")
        else:
            other = self._windows(validation)
        return (
            replace(train, examples=train.examples[: self.config.train_limit]),
            replace(other, examples=other.examples[: self.config.validation_limit]),
        )

    def _windows(self, paths: str | tuple[str, ...]) -> Split:
        documents: list[str] = []
        for path in _as_tuple(paths):
            documents.extend(_documents(shown(path), self.config.column))
        filled = [document for document in documents if document.strip()]
        num_blank = len(documents) - len(filled)
        made = windows_of(
            self.tokenizer,
            filled,
            max_length=self.max_length,
            place=", ".join(str(shown(path)) for path in _as_tuple(paths)),
        )
        return replace(made, num_dropped={"blank rows": num_blank} if num_blank else {})


def _documents(path: Path, column: str | None) -> list[str]:
    has_rows = path.suffix.lower() in ROW_SUFFIXES
    if has_rows and column is None:
        raise InputError(
            f"which column of the {path.suffix} file holds the text is not set",
            where=str(path),
            hint=f"set task.options.column to one of: {listed(read_rows(path)[0].values)}",
            error_id="INPUT-COLUMN",
        )
    if has_rows:
        assert column is not None
        return [row.text(column, may_be_blank=True) for row in read_rows(path, (column,))]
    if column is not None:
        raise InputError(
            f"a plain text file has no column '{column}'",
            where=str(path),
            hint=f"set task.options.column to null, or give {', '.join(ROW_SUFFIXES)}",
            error_id="INPUT-COLUMN",
        )
    return [read_text(path)]


def _hold_out(
    windows: list[Example], fraction: float, place: str
) -> tuple[list[Example], list[Example]]:
    num_held_out = max(1, round(fraction * len(windows)))
    num_train = len(windows) - num_held_out
    if num_train < 1 and windows:
        raise InputError(
            f"holding out {fraction:g} of {len(windows)} windows leaves none to train on",
            where=place,
            hint="give more text, a smaller train.max_length, or files as task.options.validation",
            error_id="INPUT-EMPTY",
        )
    held_out = [
        Example(sample_id=index, input_ids=window.input_ids, labels=window.labels)
        for index, window in enumerate(windows[num_train:])
    ]
    return windows[:num_train], held_out


def _as_tuple(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths
