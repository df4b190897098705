"""Parts of one run, saved by several parties, as the files that one process would have written."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from amaqctl.engine.bits_report import REPORT
from amaqctl.engine.checkpoint import dump, seal
from amaqctl.engine.checkpoint_folder import WEIGHTS_FOLDER
from amaqctl.engine.optimizer_state import read_tensors
from amaqctl.errors import InputError
from amaqctl.model.lora_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TRAINED_WEIGHTS
from amaqctl.storage import read_json


def join_checkpoints(parts: Sequence[Path], into: Path, identity: dict[str, Any]) -> None:
    """Write a whole checkpoint.

    Args:
        parts: the good checkpoints of one step, the leader's first.
        into: an empty folder.
        identity: of the run that it is to be of.

    Raises:
        InputError: two parts have one thing, or a file cannot be read.
    """
    if (parts[0] / WEIGHTS_FOLDER).is_dir():
        join_weights([part / WEIGHTS_FOLDER for part in parts], into / WEIGHTS_FOLDER)
    else:
        join_adapters([part / "adapter" for part in parts], into / "adapter")
    for name in ("quantizer.safetensors", "trainer.safetensors"):
        save_file(_joined_tensors([part / name for part in parts]), into / name)
    documents: list[Any] = [read_json(part / "trainer.json") for part in parts]
    messages: dict[str, list[int]] = {}
    for document in documents:
        for place, numbers in document["messages"].items():
            # Each end counts what it does itself, and has 0 for what the other one does.
            before = messages.get(place, [0, 0])
            messages[place] = [max(pair) for pair in zip(before, numbers, strict=True)]
    in_order = dict(sorted(messages.items(), key=lambda item: _place(item[0])))
    dump(into / "trainer.json", {**documents[0], "messages": in_order, "identity": identity})
    seal(into)


def join_adapters(parts: Sequence[Path], into: Path) -> None:
    """Write the adapter of all stages, from those of the parties', the leader's first."""
    into.mkdir(parents=True)
    shutil.copyfile(parts[0] / ADAPTER_CONFIG, into / ADAPTER_CONFIG)
    weights = _joined_tensors([part / ADAPTER_WEIGHTS for part in parts])
    save_file(weights, into / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def join_weights(parts: Sequence[Path], into: Path) -> None:
    """Write what full fine-tuning has trained of all stages."""
    into.mkdir(parents=True)
    weights = _joined_tensors([part / TRAINED_WEIGHTS for part in parts])
    save_file(weights, into / TRAINED_WEIGHTS, metadata={"format": "pt"})


def join_quantizers(parts: Sequence[Path], into: Path) -> None:
    """Write states and options of all quantizers of a finished run."""
    into.mkdir(parents=True)
    name = "quantizer.safetensors"
    save_file(_joined_tensors([part / name for part in parts]), into / name)
    options: dict[str, Any] = {}
    for part in parts:
        options |= read_json(part / "options.json")
    in_order = dict(sorted(options.items(), key=lambda item: _place(item[0])))
    (into / "options.json").write_text(json.dumps(in_order, indent=2) + "\n", encoding="utf-8")


def join_bits(parts: Sequence[Path], into: Path) -> None:
    """Write the widths of all senders at one step."""
    arrays: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for part in parts:
        with np.load(part) as archive:
            found = {name: archive[name] for name in archive.files}
        said |= json.loads(found.pop(REPORT).tobytes())
        arrays |= found
    in_order = dict(sorted(said.items(), key=lambda item: _place(item[0])))
    text = json.dumps(in_order, allow_nan=False).encode()
    content = io.BytesIO()
    arrays[REPORT] = np.frombuffer(text, np.uint8)
    np.savez_compressed(content, **arrays)
    into.write_bytes(content.getvalue())


def _place(name: str) -> tuple[int, str]:
    link, _, rest = name.removeprefix("link").partition(".")
    return int(link), rest


def _joined_tensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for path in paths:
        found = read_tensors(path)
        if both := joined.keys() & found.keys():
            raise InputError(
                f"{min(both)} is in another part too",
                where=str(path),
                hint="give the run of each party once",
                error_id="INPUT-PARTY",
            )
        joined |= found
    return joined
