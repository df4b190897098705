"""The safetensors files of a model: found, and opened without a tensor being read.

Pickled weights (``pytorch_model.bin``) are never read. A shard lies in the model's own folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from amaqctl.errors import InputError
from amaqctl.model.folder import INDEX, WEIGHTS, check_folder, read_object
from amaqctl.model.reading import reading
from amaqctl.model.source import ModelSource

_CONFIG = "config.json"
_NOT_COMPUTED_WITH = ("transformers_version", "_name_or_path")


@contextmanager
def open_weights(source: ModelSource) -> Iterator[Mapping[str, Any]]:
    """Every tensor of the weight files by name, as a slice that is read when it is taken.

    Raises:
        InputError: there are none, one is damaged, or the index does not fit its shards.
    """
    with ExitStack() as stack:
        with reading(source, "weights"):
            tensors = _opened(source, stack)
        yield tensors


def base_sha256(source: ModelSource) -> dict[str, str]:
    """SHA-256, in hex, of each file that a base computes with, by its name.

    Of the configuration, which says what is done with the weights, the values count, and not how
    they are written.

    Raises:
        InputError: there are no weights, or a file cannot be read.
    """
    with reading(source, "weights"):
        digests = {}
        for path in _paths(source):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        config = find_file(source, _CONFIG)
        if config is not None:
            values = {k: v for k, v in read_object(config).items() if k not in _NOT_COMPUTED_WITH}
            text = json.dumps(values, sort_keys=True)
            digests[_CONFIG] = hashlib.sha256(text.encode()).hexdigest()
        return digests


def find_file(source: ModelSource, name: str) -> Path | None:
    """A file of the model, fetched where the source is a hub id; None where it has none."""
    folder = Path(source.folder_or_hub_id)
    if folder.is_dir():
        return folder / name if (folder / name).exists() else None
    try:
        return Path(hf_hub_download(source.folder_or_hub_id, name, **source.hub_arguments))
    except EntryNotFoundError:  # also where only local files may be used
        return None


def _opened(source: ModelSource, stack: ExitStack) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for path in _paths(source):
        shard = stack.enter_context(safe_open(path, framework="pt"))
        for name in shard.keys():  # noqa: SIM118 - it is no mapping
            if name in tensors:
                raise _fault(source, f"the weight files hold {name} twice")
            tensors[name] = shard.get_slice(name)
    if not tensors:
        raise _fault(source, "the weight files hold no tensor")
    return tensors


def _paths(source: ModelSource) -> list[Path]:
    check_folder(source)
    single = find_file(source, WEIGHTS)
    if single is not None:
        return [single]
    index = find_file(source, INDEX)
    if index is None:
        raise _fault(
            source,
            f"there is neither {WEIGHTS} nor {INDEX}",
            "save the weights as safetensors; pickled ones (pytorch_model.bin) are never read",
        )
    return [_shard(source, name) for name in _shard_names(source, index)]


def _shard_names(source: ModelSource, index: Path) -> list[str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _fault(source, f"{INDEX} has no weight_map")
    names = list(dict.fromkeys(weight_map.values()))
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise _fault(source, f"{INDEX} names a shard outside the model's folder: {name!r}")
        if not name.endswith(".safetensors"):
            raise _fault(source, f"{INDEX} names a shard that is no safetensors file: {name!r}")
    return names


def _shard(source: ModelSource, name: str) -> Path:
    path = find_file(source, name)
    if path is None:
        raise _fault(source, f"the shard {name}, which {INDEX} names, is missing")
    return path


def _fault(source: ModelSource, message: str, hint: str | None = None) -> InputError:
    return InputError(
        message,
        where=source.model_id,
        hint=hint or "write the model folder again with save_pretrained",
        error_id="INPUT-MODEL",
    )
