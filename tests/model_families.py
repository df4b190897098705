"""Small random models, one for each family that may be cut, and variants worth their own run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.source import ModelSource, resolve_source

NUM_LAYERS = 4
VOCABULARY = 64
_WINDOW = 6
_IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    # Wide enough for logits that differ clearly at so small a width.
    "initializer_range": 0.15,
    **_IDS,
}
_GATED = {**_SHAPE, "num_key_value_heads": 2, "intermediate_size": 48}
_SLIDING = ["sliding_attention", "full_attention"] * (NUM_LAYERS // 2)

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_GATED, tie_word_embeddings=True),
    "llama-untied": LlamaConfig(**_GATED, tie_word_embeddings=False),
    "qwen2": Qwen2Config(
        **_GATED,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=_WINDOW,
        layer_types=_SLIDING,
    ),
    "qwen3": Qwen3Config(**_GATED, head_dim=8, tie_word_embeddings=False),
    "mistral": MistralConfig(**_GATED, sliding_window=_WINDOW),
    "phi3": Phi3Config(**_GATED, sliding_window=None),
    "gemma3_text": Gemma3TextConfig(
        **_GATED,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=_WINDOW,
        layer_types=_SLIDING,
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=NUM_LAYERS,
        n_head=4,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.15,
        scale_attn_by_inverse_layer_idx=True,
        **_IDS,
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        init_std=0.15,
        **_IDS,
    ),
    "opt-projected": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        init_std=0.15,
        do_layer_norm_before=False,
        **_IDS,
    ),
}


def save_random_model(config: PreTrainedConfig, folder: Path, seed: int = 5) -> ModelSource:
    """A model folder with random weights (no tokenizer), and its source."""
    with torch.random.fork_rng(devices=[]), no_progress_bar():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return resolve_source(str(folder))
