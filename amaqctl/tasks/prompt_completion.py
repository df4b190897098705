"""Prompt and completion from two columns; loss on the completion and the closing token only.

With ``generate`` the score is exact match of generated answers, without it perplexity.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from amaqctl.errors import InputError
from amaqctl.tasks.answers import after_marker, normalise
from amaqctl.tasks.encode import Pair, Truncation, encode_pairs, end_id
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
        train, validation, train_place, validation_place = load_rows(self.config)
        return self._encode(train, train_place), self._encode(validation, validation_place)

    def is_match(self, example: Example, generated_text: str) -> bool:
        """Whether the text behind the marker equals the reference; False without a marker."""
        marker = self.config.generate.answer_after if self.config.generate else None
        if marker is None:
            return super().is_match(example, generated_text)
        found = after_marker(generated_text, marker)
        return found is not None and normalise(found) == normalise(example.answer or "")

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
        generate = self.config.generate
        if generate is None or generate.answer_after is None:
            return completion if generate else None
        answer = after_marker(completion, generate.answer_after)
        if not answer:
            raise InputError(
                f"column '{self.config.completion}' has no answer after '{generate.answer_after}'",
                where=place,
                hint="correct the row or task.options.generate.answer_after",
                error_id="INPUT-ANSWER",
            )
        return answer
