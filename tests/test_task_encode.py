"""Tokens and masks by hand, with a tokenizer whose ids are byte values; other tests share it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import amaqctl.tasks.encode as encode_module
from amaqctl.errors import InputError
from amaqctl.tasks.encode import Pair, beginning_ids, encode_pairs, end_id, token_ids
from amaqctl.tasks.task import Example

EOS, PAD, BOS = 256, 257, 258
NONE = -100


def byte_tokenizer(*, begins: bool = False, ends: bool = True) -> Any:
    """Byte-level: the id of a byte is its value. ``begins``: texts start with BOS."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    vocab = {chr(byte): byte for byte in kept}
    vocab |= {chr(256 + position): byte for position, byte in enumerate(moved)}
    vocab |= {"<eos>": EOS, "<pad>": PAD, "<bos>": BOS}
    bare = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    if begins:
        bare.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    special = {"pad_token": "<pad>", "bos_token": "<bos>"} | (
        {"eos_token": "<eos>"} if ends else {}
    )
    return PreTrainedTokenizerFast(tokenizer_object=bare, **special)


PLAIN = byte_tokenizer()
BEGINNING = byte_tokenizer(begins=True)


def encode(*pairs: Pair, tokenizer: Any = PLAIN, **changes: Any) -> Any:
    settings = {"max_length": 64, "truncation": "drop", "ending": (EOS,), "place": "here"}
    return encode_pairs(pairs, tokenizer, **(settings | changes))


def test_token_ids_adds_nothing() -> None:
    assert token_ids(PLAIN, "é a") == (0xC3, 0xA9, 32, 97)
    assert token_ids(BEGINNING, "ab") == (97, 98)


def test_beginning_is_put_only_where_the_tokenizer_puts_it() -> None:
    assert beginning_ids(PLAIN) == ()
    assert beginning_ids(BEGINNING) == (BOS,)


def test_a_text_longer_than_the_model_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 3
    assert token_ids(tokenizer, "abcde") == (97, 98, 99, 100, 101)
    assert caplog.records == []


def test_one_pair_by_hand() -> None:
    split = encode(Pair("ab", "cd", "f:1", answer="cd", choice=1))
    assert split.examples == [
        Example(
            sample_id=0,
            input_ids=(97, 98, 99, 100, EOS),
            labels=(NONE, NONE, 99, 100, EOS),
            answer="cd",
            prompt_length=2,
            choice=1,
        )
    ]
    assert split.num_dropped == {}
    assert split.examples[0].num_loss_tokens == 3


def test_beginning_token_counts_as_prompt() -> None:
    (example,) = encode(Pair("a", "b", "f:1"), tokenizer=BEGINNING).examples
    assert example.input_ids == (BOS, 97, 98, EOS)
    assert example.labels == (NONE, NONE, 98, EOS)
    assert example.prompt_length == 2


def test_no_ending() -> None:
    (example,) = encode(Pair("a", "b", "f:1"), ending=()).examples
    assert example.input_ids == (97, 98)
    assert example.labels == (NONE, 98)


def test_too_long_is_dropped_counted_and_leaves_no_gap_in_the_ids() -> None:
    fits, too_long = Pair("abc", "d", "f:1"), Pair("abcd", "e", "f:2")
    split = encode(fits, too_long, fits, max_length=5)
    assert [e.sample_id for e in split.examples] == [0, 1]
    assert split.examples[0].input_ids == (97, 98, 99, 100, EOS)
    assert split.num_dropped == {"longer than 5 tokens": 1}


def test_left_truncation_keeps_the_completion_whole() -> None:
    split = encode(Pair("abcdef", "gh", "f:1"), max_length=5, truncation="left")
    assert split.examples[0].input_ids == (101, 102, 103, 104, EOS)
    assert split.examples[0].labels == (NONE, NONE, 103, 104, EOS)
    assert split.num_dropped == {}


def test_left_truncation_keeps_the_beginning_token() -> None:
    split = encode(
        Pair("abcdef", "gh", "f:1"), tokenizer=BEGINNING, max_length=5, truncation="left"
    )
    assert split.examples[0].input_ids == (BOS, 102, 103, 104, EOS)


def test_left_truncation_drops_when_no_prompt_token_fits() -> None:
    split = encode(Pair("ab", "cdef", "f:1"), max_length=5, truncation="left")
    assert split.examples == []
    assert split.num_dropped == {"longer than 5 tokens": 1}


@pytest.mark.parametrize("pair, part", [(Pair("", "a", "f:7"), "prompt"),
                                        (Pair("a", "", "f:7"), "completion")])  # fmt: skip
def test_nothing_to_tokenize_is_refused(pair: Pair, part: str) -> None:
    with pytest.raises(InputError) as caught:
        encode(pair)
    assert str(caught.value) == f"f:7: the {part} tokenizes to nothing"
    assert caught.value.error_id == "INPUT-EMPTY"
    assert caught.value.hint == "remove the row or fill it"


def test_a_tokenizer_without_an_end_is_refused() -> None:
    assert end_id(PLAIN) == EOS
    with pytest.raises(InputError) as caught:
        end_id(byte_tokenizer(ends=False))
    assert str(caught.value) == "model.id: the tokenizer has no end-of-sequence token"
    assert caught.value.exit_code == 4


BOS_WARNING = "where a prompt begins with '<bos>' already, no second one is added"
EOS_WARNING = "where a completion ends in '<eos>' already, no second one is added"


@pytest.mark.parametrize(
    "prompt, completion, tokenizer, ids, warnings",
    [
        ("<bos>a", "b", BEGINNING, (BOS, 97, 98, EOS), (BOS_WARNING,)),
        ("<bos>a", "b", PLAIN, (BOS, 97, 98, EOS), ()),
        ("<bos><bos>a", "b", BEGINNING, (BOS, BOS, 97, 98, EOS), (BOS_WARNING,)),
        ("a", "b<eos>", PLAIN, (97, 98, EOS), (EOS_WARNING,)),
        ("a", "b<eos>\n ", PLAIN, (97, 98, EOS), (EOS_WARNING,)),
        ("a", "b<eos><eos>", PLAIN, (97, 98, EOS, EOS), (EOS_WARNING,)),
        ("a", "<eos>", PLAIN, (97, EOS), (EOS_WARNING,)),
        ("a<eos>", "b<pad>", PLAIN, (97, EOS, 98, PAD, EOS), ()),
        ("<bos>a", "<bos>b<eos>", BEGINNING, (BOS, 97, BOS, 98, EOS), (EOS_WARNING, BOS_WARNING)),
    ],
)
def test_special_tokens_of_the_text_are_not_added_again(
    prompt: str, completion: str, tokenizer: Any, ids: tuple[int, ...], warnings: tuple[str, ...]
) -> None:
    pairs = [Pair(prompt, completion, "f:1")] * 2
    split = encode(*pairs, tokenizer=tokenizer)
    assert [example.input_ids for example in split.examples] == [ids, ids]
    assert split.warnings == tuple(sorted(warnings))


def test_left_truncation_keeps_the_text_s_own_beginning_token() -> None:
    pair = Pair("<bos>abcdef", "gh", "f:1")
    for tokenizer in (PLAIN, BEGINNING):
        split = encode(pair, tokenizer=tokenizer, max_length=5, truncation="left")
        assert split.examples[0].input_ids == (BOS, 102, 103, 104, EOS)


def test_where_nothing_closes_the_text_its_end_token_stays() -> None:
    (example,) = encode(Pair("a", "b<eos>\n", "f:1"), ending=()).examples
    assert example.input_ids == (97, 98, EOS, 10)


def test_text_far_too_long_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer()
    seen: list[int] = []
    monkeypatch.setattr(
        encode_module, "token_ids", lambda t, text: seen.append(len(text)) or token_ids(t, text)
    )
    long = Pair("a" * 100_000, "b", "f:1")
    split = encode(long, tokenizer=tokenizer, max_length=4)
    assert (split.num_dropped, seen) == ({"longer than 4 tokens": 1}, [])
    split = encode(long, tokenizer=tokenizer, max_length=4, truncation="left")
    assert split.examples[0].input_ids == (97, 97, 98, EOS)
    assert seen == [4000, 1]


texts = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=20)


@settings(deadline=None)
@given(prompt=texts, completion=texts, begins=st.booleans())
def test_the_mask_covers_exactly_completion_and_end(
    prompt: str, completion: str, begins: bool
) -> None:
    split = encode(
        Pair(prompt, completion, "f:1"),
        tokenizer=BEGINNING if begins else PLAIN,
        max_length=1000,
    )
    (example,) = split.examples
    expected = [*completion.encode(), EOS]
    carries = [i for i, label in enumerate(example.labels) if label != NONE]
    assert carries == list(range(example.prompt_length, len(example.input_ids)))
    assert [example.labels[i] for i in carries] == expected
    head = [BOS] if begins else []
    assert list(example.input_ids) == [*head, *prompt.encode(), *expected]
    assert example.num_loss_tokens == len(expected)
