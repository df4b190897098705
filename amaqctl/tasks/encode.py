"""Text to token ids, and prompt-completion pairs to examples.

Prompt and completion are tokenized apart and then joined, so the loss mask is exact by
construction; nothing is searched for in the tokens afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from amaqctl.errors import InputError
from amaqctl.tasks.task import IGNORE_INDEX, Example, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Truncation = Literal["drop", "left"]


@dataclass(frozen=True)
class Pair:
    """One row as text. ``place`` is its file and line; the rest goes to the ``Example``."""

    prompt: str
    completion: str
    place: str
    answer: str | None = None
    choice: int | None = None


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The tokens of ``text`` alone, with no special token added."""
    # verbose=False: a text longer than the model is cut later, so the warning would mislead.
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)
    return tuple(int(token) for token in encoded["input_ids"])


def beginning_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The beginning-of-sequence token, if this tokenizer puts one by itself; else nothing."""
    ids = tokenizer("")["input_ids"]
    return (int(ids[0]),) if len(ids) and ids[0] == tokenizer.bos_token_id else ()


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The end-of-sequence token.

    Raises:
        InputError: the tokenizer has none, so a model could not learn where to stop.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the tokenizer has no end-of-sequence token",
            where="model.id",
            hint="set eos_token in the model folder's tokenizer_config.json",
            error_id="INPUT-TOKENIZER",
        )
    return int(tokenizer.eos_token_id)


def encode_pairs(
    pairs: Iterable[Pair],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    truncation: Truncation,
    ending: tuple[int, ...],
    place: str,
) -> Split:
    """Examples with loss on the completion and the ``ending`` tokens only.

    Pairs longer than ``max_length`` tokens are dropped and counted; with ``truncation="left"``
    the prompt first loses tokens at its start (never a beginning-of-sequence token), and only
    a pair whose completion leaves no room for one prompt token is dropped. ``sample_id`` counts
    the examples kept.

    Raises:
        InputError: a prompt or completion tokenizes to nothing.
    """
    beginning = beginning_ids(tokenizer)
    examples: list[Example] = []
    num_too_long = 0
    for pair in pairs:
        prompt = _ids_of_part(tokenizer, pair.prompt, "prompt", pair.place)
        completion = _ids_of_part(tokenizer, pair.completion, "completion", pair.place) + ending
        room = max_length - len(beginning) - len(completion)
        if len(prompt) > room and (truncation == "drop" or room < 1):
            num_too_long += 1
            continue
        prompt = beginning + prompt[-room:]
        examples.append(_example(len(examples), prompt, completion, pair))
    dropped = {f"longer than {max_length} tokens": num_too_long} if num_too_long else {}
    return Split(examples, place, dropped)


def _example(
    sample_id: int, prompt: tuple[int, ...], completion: tuple[int, ...], pair: Pair
) -> Example:
    return Example(
        sample_id=sample_id,
        input_ids=prompt + completion,
        labels=(IGNORE_INDEX,) * len(prompt) + completion,
        answer=pair.answer,
        prompt_length=len(prompt),
        choice=pair.choice,
    )


def _ids_of_part(
    tokenizer: PreTrainedTokenizerBase, text: str, part: str, place: str
) -> tuple[int, ...]:
    ids = token_ids(tokenizer, text)
    if not ids:
        raise InputError(
            f"the {part} tokenizes to nothing",
            where=place,
            hint="remove the row or fill it",
            error_id="INPUT-EMPTY",
        )
    return ids
