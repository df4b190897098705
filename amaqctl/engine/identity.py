"""Which run a checkpoint belongs to: what must be the same for it to be gone on with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from amaqctl.engine.channels import channels_of
from amaqctl.engine.run_folder import DATA_FILES
from amaqctl.engine.stage import Stage

_SAMPLES = 64
_DIGEST = re.compile(r'"[0-9a-f]{64}"')
# Keys that name a place, by the key that tells what lies there (None: only results).
_PLACES = {
    None: ("profile.output.root",),
    "model.weights": ("model.id",),
    "data.fingerprint": tuple(f"profile.{key}" for key in DATA_FILES),
}


def weights_digest(stages: Mapping[int, Stage]) -> str:
    """SHA-256 over the frozen weights: every name, dtype and shape, and values of each tensor.

    Up to 64 evenly spaced values a tensor are looked at, which tells models apart and costs
    milliseconds where reading every value costs seconds. Of a base in 8 or 4 bits the codes are
    not: they follow from the files, but for last bits that another processor may round otherwise.
    """
    digest = hashlib.sha256()
    for index, stage in sorted(stages.items()):
        for name, parameter in sorted(stage.model.named_parameters()):
            if parameter.requires_grad:
                continue
            digest.update(f"{index}/{name} {parameter.dtype} {tuple(parameter.shape)} ".encode())
            if not parameter.is_floating_point():
                continue
            flat = parameter.detach().reshape(-1)
            num_samples = min(_SAMPLES, flat.numel())
            last = max(flat.numel() - 1, 0)
            places = [i * last // max(num_samples - 1, 1) for i in range(num_samples)]
            values = flat[torch.tensor(places, dtype=torch.int64, device=flat.device)]
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def quantizer_options(stages: Mapping[int, Stage]) -> dict[str, Any]:
    """Name and full options, defaults included, of the quantizer of each channel here."""
    found: dict[str, Any] = {}
    for place, channel in channels_of(stages).items():
        pair = channel.quantizers
        config = next(iter(pair.ends.values())).config  # both ends are of the same options
        found[place] = {"name": pair.name, "options": config.model_dump(mode="json")}
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, one entry a key: ``profile.lora.r: 8 then, 4 now``.

    Where a model or data lie does not count as long as they are the same. A key that came with a
    later version and is null does as it was without.
    """
    before, after = dict(_flat(then, "")), dict(_flat(now, ""))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {_told(_shown(before, key))} then, {_told(_shown(after, key))} now"
        for key in keys
        if _value(before, key) != _value(after, key) and not _is_only_place(key, before, after)
    ]


def _is_only_place(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a key says where something lies whose contents are known to be the same."""
    for contents, places in _PLACES.items():
        if key in places:
            return contents is None or (
                contents in before and before[contents] == after.get(contents)
            )
    return False


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat.get(key), ensure_ascii=False)


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "absent"


def _told(shown: str) -> str:
    """A digest by its beginning, as everywhere; it is compared as a whole."""
    return f"{shown[1:13]}…" if _DIGEST.fullmatch(shown) else shown
