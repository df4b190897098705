"""The folder of a checkpoint: what it is called, what is in it, and whether it is whole.

``RUN/checkpoints/step-000050`` holds the adapter in two files, or in full fine-tuning the trained
weights in one, three files more, and ``COMPLETE``, with size and SHA-256 of each, which is written
last. Needs no torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from amaqctl.errors import InputError
from amaqctl.model.lora_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TRAINED_WEIGHTS
from amaqctl.storage import open_regular, read_document

COMPLETE = "COMPLETE"
WEIGHTS_FOLDER = "weights"
_ALWAYS = {"quantizer.safetensors", "trainer.safetensors", "trainer.json"}
FILES_OF_LORA = {f"adapter/{ADAPTER_CONFIG}", f"adapter/{ADAPTER_WEIGHTS}", *_ALWAYS}
FILES_OF_WEIGHTS = {f"{WEIGHTS_FOLDER}/{TRAINED_WEIGHTS}", *_ALWAYS}


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after ``step`` optimizer steps."""
    return f"step-{step:06d}"


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, torn ones too, oldest first; a folder of another name is not ours."""
    found = [p for p in folder.glob("step-*") if p.name[5:].isdecimal() and p.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps behind a checkpoint, from its name."""
    return int(checkpoint.name[5:])


def good_checkpoints(folder: Path) -> list[Path]:
    """Usable checkpoints of a run, oldest first."""
    return [path for path in all_checkpoints(folder) if fault_of(path) is None]


def fault_of(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when every file is as it was written."""
    from amaqctl.engine.run_documents import Manifest  # slow, and `--help` comes by here

    try:
        manifest = read_document(folder / COMPLETE, Manifest).root
        is_full = any(name.startswith(f"{WEIGHTS_FOLDER}/") for name in manifest)
        due = FILES_OF_WEIGHTS if is_full else FILES_OF_LORA
        for name in sorted(due - manifest.keys()):
            return f"{COMPLETE} does not list {name}"
        for name in sorted(manifest.keys() - due):
            return f"{COMPLETE} lists {name}, which is no file of a checkpoint"
        for name, expected in manifest.items():
            path = folder / name
            if path.stat().st_size != expected.bytes or digest_of(path) != expected.sha256:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except InputError as error:
        return f"{Path(error.where or COMPLETE).name} {error.message}"
    except OSError as error:
        return f"{Path(error.filename).name} cannot be read: {error.strerror}"
    return None


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open_regular(path, None) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
