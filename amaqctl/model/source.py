"""Where a model comes from: a built-in name, a local folder or a hub id.

What can be told from the name alone is told at once: a mistyped path is not looked for on the
network.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaqctl.errors import InputError
from amaqctl.model import packaged
from amaqctl.paths import absolute
from amaqctl.storage import read_json

TINY = "tiny"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_BLOCKS_OF_BUILT_IN = {packaged.MODEL_ID: 30, TINY: 8}
_BLOCK_KEYS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded.

    Attributes:
        model_id: what the user wrote.
        folder_or_hub_id: what transformers is given.
        revision: of a hub id; None is the default branch.
        local_files_only: never ask the hub.
        base_model_name: what an adapter names as its base; never a path inside our cache.
    """

    model_id: str
    folder_or_hub_id: str
    revision: str | None
    local_files_only: bool
    base_model_name: str

    @property
    def hub_arguments(self) -> dict[str, Any]:
        """Keyword arguments of every ``from_pretrained`` call for this source."""
        return {"revision": self.revision or "main", "local_files_only": self.local_files_only}


def resolve_source(
    model_id: str, revision: str | None = None, local_files_only: bool = False
) -> ModelSource:
    """Turn ``model.id`` of a profile into a source; built-in models are made on first use.

    Raises:
        InputError: neither a built-in name, a folder nor a possible hub id; or a built-in model
            whose package is missing.
        ResourceError: the disk is full.
    """
    if model_id == packaged.MODEL_ID:
        folder = str(packaged.packaged_folder())
        return ModelSource(model_id, folder, None, True, packaged.HUB_ID)
    if model_id == TINY:
        from amaqctl.model import tiny  # needs torch, as nothing else here

        return ModelSource(model_id, str(tiny.tiny_folder()), None, True, TINY)
    check_model_id(model_id)
    if (folder_path := model_folder(model_id)) is not None:
        return ModelSource(model_id, str(folder_path), revision, True, str(folder_path))
    return ModelSource(model_id, model_id, revision, local_files_only, model_id)


def model_folder(model_id: str) -> Path | None:
    """The folder, absolute, that ``model.id`` names; None for anything else."""
    if not model_id or model_id in (packaged.MODEL_ID, TINY):
        return None
    path = absolute(model_id)
    return path if path.is_dir() else None


def known_num_blocks(model_id: str) -> int | None:
    """Blocks of a built-in model or of one in a folder; None where only loading would tell."""
    folder = model_folder(model_id)
    if folder is None:
        return _BLOCKS_OF_BUILT_IN.get(model_id)
    try:
        settings = read_json(folder / "config.json")
        found = next((settings[key] for key in _BLOCK_KEYS if key in settings), None)
    except (FileNotFoundError, InputError, TypeError):
        return None  # what is wrong with it is told when it is loaded
    return found if isinstance(found, int) and found > 0 else None


def check_model_id(model_id: str) -> None:
    """Raise unless ``model.id`` is a built-in name, a folder, or can be a hub id.

    A hub id is ``org/name`` where there is no folder ``org``. Needs no torch.

    Raises:
        InputError: it is none of these.
    """
    if model_id in (packaged.MODEL_ID, TINY) or model_folder(model_id) is not None:
        return
    path = Path(os.path.expanduser(model_id))  # an unknown user stays as typed
    if model_id and path.exists():
        raise _no_model(model_id, "is a file; a model is a folder", path)
    if not _HUB_ID.fullmatch(model_id) or model_id.startswith("."):
        raise _no_model(model_id, "no such model folder", path)
    if path.parent != Path(".") and path.parent.is_dir():
        raise _no_model(model_id, f"no such model folder in {path.parent}", path)
    if path.parent == Path(".") and not is_cached(model_id):
        raise _no_model(model_id, "no such model folder, and no hub id of the form org/name", path)


def is_cached(model_id: str) -> bool:
    """Hub ids of one word are of old; those fetched before are still good."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(model_id, "config.json"), str)
    except ValueError:  # no hub id at all, says the hub's client
        return False


def _no_model(model_id: str, message: str, path: Path) -> InputError:
    near = difflib.get_close_matches(path.name, _models_in(path.parent), n=1)
    guess = f"did you mean '{path.with_name(near[0])}'? " if near else ""
    return InputError(
        message,
        where=model_id,
        hint=f"{guess}give a folder, a hub id such as org/name, {packaged.MODEL_ID} or {TINY}",
        error_id="INPUT-MODEL",
    )


def _models_in(folder: Path) -> list[str]:
    built_in = [packaged.MODEL_ID, TINY] if folder == Path(".") else []
    if not folder.is_dir():
        return built_in
    return built_in + [path.parent.name for path in folder.glob("*/config.json")]
