"""The hub, asked once: whether it can be reached and has the model.

transformers tries for most of a minute before it gives up, for each file anew, and a mistyped
folder would be waited for like that.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from amaqctl.errors import InputError
from amaqctl.model.reading import first_line
from amaqctl.model.source import ModelSource, is_cached

_TIMEOUT_SECONDS = 10.0


def check_hub(source: ModelSource) -> None:
    """Ask the hub for a model that is neither a folder nor fetched before; others pass.

    Raises:
        InputError: the hub has no such model or revision, or cannot be asked.
    """
    hub_id = source.folder_or_hub_id
    if source.local_files_only or Path(hub_id).is_dir() or is_cached(hub_id):
        return
    try:
        HfApi().model_info(hub_id, revision=source.revision, timeout=_TIMEOUT_SECONDS)
    except RepositoryNotFoundError as error:
        raise _fault(source, "no such folder here, and no such public model on the hub") from error
    except RevisionNotFoundError as error:
        raise _fault(source, f"the hub's model has no revision {source.revision}") from error
    except Exception as error:
        why = f"no such folder here, and no answer from the hub: {first_line(error)}"
        raise _fault(source, why) from error


def _fault(source: ModelSource, message: str) -> InputError:
    return InputError(
        message,
        where=source.model_id,
        hint="check the path or the id, the revision and the network",
        error_id="INPUT-MODEL",
    )
