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

_MOST_CHARACTERS_PER_TOKEN = 1000
"""No tokenizer has longer tokens on average: text beyond is too long without being tokenized."""


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


def with_beginning(
    tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What text starts with, and the rest of it: its own beginning-of-sequence token if it has
    one, else the token that this tokenizer puts by itself, else nothing."""
    if ids and ids[0] == tokenizer.bos_token_id:
        return ids[:1], ids[1:]
    return beginning_ids(tokenizer), ids


def without_blank_behind_end(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """``text``, less white space behind a closing end-of-sequence token: nothing comes after."""
    closed = text.rstrip()
    return closed if tokenizer.eos_token and closed.endswith(tokenizer.eos_token) else text


def kept_as_it_is(token: str, where: str) -> str:
    """The warning that text ``where`` has ``token`` already, so that none was added."""
    return f"where {where} '{token}' already, no second one is added"


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
    the examples kept. A beginning-of-sequence or ``ending`` token that the text has already is
    not added again, and ``Split.warnings`` says so.

    Raises:
        InputError: a prompt or completion tokenizes to nothing.
    """
    puts_beginning = bool(beginning_ids(tokenizer))
    examples: list[Example] = []
    warnings: set[str] = set()
    num_too_long = 0
    for pair in pairs:
        texts = _within_reason(pair, max_length, truncation)
        if texts is None:
            num_too_long += 1
            continue
        prompt = _ids_of_part(tokenizer, texts[0], "prompt", pair.place)
        beginning, rest = with_beginning(tokenizer, prompt)
        if puts_beginning and len(rest) < len(prompt):
            warnings.add(kept_as_it_is(tokenizer.bos_token, "a prompt begins with"))
        text = without_blank_behind_end(tokenizer, texts[1]) if ending else texts[1]
        completion = _ids_of_part(tokenizer, text, "completion", pair.place)
        if ending and completion[-len(ending) :] == ending:
            warnings.add(kept_as_it_is(tokenizer.eos_token, "a completion ends in"))
        else:
            completion += ending
        room = max_length - len(beginning) - len(completion)
        if len(rest) > room and (truncation == "drop" or room < 1):
            num_too_long += 1
            continue
        examples.append(_example(len(examples), beginning + rest[-room:], completion, pair))
    dropped = {f"longer than {max_length} tokens": num_too_long} if num_too_long else {}
    return Split(examples, place, dropped, tuple(sorted(warnings)))


def _within_reason(pair: Pair, max_length: int, truncation: Truncation) -> tuple[str, str] | None:
    """Prompt and completion, of which ``max_length`` tokens are left in any case; else None."""
    most = max_length * _MOST_CHARACTERS_PER_TOKEN
    prompt = pair.prompt if truncation == "drop" else pair.prompt[-most:]
    return (prompt, pair.completion) if len(prompt) + len(pair.completion) <= 2 * most else None


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
