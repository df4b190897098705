"""A small whole model folder (Llama of four blocks, byte tokenizer), and hands to spoil it with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from amaqctl.model.quiet import no_progress_bar

NUM_LAYERS = 4
NUM_TOKENS = 258


def write_model_folder(folder: Path) -> Path:
    """A model whose tokenizer has beginning and end, and no pad token."""
    symbols = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]), no_progress_bar():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folder, to))


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of model.safetensors in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_profile(path: Path, model: Path, data: Path) -> Path:
    """A profile of two steps, and thirty rows of data where there are none yet."""
    if not data.exists():
        rows = [{"prompt": f"Q {i}?", "completion": f"A {i}."} for i in range(30)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.write_text(
        "amaqctl: 1\n"
        f"model: {{id: {model}, dtype: float32}}\n"
        "split: {cuts: [2]}\n"
        "task: {name: prompt-completion, "
        f"options: {{train: {data}, validation: 0.2}}}}\n"
        "train: {max_steps: 2, batch_size: 2, max_length: 64}\n"
        "eval: {every: 2, max_examples: 4}\n"
        "checkpoint: {every: 2}\n"
    )
    return path
