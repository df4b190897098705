"""The one place where a foreign library's error about a model becomes ours.

transformers, tokenizers and safetensors raise nearly every type there is when a folder is not
what they expect, down to panics of Rust that are no ``Exception``. So types are not enumerated:
whatever is raised while a stranger's folder is read speaks of that folder.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amaqctl.errors import AmaqError, InputError, ResourceError, is_of_memory
from amaqctl.model.source import ModelSource

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST = 300


@contextmanager
def reading(source: ModelSource, part: str, hint: str | None = None) -> Iterator[None]:
    """Turn whatever is raised while ``part`` of a model is read into one line with a way out.

    Args:
        source: the model; messages name what the user wrote.
        part: "configuration", "tokenizer", "weights".
        hint: the way out, where one better than the general one is known.

    Raises:
        InputError: the part cannot be read.
        ResourceError: disk or memory ran out meanwhile.
    """
    try:
        yield
    except (AmaqError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise _explained(error, source, part, hint) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line; with its type where its text alone says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = lines[0]
    if text.endswith(":") and len(lines) > 1:  # a title, and the message in the line after it
        text = f"{text} {lines[1]}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError) or " " not in text:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _explained(
    error: BaseException, source: ModelSource, part: str, hint: str | None
) -> InputError | ResourceError:
    if is_of_memory(error):
        return ResourceError(
            f"out of memory while the model's {part} {_verb(part)} read",
            where=source.model_id,
            hint="free some memory, or take a smaller model or model.dtype=bfloat16",
            error_id="RESOURCE-MEMORY",
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return ResourceError(
            f"the disk is full while the model's {part} {_verb(part)} fetched",
            where=str(error.filename or source.model_id),
            hint="free some space",
            error_id="RESOURCE-DISK",
        )
    return InputError(
        f"the model's {part} cannot be read: {first_line(error)}",
        where=source.model_id,
        hint=hint or _way_out(source),
        error_id="INPUT-MODEL",
    )


def _verb(part: str) -> str:
    return "are" if part.endswith("s") else "is"


def _way_out(source: ModelSource) -> str:
    if Path(source.folder_or_hub_id).is_dir():
        return (
            "a model folder holds config.json, safetensors weights and tokenizer files; "
            "write it again with save_pretrained"
        )
    if source.local_files_only:
        return "download it first, or set model.local_files_only to false"
    return "check the id, the revision and the network, or give a local folder"
