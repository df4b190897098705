"""Language modelling: documents joined into one token stream and cut into windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from amaqctl.errors import InputError
from amaqctl.tasks.encode import beginning_ids, end_id, token_ids
from amaqctl.tasks.task import Example, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_stream(tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]) -> list[int]:
    """The tokens of all documents, each closed by the end-of-sequence token."""
    end = end_id(tokenizer)
    stream: list[int] = []
    for document in documents:
        stream.extend(token_ids(tokenizer, document))
        stream.append(end)
    return stream


def cut_windows(
    tokenizer: PreTrainedTokenizerBase, stream: list[int], *, max_length: int
) -> list[Example]:
    """Windows of ``max_length`` tokens that do not overlap; the last may be shorter.

    Where the tokenizer begins texts with a special token, every window begins with it, as the
    model expects. All tokens are labels; the first of a window has nothing before it and so
    carries no loss. A last window with no loss token at all is left out: of the whole stream
    that is one token.

    Raises:
        InputError: ``max_length`` leaves no room for a token that carries loss.
    """
    beginning = beginning_ids(tokenizer)
    step = max_length - len(beginning)
    if max_length < 2:
        raise InputError(
            f"a window of {max_length} token has nothing to predict",
            where="train.max_length",
            hint="raise train.max_length",
            error_id="INPUT-NO-LOSS",
        )
    examples: list[Example] = []
    for start in range(0, len(stream), step):
        window = beginning + tuple(stream[start : start + step])
        if len(window) >= 2:
            examples.append(Example(sample_id=len(examples), input_ids=window, labels=window))
    return examples


def windows_of(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[str], *, max_length: int, place: str
) -> Split:
    """``token_stream`` and ``cut_windows`` in one; raises as they do."""
    stream = token_stream(tokenizer, documents)
    return Split(cut_windows(tokenizer, stream, max_length=max_length), place)
