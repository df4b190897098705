"""Classification: the model continues a prompt with the text of a label.

Trained with loss on the label's tokens only. Scored without generating: the label whose first
token is likeliest at the last prompt position wins, so first tokens must differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from amaqctl.errors import InputError
from amaqctl.nearest import listed
from amaqctl.tasks.encode import Pair, Truncation, encode_pairs, token_ids
from amaqctl.tasks.files import FileConfig, load_rows
from amaqctl.tasks.rows import Row
from amaqctl.tasks.task import Metric, Split, Task


def _spelled(value: Any) -> Any:
    """Whole numbers and booleans as JSON spells them; anything else as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


Label = Annotated[str, BeforeValidator(_spelled)]


class ClassificationTask(Task):
    """One example a row: the filled template, the separator, the label's text."""

    class Config(FileConfig):
        """Options of the task ``classification``."""

        text: str | tuple[str, ...] = Field(
            default="text", description="column with the text; several are joined by newlines"
        )
        label: str = Field(
            default="label",
            description="column with the label; whole numbers and booleans count as their "
            "JSON spelling",
        )
        labels: tuple[Label, ...] | None = Field(
            default=None,
            description="all labels, in the order of reports; null sorts those in train; whole "
            "numbers and booleans count as in the column",
        )
        verbalizers: dict[str, str] = Field(
            default_factory=dict,
            description="text the model is to write for a label, where not the label itself",
        )
        template: str = Field(
            default="{text}\nAnswer:",
            description="text before the label; {text} stands for the text columns",
        )
        separator: str = Field(
            default=" ",
            description="what joins template and label; '' for tokenizers that put the space "
            "before a word by themselves",
        )
        truncation: Truncation = Field(
            default="drop",
            description="a row longer than train.max_length is dropped, or its prompt is cut "
            "on the left; the label is never cut",
        )

        @field_validator("template")
        @classmethod
        def _has_text(cls, template: str) -> str:
            if template.count("{text}") != 1:
                raise ValueError("must contain {text} exactly once")
            return template

        @field_validator("text")
        @classmethod
        def _has_columns(cls, text: str | tuple[str, ...]) -> str | tuple[str, ...]:
            if not text:
                raise ValueError("must name at least one column")
            return text

        @model_validator(mode="after")
        def _labels_are_distinct(self) -> ClassificationTask.Config:
            if self.labels is not None:
                if len(self.labels) < 2:
                    raise ValueError("labels holds fewer than two labels")
                if len(set(self.labels)) != len(self.labels):
                    raise ValueError("labels holds the same label twice")
                unknown = sorted(set(self.verbalizers) - set(self.labels))
                if unknown:
                    raise ValueError(f"verbalizers names '{unknown[0]}', which is not in labels")
            return self

    config: Config
    metric: Metric = "accuracy"

    def load(self) -> tuple[Split, Split]:
        """Read the rows, settle the labels and tokenize; see ``Task``."""
        columns = (self.config.text,) if isinstance(self.config.text, str) else self.config.text
        rows = load_rows(self.config, (*columns, self.config.label))
        self.labels = self._settle_labels(rows.train, rows.train_place)
        self.choice_token_ids = self._first_tokens()
        train = self._encode(rows.train, rows.train_place)
        validation = self._encode(rows.validation, rows.validation_place)
        return replace(train, warnings=(*rows.warnings, *train.warnings)), validation

    def _settle_labels(self, rows: list[Row], place: str) -> tuple[str, ...]:
        if self.config.labels is not None:
            return self.config.labels
        labels = tuple(sorted({_label(row, self.config.label) for row in rows}))
        if len(labels) < 2:
            raise InputError(
                f"every train row has the label '{labels[0]}'",
                where=place,
                hint="set task.options.labels, or give rows of other labels",
                error_id="INPUT-LABEL",
            )
        unknown = sorted(set(self.config.verbalizers) - set(labels))
        if unknown:
            raise InputError(
                f"verbalizers names '{unknown[0]}', but train has the labels {_listed(labels)}",
                where="task.options.verbalizers",
                hint="correct the name or set task.options.labels",
                error_id="INPUT-LABEL",
            )
        return labels

    def _continuation(self, label: str) -> str:
        return self.config.separator + self.config.verbalizers.get(label, label)

    def _first_tokens(self) -> tuple[int, ...]:
        taken: dict[int, str] = {}
        for label in self.labels:
            ids = token_ids(self.tokenizer, self._continuation(label))
            if not ids:
                raise InputError(
                    f"the text of label '{label}' tokenizes to nothing",
                    where="task.options.verbalizers",
                    hint="give the label a text in task.options.verbalizers",
                    error_id="INPUT-LABEL",
                )
            other = taken.setdefault(ids[0], label)
            if other != label:
                raise self._collision(other, label, ids[0])
        return tuple(taken)

    def _collision(self, first: str, second: str, token: int) -> InputError:
        token_text = self.tokenizer.convert_ids_to_tokens(token)
        return InputError(
            f"labels '{first}' and '{second}' begin with the same token '{token_text}' and "
            "could not be told apart",
            where="task.options.labels",
            hint="set task.options.verbalizers to texts with different first tokens"
            + ("; if all labels begin alike, set separator to ''" if self.config.separator else ""),
            error_id="INPUT-LABEL",
        )

    def _encode(self, rows: list[Row], place: str) -> Split:
        return encode_pairs(
            (self._pair(row) for row in rows),
            self.tokenizer,
            max_length=self.max_length,
            truncation=self.config.truncation,
            ending=(),
            place=place,
        )

    def _pair(self, row: Row) -> Pair:
        columns = (self.config.text,) if isinstance(self.config.text, str) else self.config.text
        text = "\n".join(row.text(column) for column in columns)
        label = _label(row, self.config.label)
        if label not in self.labels:
            raise InputError(
                f"label '{label}' is not one of {_listed(self.labels)}",
                where=row.place,
                hint="add it to task.options.labels or correct the row",
                error_id="INPUT-LABEL",
            )
        prompt = self.config.template.replace("{text}", text)
        return Pair(
            prompt,
            self._continuation(label),
            row.place,
            answer=label,
            choice=self.labels.index(label),
        )


def _label(row: Row, column: str) -> str:
    value = row.value(column)
    return str(_spelled(value)) if isinstance(value, int) else row.text(column)


def _listed(labels: tuple[str, ...]) -> str:
    return listed(f"'{label}'" for label in labels)
