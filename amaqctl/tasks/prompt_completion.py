"""Prompt and completion from two columns; loss on the completion and the closing token only.

With ``generate`` the score is exact match of generated answers, without it perplexity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, field_validator

from amaqctl.errors import InputError
from amaqctl.tasks.answers import after_marker, normalise
from amaqctl.tasks.encode import Pair, Truncation, encode_pairs, end_id, token_ids
from amaqctl.tasks.files import FileConfig, load_rows
from amaqctl.tasks.rows import Row
from amaqctl.tasks.task import Example, Metric, Split, Task


class Generate(BaseModel):
    """How answers are generated and found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(ge=1, description="most tokens to generate for one answer")
    answer_after: str | None = Field(
        default=None,
        min_length=1,
        description="marker before the answer, such as '####'; null compares the whole text",
    )


class PromptCompletionTask(Task):
    """One example a row: the filled template, then the completion, then end-of-sequence."""

    class Config(FileConfig):
        """Options of the task ``prompt-completion``."""

        prompt: str = Field(default="prompt", description="column with the prompt")
        completion: str = Field(default="completion", description="column with the completion")
        template: str = Field(
            default="{prompt}\n",
            description="text before the completion; {prompt} stands for the prompt column",
        )
        truncation: Truncation = Field(
            default="drop",
            description="a row longer than train.max_length is dropped, or its prompt is cut "
            "on the left; the completion is never cut",
        )
        generate: Generate | None = Field(
            default=None,
            description="score by exact match of generated answers; null scores by perplexity",
        )

        @field_validator("template")
        @classmethod
        def _has_prompt(cls, template: str) -> str:
            if template.count("{prompt}") != 1:
                raise ValueError("must contain {prompt} exactly once")
            return template

    config: Config
    metric: Metric = "perplexity"

    def load(self) -> tuple[Split, Split]:
        """Read the rows and tokenize them; see ``Task``."""
        if self.config.generate is not None:
            self.metric = "exact_match"
            self.max_new_tokens = self.config.generate.max_new_tokens
            self._check_marker(self.config.generate.answer_after)
        rows = load_rows(self.config, (self.config.prompt, self.config.completion))
        train = self._encode(rows.train, rows.train_place)
        validation = self._encode(rows.validation, rows.validation_place)
        return replace(train, warnings=(*rows.warnings, *train.warnings)), validation

    def text_of(self, token_ids: Sequence[int]) -> str:
        """As ``Task.text_of``; special tokens stay where a marker, which may hold some, is sought.

        They go from the answer behind it.
        """
        if self._marker is None:
            return super().text_of(token_ids)
        ids = list(token_ids)
        end = end_id(self.tokenizer)
        ids = ids[: ids.index(end)] if end in ids else ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def is_match(self, example: Example, generated_text: str) -> bool:
        """Whether the text behind the marker equals the reference; False without a marker."""
        if self._marker is None:
            return super().is_match(example, generated_text)
        found = self._behind_marker(generated_text)
        return found is not None and normalise(found) == normalise(example.answer or "")

    @property
    def _marker(self) -> str | None:
        return self.config.generate.answer_after if self.config.generate else None

    def _behind_marker(self, text: str) -> str | None:
        assert self._marker is not None
        found = after_marker(text, self._marker)
        return None if found is None else super().text_of(token_ids(self.tokenizer, found)).strip()

    def _check_marker(self, marker: str | None) -> None:
        if marker is not None and end_id(self.tokenizer) in token_ids(self.tokenizer, marker):
            raise InputError(
                f"the marker '{marker}' holds the end-of-sequence token, behind which nothing "
                "is generated",
                where="task.options.generate.answer_after",
                hint="choose another marker",
                error_id="INPUT-ANSWER",
            )

    def _encode(self, rows: list[Row], place: str) -> Split:
        return encode_pairs(
            (self._pair(row) for row in rows),
            self.tokenizer,
            max_length=self.max_length,
            truncation=self.config.truncation,
            ending=(end_id(self.tokenizer),),
            place=place,
        )

    def _pair(self, row: Row) -> Pair:
        completion = row.text(self.config.completion)
        prompt = self.config.template.replace("{prompt}", row.text(self.config.prompt))
        return Pair(prompt, completion, row.place, answer=self._answer(completion, row.place))

    def _answer(self, completion: str, place: str) -> str | None:
        """The reference in the form in which generated text is compared."""
        if self.config.generate is None:
            return None
        text = self.text_of(token_ids(self.tokenizer, completion))
        if self._marker is None:
            return text
        answer = self._behind_marker(text)
        if not answer:
            raise InputError(
                f"column '{self.config.completion}' has no answer after '{self._marker}'",
                where=place,
                hint="correct the row or task.options.generate.answer_after",
                error_id="INPUT-ANSWER",
            )
        return answer
