"""A Llama GGUF file with a GPT-2 style tokenizer, rewritten as a Hugging Face folder.

Notable: GGUF interleaves the rows of the query and key projections for its own rotary layout, so
they are put back; transformers' own GGUF reader forgets that this tokenizer splits digits one by
one, so the tokenizer is built here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from amaqctl.errors import InputError

_CONTROL_TOKEN = 3
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(gguf_file: Path, folder: Path) -> None:
    """Write config.json, model.safetensors (float16) and the tokenizer into ``folder``.

    Raises:
        InputError: the file is not a whole GGUF file of a Llama model with a smollm tokenizer.
    """
    try:
        reader = GGUFReader(gguf_file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        _check_kind(fields)
        config = _config(fields)
        _tokenizer(fields).save_pretrained(folder)
        tensors = dict(_weights(reader, config))
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"the model file is damaged or of an unknown kind: {error}",
            where=str(gguf_file),
            hint="reinstall the package that it came with",
            error_id="INPUT-MODEL",
        ) from error
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _check_kind(fields: dict[str, Any]) -> None:
    kind = (fields["general.architecture"], fields["tokenizer.ggml.pre"])
    if kind != ("llama", "smollm"):
        raise ValueError(f"architecture and tokenizer are {kind}, not ('llama', 'smollm')")


def _config(fields: dict[str, Any]) -> LlamaConfig:
    def setting(name: str) -> Any:
        return fields[f"llama.{name}"]

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float16",
        vocab_size=setting("vocab_size"),
        hidden_size=setting("embedding_length"),
        intermediate_size=setting("feed_forward_length"),
        num_hidden_layers=setting("block_count"),
        num_attention_heads=setting("attention.head_count"),
        num_key_value_heads=setting("attention.head_count_kv"),
        max_position_embeddings=setting("context_length"),
        rope_parameters={"rope_type": "default", "rope_theta": setting("rope.freq_base")},
        # Stored as float32: 1e-5 comes back as 9.99999975e-06.
        rms_norm_eps=float(f"{setting('attention.layer_norm_rms_epsilon'):.6g}"),
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
    )


def _tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    special = {
        f"{ours}_token": tokens[fields[f"tokenizer.ggml.{theirs}_token_id"]]
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=fields["tokenizer.chat_template"],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        **special,
    )


def _weights(
    reader: GGUFReader, config: LlamaConfig
) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        stem = tensor.name.removesuffix(".weight")
        if not stem.startswith("blk."):
            yield f"{_OUTER[stem]}.weight", weight
            continue
        _, layer, part = stem.split(".")
        if part in heads:
            weight = _rotary_rows(weight, heads[part])
        yield f"model.layers.{layer}.{_IN_BLOCK[part]}.weight", weight


def _rotary_rows(weight: npt.NDArray[np.float16], num_heads: int) -> npt.NDArray[np.float16]:
    """Rows of each head from GGUF's interleaved order to Hugging Face's two halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))
