"""The model's tokenizer, left as it is, and its agreement with the model's embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from amaqctl.errors import InputError
from amaqctl.model.folder import check_folder, read_object
from amaqctl.model.reading import reading
from amaqctl.model.source import ModelSource

_HINT = "take the tokenizer files that belong to the model, or a newer release of tokenizers"
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
    "tiktoken.model",
)
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_SMALL_BYTES = 2**16
_TRIAL = "Try 1 + 1 = 2.\n\tÀ l'été 🙂"


def load_tokenizer(source: ModelSource) -> Any:
    """The model's tokenizer, unchanged; it is tried once on a line of text.

    Raises:
        InputError: it cannot be read, or reads no text.
    """
    check_folder(source)
    with reading(source, "tokenizer", _HINT):
        _check_content(source)
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder_or_hub_id, trust_remote_code=False, **source.hub_arguments
        )
        if not len(tokenizer):
            raise ValueError("it knows no token at all")
        tokenizer("")
        ids = tokenizer(_TRIAL, add_special_tokens=False)["input_ids"]
        tokenizer.decode(ids, skip_special_tokens=True)
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
            if token is not None and not isinstance(token, int):
                raise TypeError(f"a special token has the id {token!r}")
    return tokenizer


def _check_content(source: ModelSource) -> None:
    """What the library would say of other things, or in a page."""
    folder = Path(source.folder_or_hub_id)
    if not folder.is_dir():
        return
    if not any((folder / name).exists() for name in _VOCABULARIES):
        raise ValueError("there is no tokenizer.json, and no other file of a vocabulary")
    path = folder / "tokenizer.json"
    # Only what is too small to hold one: reading a whole one twice costs time.
    if path.exists() and path.stat().st_size < _SMALL_BYTES:
        model = read_object(path).get("model")
        if not isinstance(model, dict) or not model.get("vocab"):
            raise ValueError("tokenizer.json has no vocabulary (model.vocab)")
    if (settings := folder / "tokenizer_config.json").exists():
        longest = read_object(settings).get("model_max_length")
        if longest is not None and not isinstance(longest, int | float):
            raise ValueError(f"tokenizer_config.json gives model_max_length {longest!r}")


def tokenizer_sha256(source: ModelSource) -> str | None:
    """One SHA-256, in hex, over the tokenizer files of a folder; None for a hub's.

    It tells why the same text gives other tokens, and not whether: a file may be written anew.

    Raises:
        InputError: a file cannot be read.
    """
    folder = Path(source.folder_or_hub_id)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    with reading(source, "tokenizer", _HINT):
        for name in (*_VOCABULARIES, *_BESIDE):
            if (folder / name).is_file():
                digest.update(f"{name}\0".encode() + (folder / name).read_bytes())
    return digest.hexdigest()


def pad_token_id(tokenizer: Any, num_embeddings: int) -> int:
    """A token that may fill up rows: the pad token, else end-of-sequence, else any legal one.

    Padding is masked everywhere, so which token pads has no effect on any result.

    Args:
        num_embeddings: rows of the model's embedding.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None and 0 <= token < num_embeddings:
            return int(token)
    return 0


def check_tokens(tokenizer: Any, used: Iterable[int], num_embeddings: int, where: str) -> None:
    """Compare the tokens that data use with the model's embedding.

    Args:
        used: ids of the tokens.
        num_embeddings: rows of the model's embedding.
        where: the model, as the user wrote it.

    Raises:
        InputError: the embedding lacks one of them.
    """
    lacking = sorted({token for token in used if not 0 <= token < num_embeddings})
    if not lacking:
        return
    text = tokenizer.convert_ids_to_tokens(lacking[0])
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    raise InputError(
        f"the data use the token {text!r} (id {lacking[0]}){more}, and the model's embedding has "
        f"{num_embeddings} rows",
        where=where,
        hint="take the tokenizer that belongs to the weights, or take the token out of the data",
        error_id="INPUT-TOKENIZER",
    )
