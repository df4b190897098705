"""Loss, perplexity, accuracy and exact match through the cuts, quantizers in the path or not.

Legend: B batch, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from amaqctl.engine.engine import Boundary, Engine
from amaqctl.engine.look import Look
from amaqctl.engine.untrained import blamed_on_the_base
from amaqctl.errors import DivergedError
from amaqctl.tasks.batch import collate
from amaqctl.tasks.task import Example, Task

OnBatch = Callable[[int, int], None]


class Evaluator:
    """Scores a task's validation examples.

    Args:
        engine: the stages.
        task: examples and how they are scored.
        tokenizer: decodes generated tokens, and knows the end-of-text token, if there is one.
        pad_token_id: fills up rows.
        batch_size: rows at a time.
        max_examples: look at the first so many only; None for all.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        tokenizer: object,
        pad_token_id: int,
        *,
        batch_size: int,
        max_examples: int | None,
    ) -> None:
        self._engine = engine
        self._task = task
        self._tokenizer = tokenizer
        self._pad_id = pad_token_id
        self._batch_size = batch_size
        self.examples: Sequence[Example] = task.validation[:max_examples]

    def evaluate(
        self, step: int, boundary: Boundary, on_batch: OnBatch | None = None
    ) -> dict[str, float]:
        """Metrics of the validation examples.

        Args:
            step: steps trained so far, told to quantizers.
            boundary: quantizers in the path, or lossless messages.
            on_batch: told how many batches are done, of how many.

        Returns:
            ``loss`` (nats a loss-carrying token) and ``perplexity``; ``accuracy`` or
            ``exact_match`` (0 to 1) where the task has them.

        Raises:
            DivergedError: a loss is not finite.
        """
        passes = 2 if self._task.metric == "exact_match" else 1
        total = passes * -(-len(self.examples) // self._batch_size)
        done = count(1)

        def tick() -> None:
            if on_batch is not None:
                on_batch(next(done), total)

        with self._engine.boundary(boundary), blamed_on_the_base(self._engine.stages, step):
            metrics = self._likelihood(step, tick)
            if self._task.metric == "exact_match":
                metrics["exact_match"] = self._exact_match(step, tick)
        return metrics

    def _likelihood(self, step: int, tick: Callable[[], None]) -> dict[str, float]:
        total_loss, num_tokens, num_right = 0.0, 0, 0
        for examples in self._batches(self.examples):
            batch = collate(examples, self._pad_id)
            seen = self._engine.look(
                self._likelihood_look(step, examples),
                batch.input_ids_BT,
                batch.labels_BT,
                lengths=batch.lengths,
                sample_ids=batch.sample_ids,
            )
            total_loss += seen.loss
            num_tokens += batch.num_loss_tokens
            num_right += sum(
                choice == example.choice
                for choice, example in zip(seen.choices, examples, strict=bool(seen.choices))
            )
            tick()
        loss = total_loss / num_tokens
        if not math.isfinite(loss):
            raise DivergedError("the validation loss is not finite", where=f"step {step}")
        metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if self._task.metric == "accuracy":
            metrics["accuracy"] = num_right / len(self.examples)
        return metrics

    def _likelihood_look(self, step: int, examples: Sequence[Example]) -> Look:
        """The loss, and for a task with choices the likeliest of them after each prompt."""
        choices = tuple(self._task.choice_token_ids)
        ends = tuple(example.prompt_length - 1 for example in examples) if choices else ()
        return Look(step, wants_loss=True, choices=choices, choice_positions=ends)

    def _exact_match(self, step: int, tick: Callable[[], None]) -> float:
        matches = 0
        for examples in self._batches(self.examples):
            texts = self.generate(examples, step)
            matches += sum(map(self._task.is_match, examples, texts))
            tick()
        return matches / len(self.examples)

    def generate(self, examples: Sequence[Example], step: int) -> list[str]:
        """Greedy continuation of each prompt through the cuts, as the task's ``text_of``.

        A key-value cache keeps what was computed for the tokens before.
        """
        prompts = [list(e.input_ids[: e.prompt_length]) for e in examples]
        longest = max(map(len, prompts))
        tokens_BT = torch.tensor([[self._pad_id] * (longest - len(p)) + p for p in prompts])
        lengths = [len(p) for p in prompts]
        is_done = torch.zeros(len(prompts), dtype=torch.bool)
        generated: list[Tensor] = []
        position = 0
        with self._engine.generation() as generation:
            for _ in range(self._task.max_new_tokens):
                seen = self._engine.look(
                    Look(step, generation, wants_next=True),
                    tokens_BT,
                    lengths=tuple(lengths),
                    left_padded=True,
                    first_position=position,
                )
                position += tokens_BT.shape[1]
                next_B = torch.tensor(seen.next_tokens)
                next_B = torch.where(is_done, torch.tensor(self._pad_id), next_B)
                if self._end_id is not None:
                    is_done |= next_B == self._end_id
                generated.append(next_B)
                if bool(is_done.all()):
                    break
                tokens_BT = next_B.unsqueeze(1)
                lengths = [n + 1 for n in lengths]
        return [self._task.text_of(row) for row in torch.stack(generated, 1).tolist()]

    def _batches(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        for start in range(0, len(examples), self._batch_size):
            yield examples[start : start + self._batch_size]

    @property
    def _end_id(self) -> int | None:
        """Where a continuation stops; without one it is as long as the task allows."""
        return self._tokenizer.eos_token_id  # type: ignore[attr-defined,no-any-return]
