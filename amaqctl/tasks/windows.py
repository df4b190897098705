"""Language modelling: documents joined into one token stream and cut into windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from amaqctl.errors import InputError
from amaqctl.tasks.encode import (
    beginning_ids,
    end_id,
    kept_as_it_is,
    token_ids,
    without_blank_behind_end,
)
from amaqctl.tasks.task import Example, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_CHARACTERS = 2**20


def token_stream(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]
) -> tuple[list[int], tuple[str, ...]]:
    """The tokens of all documents, each closed by one end-of-sequence token, and warnings."""
    end = end_id(tokenizer)
    stream: list[int] = []
    was_closed = False
    for document in documents:
        ids: tuple[int, ...] = ()
        for part in _parts(without_blank_behind_end(tokenizer, document)):
            ids = token_ids(tokenizer, part)
            stream.extend(ids)
        if ids[-1:] == (end,):
            was_closed = True
        else:
            stream.append(end)
    warning = kept_as_it_is(tokenizer.eos_token, "a document ends in")
    return stream, (warning,) if was_closed else ()


def _parts(document: str) -> Iterator[str]:
    """A document in parts that are tokenized apart: a tokenizer takes 200 bytes for each token.

    A part ends with the last line, or word, that fits; there a tokenizer would cut, too.
    """
    start = 0
    while len(document) - start > _MOST_CHARACTERS:
        end = start + _MOST_CHARACTERS
        cut = max(document.rfind("\n", start, end), 0) or max(
            document.rfind(" ", start, end) - 1, 0
        )
        cut = cut + 1 if cut >= start + _MOST_CHARACTERS // 2 else end
        yield document[start:cut]
        start = cut
    yield document[start:]


def cut_windows(
    tokenizer: PreTrainedTokenizerBase, stream: list[int], *, max_length: int
) -> list[Example]:
    """Windows of ``max_length`` tokens that do not overlap; the last may be shorter.

    Where the tokenizer begins texts with a special token, every window begins with it, as the
    model expects; one that does already gets no second. All tokens are labels; the first of a
    window has nothing before it and so carries no loss. A last window with no loss token at all
    is left out: of the whole stream that is one token.

    Raises:
        InputError: ``max_length`` leaves no room for a token that carries loss.
    """
    if max_length < 2:
        raise InputError(
            f"a window of {max_length} token has nothing to predict",
            where="train.max_length",
            hint="raise train.max_length",
            error_id="INPUT-NO-LOSS",
        )
    put = beginning_ids(tokenizer)
    examples: list[Example] = []
    start = 0
    while start < len(stream):
        beginning = () if (stream[start],) == put else put
        end = start + max_length - len(beginning)
        window = beginning + tuple(stream[start:end])
        start = end
        if len(window) >= 2:
            examples.append(Example(sample_id=len(examples), input_ids=window, labels=window))
    return examples


def windows_of(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[str], *, max_length: int, place: str
) -> Split:
    """``token_stream`` and ``cut_windows`` in one; raises as they do."""
    stream, warnings = token_stream(tokenizer, documents)
    examples = cut_windows(tokenizer, stream, max_length=max_length)
    return Split(examples, place, warnings=warnings)
