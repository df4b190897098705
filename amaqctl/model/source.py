"""Where a model comes from: a built-in name, a local folder or a hub id, and what it says.

The configuration is checked (readable, supported family) before anything heavy is loaded. Code
from a model folder is never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from amaqctl.errors import InputError
from amaqctl.model import packaged, tiny
from amaqctl.model.families import check_family

TINY = "tiny"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
        return ModelSource(model_id, str(tiny.tiny_folder()), None, True, TINY)
    folder_path = Path(model_id).expanduser()
    if model_id and folder_path.is_dir():
        return ModelSource(model_id, str(folder_path), revision, True, model_id)
    if not _HUB_ID.fullmatch(model_id) or model_id.startswith("."):
        raise InputError(
            "no such model folder",
            where=model_id,
            hint=f"give a folder, a hub id such as org/name, {packaged.MODEL_ID} or {TINY}",
            error_id="INPUT-MODEL",
        )
    return ModelSource(model_id, model_id, revision, local_files_only, model_id)


def load_config(source: ModelSource) -> PreTrainedConfig:
    """The model's configuration.

    Raises:
        InputError: it cannot be read, or the family is not supported.
    """
    with reading(source, "configuration"):
        settings, _ = PreTrainedConfig.get_config_dict(
            source.folder_or_hub_id, **source.hub_arguments
        )
        if not isinstance(settings, dict) or "model_type" not in settings:
            raise ValueError("there is no config.json that names a model_type")
    check_family(settings, source.model_id)
    with reading(source, "configuration"):
        return AutoConfig.from_pretrained(
            source.folder_or_hub_id, trust_remote_code=False, **source.hub_arguments
        )


def load_tokenizer(source: ModelSource) -> Any:
    """The model's tokenizer; without a pad token of its own it pads with end-of-sequence.

    Padding is always masked, so which token pads has no effect on any result.

    Raises:
        InputError: it cannot be read.
    """
    with reading(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder_or_hub_id, trust_remote_code=False, **source.hub_arguments
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def num_layers(config: PreTrainedConfig) -> int:
    """Number of transformer blocks."""
    return int(config.num_hidden_layers)


@contextmanager
def reading(source: ModelSource, part: str) -> Iterator[None]:
    """Turn whatever transformers raises while it reads ``part`` into one line with a way out."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        lines = str(error).strip().splitlines()
        raise InputError(
            f"the model's {part} cannot be read: {lines[0] if lines else type(error).__name__}",
            where=source.model_id,
            hint=_way_out(source),
            error_id="INPUT-MODEL",
        ) from error


def _way_out(source: ModelSource) -> str:
    if Path(source.folder_or_hub_id).is_dir():
        return (
            "a model folder holds config.json, safetensors weights and tokenizer files; "
            "write it again with save_pretrained"
        )
    if source.local_files_only:
        return "download it first, or set model.local_files_only to false"
    return "check the id, the revision and the network, or give a local folder"
