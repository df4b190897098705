"""Broken model folders: their settings, tokenizer, weights and index."""

from __future__ import annotations

import json
import random
import string
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from model_folder import write_model_folder, write_profile

from fuzzing.runner import Case

_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, 1e308, 2**31, 2**63, 10**12, "", "x", "\x00",
    "../../etc/passwd", "é" * 300, [], [1], [[]], {}, {"a": 1}, [None] * 3, "auto", "float8_e4m3fn",
    "</s>", "Ġ", -(2**40), 1e-300, "ByteLevel", "BPE",
)  # fmt: skip
# Keys that a model of ours does not have and other folders do.
_FOREIGN = (
    "quantization_config", "attn_implementation", "_attn_implementation", "sliding_window",
    "layer_types", "rope_scaling", "rope_parameters", "auto_map", "dtype", "torch_dtype",
    "tie_word_embeddings", "pretraining_tp", "head_dim", "mlp_bias", "attention_bias",
    "added_tokens", "tokenizer_class", "chat_template", "model_max_length", "padding_side",
    "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "normalizer",
    "post_processor", "truncation", "padding", "pad_token", "unk_token", "fix_mistral_regex",
    "id2label", "num_labels", "is_decoder", "architectures", "transformers_version",
    "use_cache", "return_dict", "output_hidden_states", "output_attentions",
    "chunk_size_feed_forward", "problem_type", "add_prefix_space",
)  # fmt: skip
_FAMILIES = ("gemma3_text", "gpt2", "mistral", "opt", "phi3", "qwen2", "qwen3", "bert", "gemma3")


def cases(seed: int) -> Iterator[Case]:
    """Mutations of a small model folder, without end."""
    rng = random.Random(seed)
    kinds: tuple[Callable[[random.Random, dict[str, bytes]], str], ...] = (
        _json_tree, _json_tree, _json_tree, _json_tree, _json_text, _header, _index, _file,
    )  # fmt: skip
    while True:
        files = dict(_base())
        name = "; ".join(rng.choice(kinds)(rng, files) for _ in range(rng.choice((1, 1, 1, 2))))
        yield Case(name, _arguments(rng), files)


def _arguments(rng: random.Random) -> tuple[str, ...]:
    if rng.random() < 0.3:
        return ("eval", "p.yaml", "--limit", "2")
    return ("train", "p.yaml", "--out", "run")


@cache
def _base() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = write_model_folder(Path(name) / "m")
        profile = write_profile(Path(name) / "p.yaml", Path("m"), Path(name) / "d.jsonl")
        text = profile.read_text().replace(f"{name}/", "")
        text = text.replace("validation: 0.2", "validation: 0.2, generate: {max_new_tokens: 2}")
        text = text.replace("max_steps: 2", "max_steps: 1").replace("every: 2", "every: 1")
        files = {f"m/{path.name}": path.read_bytes() for path in folder.iterdir()}
        return {**files, "d.jsonl": (Path(name) / "d.jsonl").read_bytes(), "p.yaml": text.encode()}


def _json_tree(rng: random.Random, files: dict[str, bytes]) -> str:
    """One value of a JSON file is another, gone, or new."""
    name = rng.choice(_JSON)
    try:
        document = json.loads(files.get(f"m/{name}", b""))
    except (ValueError, RecursionError):  # an earlier change: gone, or lists in lists
        return f"{name} as it is"
    told = _mutate(rng, document, name)
    files[f"m/{name}"] = json.dumps(document).encode()
    return told


def _mutate(rng: random.Random, document: Any, name: str) -> str:
    parent, path = document, [name]
    while True:
        keys: list[Any] = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        if not keys:
            break
        key = rng.choice(keys)
        child = parent[key]
        path.append(str(key))
        if not isinstance(child, dict | list) or not child or rng.random() < 0.3:
            return f"{'.'.join(path)} {_change(rng, parent, key)}"
        parent = child
    return f"{'.'.join(path)} as it is"


def _change(rng: random.Random, parent: Any, key: Any) -> str:
    dice = rng.random()
    if dice < 0.15:
        del parent[key]
        return "gone"
    if dice < 0.35 and isinstance(parent, dict):
        new = rng.choice(_FOREIGN)
        parent[new] = rng.choice(_ODD)
        return f"with {new}={parent[new]!r}"[:80]
    if dice < 0.4 and key == "model_type":
        parent[key] = rng.choice(_FAMILIES)
    elif dice < 0.55 and isinstance(parent[key], int) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * rng.choice((2, 3, -1)) + rng.choice((0, 1, -1))
    else:
        parent[key] = rng.choice(_ODD)
    return f"={parent[key]!r}"[:80]


def _json_text(rng: random.Random, files: dict[str, bytes]) -> str:
    """Bytes of a JSON file are others."""
    name = rng.choice(_JSON)
    data = bytearray(files.get(f"m/{name}", b""))
    dice = rng.random()
    if dice < 0.1:
        data = bytearray(rng.choice((b"[", b'{"a":', b'{"model":{"vocab":[')) * 100_000)
    elif dice < 0.2:
        data = bytearray(rng.choice((b"", b"{}", b"[]", b"null", b"\xff\xfe{}", b"\x00" * 64)))
    elif dice < 0.3 and data:
        del data[rng.randrange(len(data)) :]
    else:
        for _ in range(rng.choice((1, 1, 4))):
            if data:
                data[rng.randrange(len(data))] = rng.choice(string.printable.encode() + b"\xff\x00")
    files[f"m/{name}"] = bytes(data)
    return f"bytes of {name}"


def _header(rng: random.Random, files: dict[str, bytes]) -> str:
    """The header of the weights says something else, or does not fit its file."""
    data = files.get(f"m/{_WEIGHTS}", b"")
    if len(data) < 9:
        return "weights as they are"
    length = struct.unpack("<Q", data[:8])[0]
    body = data[8 + length :]
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError:
        return "weights as they are"
    dice = rng.random()
    if dice < 0.15:
        length_told = rng.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1))
        files[f"m/{_WEIGHTS}"] = struct.pack("<Q", length_told) + data[8:]
        return f"header of {length_told} bytes"
    if dice < 0.25:
        files[f"m/{_WEIGHTS}"] = data[: rng.randrange(len(data))]
        return "weights cut short"
    if dice < 0.35:
        spoiled = bytearray(body)
        for _ in range(40):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        told, body = "other values", bytes(spoiled)
    else:
        told = _change_entry(rng, header)
    text = json.dumps(header).encode()
    files[f"m/{_WEIGHTS}"] = struct.pack("<Q", len(text)) + text + body
    return told


def _change_entry(rng: random.Random, header: dict[str, Any]) -> str:
    name = rng.choice(list(header))
    dice = rng.random()
    if dice < 0.2:
        del header[name]
        return f"no {name}"
    if dice < 0.4:
        others = ("lm_head.bias", "x", f"{name}_scale", name.upper(), "model.layers.99.a.b")
        new = rng.choice(others)
        header[new] = header.pop(name)
        return f"{name} named {new}"
    if dice < 0.6 and "dtype" in header[name]:
        header[name]["dtype"] = rng.choice(("F64", "F16", "BF16", "I32", "F8_E4M3", "BOOL", "X", 7))
        return f"{name} of {header[name]['dtype']}"
    return f"{name}.{_mutate(rng, header[name], 'header')}" if header[name] else "header as it is"


def _index(rng: random.Random, files: dict[str, bytes]) -> str:
    """The weights in a shard, and an index of it with something wrong."""
    data = files.pop(f"m/{_WEIGHTS}", None)
    if data is None:
        return "index as it is"
    files["m/model-00001-of-00001.safetensors"] = data
    length = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    try:
        names = [n for n in json.loads(data[8 : 8 + length]) if n != "__metadata__"]
    except ValueError:
        names = ["x"]
    weight_map: dict[str, Any] = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    told = _mutate(rng, index, "index") if rng.random() < 0.8 else "index"
    files[f"m/{_INDEX}"] = json.dumps(index).encode()
    return told


def _file(rng: random.Random, files: dict[str, bytes]) -> str:
    """A file is missing, empty, another one's, or more than a model has."""
    own = sorted(name for name in files if name.startswith("m/"))
    name = rng.choice(own)
    dice = rng.random()
    if dice < 0.3:
        del files[name]
        return f"{name} missing"
    if dice < 0.5:
        files[name] = files[rng.choice(own)]
        return f"{name} is another file"
    new = rng.choice(
        ("adapter_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
         "merges.txt", "chat_template.jinja", "tokenizer.model", "pytorch_model.bin", "params.json",
         "preprocessor_config.json", "processor_config.json", "tekken.json")
    )  # fmt: skip
    files[f"m/{new}"] = rng.choice(
        (b"", b"{}", b"[]", b"null", b"{{", b"\x80\x04N.", json.dumps({"a": [1]}).encode(),
         files.get("m/tokenizer_config.json", b""), json.dumps({"bos_token": 7}).encode())
    )  # fmt: skip
    return f"also {new}"
