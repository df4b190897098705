"""The built-in model ``tiny``: a random eight-block Llama and a byte tokenizer, for tests.

It is written once into the cache as an ordinary Hugging Face folder, so nothing downstream
knows that it is special. No downloads; the weights are the same on every machine.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from amaqctl.model.cache_folder import materialise
from amaqctl.model.quiet import no_progress_bar

EOS_TOKEN = "<|eos|>"
PAD_TOKEN = "<|pad|>"
# Raise the number when anything in this file changes what is written.
_FOLDER_NAME = "tiny-v1"
_SEED = 20_24


def tiny_folder() -> Path:
    """The folder of the tiny model, made on first use."""
    return materialise(_FOLDER_NAME, _write)


def _write(folder: Path) -> None:
    tokenizer = _byte_tokenizer()
    tokenizer.save_pretrained(folder)
    with no_progress_bar():
        _random_llama(tokenizer).save_pretrained(folder)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and two special ones: 258 in all."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS_TOKEN, pad_token=PAD_TOKEN
    )


def _random_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        # 1/sqrt(hidden): the usual 0.02 leaves so narrow a model with next to no signal.
        initializer_range=0.18,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return LlamaForCausalLM(config)
