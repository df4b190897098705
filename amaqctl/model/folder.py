"""The files of a model folder, looked at before any library opens one.

A folder may come from anywhere: only regular files of a size that fits their kind are read, and
what lies beside the model and is not used is told.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from amaqctl.errors import InputError
from amaqctl.model.source import ModelSource
from amaqctl.storage import read_json

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MIB = 2**20
# What a file may have at most. Generous: the largest known are some KiB (configurations), 2 MiB
# (indices), 10 MiB (tokens added to a tokenizer's configuration) and 35 MiB (tokenizer.json).
_MOST_MIB = {
    "config.json": 1,
    "generation_config.json": 1,
    ADAPTER_CONFIG: 1,
    "chat_template.jinja": 1,
    "chat_template.json": 1,
    INDEX: 32,
    "tokenizer_config.json": 32,
    "special_tokens_map.json": 32,
    "added_tokens.json": 32,
    "vocab.json": 32,
    "vocab.txt": 32,
    "merges.txt": 32,
    "tokenizer.json": 256,
}
_WITHOUT_LIMIT = (".safetensors", ".model")


def check_folder(source: ModelSource) -> None:
    """Look at every file that a library may open; nothing is read. Hub ids pass.

    Raises:
        InputError: one is no regular file, or larger than any of its kind; or the folder holds
            an adapter and no model.
    """
    folder = Path(source.folder_or_hub_id)
    if not folder.is_dir():
        return
    try:
        for path in sorted(folder.iterdir()):
            if path.name in _MOST_MIB or path.suffix in _WITHOUT_LIMIT:
                _check_file(path)
    except OSError as error:
        raise _fault(folder, f"cannot be read: {error.strerror or error}") from error
    if (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists():
        base = read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        raise _fault(
            folder,
            "the folder holds an adapter and no model",
            f"give its base as model.id: {base}" if base else "give the model that it is for",
        )


def folder_warnings(source: ModelSource) -> list[str]:
    """What lies beside the model and is not used, one sentence each."""
    folder = Path(source.folder_or_hub_id)
    warnings = []
    if (folder / ADAPTER_CONFIG).is_file():
        warnings.append(
            f"{source.model_id} also holds an adapter ({ADAPTER_CONFIG}), which is not used: "
            "the base alone is loaded, and a run begins with a fresh adapter"
        )
    if (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        warnings.append(f"{source.model_id} holds both {WEIGHTS} and {INDEX}; the former is used")
    return warnings


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object out of a model folder.

    Raises:
        InputError: no regular file, too large, or no JSON object.
    """
    try:
        document = read_json(path, max_bytes=_MOST_MIB[path.name] * _MIB)
    except InputError as error:
        raise _fault(path, error.message) from error
    if not isinstance(document, dict):
        raise _fault(path, "holds no JSON object")
    return document


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _fault(path, "is no regular file", "put a file in its place")
    most = _MOST_MIB.get(path.name)
    if most is not None and status.st_size > most * _MIB:
        found = f"has {status.st_size / _MIB:,.0f} MiB, and at most {most} are read"
        raise _fault(path, found, "give the model's own file")


def _fault(place: Path, message: str, hint: str | None = None) -> InputError:
    hint = hint or "write the model folder again with save_pretrained"
    return InputError(message, where=str(place), hint=hint, error_id="INPUT-MODEL")
