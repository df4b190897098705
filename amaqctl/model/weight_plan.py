"""Which tensor of the weight files fills which parameter of the whole model.

Everything is compared before anything is loaded, and for the whole model, not for one stage: a
tensor that no stage would use is a fault, since it means that files and config.json are of
different models (a layer too few, quantized weights with their scales).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from amaqctl.errors import InputError
from amaqctl.model.source import ModelSource

# Buffers that older releases of transformers saved, and that every model makes by itself.
_SAVED_OF_OLD = r"rotary_emb\.inv_freq$|(^|\.)position_ids$|attn\.masked_bias$"
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
_FLOATING = ("F64", "F32", "F16", "BF16")


def check_num_blocks(names: Mapping[str, Any], num_layers: int, source: ModelSource) -> None:
    """Compare the number of blocks in the weight files with config.json's.

    Args:
        names: tensors of the weight files by name.

    Raises:
        InputError: they differ.
    """
    blocks = {int(found[1]) for name in names if (found := _BLOCK.search(name))}
    if blocks and max(blocks) + 1 != num_layers:
        extra = next(n for n in names if (m := _BLOCK.search(n)) and int(m[1]) == max(blocks))
        raise _fault(
            source,
            f"the weights have {max(blocks) + 1} blocks (such as {extra}), and config.json gives "
            f"{num_layers} (num_hidden_layers)",
        )


def plan(
    model: Any, vendor: Any, tensors: Mapping[str, Any], source: ModelSource
) -> dict[str, Any]:
    """The slices of ``tensors`` by the names that the whole ``model`` gives its weights.

    Args:
        model: whole, still without weights.
        vendor: its class, which knows what is tied and what old files hold beside the weights.
        tensors: slices by name in the files, which may lack the base model's prefix or have it
            where the model does not.

    Raises:
        InputError: a tensor that no part of the model would use, two for one place, one of
            another shape or of no floating-point type, or a weight that has none.
    """
    places: dict[str, Any] = model.state_dict()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found: dict[str, str] = {}
    unused = []
    for name in tensors:
        place = _place(name, places, model.base_model_prefix)
        if place is None:
            unused.append(name)
        elif place in found:
            both = f"{found[place]} and {name}"
            raise _fault(source, f"two tensors of the weights are for {place}: {both}")
        else:
            found[place] = name
    _check_unused([name for name in unused if not _is_ignored(name, vendor)], source)
    for place, name in found.items():
        if place in parameters:
            _check_fit(name, tensors[name], tuple(places[place].shape), source)
    tied = (vendor._tied_weights_keys or {}) if model.config.tie_word_embeddings else {}
    for place, other in tied.items():  # either of the two stands for both
        if place in found and other not in found:
            found[other] = found.pop(place)
    _check_missing(sorted(parameters - set(found) - set(tied)), source)
    return {place: tensors[name] for place, name in found.items()}


def _place(name: str, places: Mapping[str, Any], prefix: str) -> str | None:
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if candidate in places:
            return candidate
    return None


def _is_ignored(name: str, vendor: Any) -> bool:
    patterns = [_SAVED_OF_OLD, *(vendor._keys_to_ignore_on_load_unexpected or ())]
    return any(re.search(pattern, name) for pattern in patterns)


def _check_unused(names: list[str], source: ModelSource) -> None:
    if not names:
        return
    quantized = any(n.endswith(("scale", "scale_inv", "zeros", "qweight", "absmax")) for n in names)
    raise _fault(
        source,
        f"the weights hold what belongs to no part of the model: {_some(names)} "
        f"({len(names)} in all)",
        "the weights look quantized: give the model as it was before" if quantized else None,
    )


def _check_fit(name: str, tensor: Any, shape: tuple[int, ...], source: ModelSource) -> None:
    found, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
    if found != shape:
        raise _fault(
            source, f"{name} has the shape {found} in the weights, and {shape} by config.json"
        )
    if dtype not in _FLOATING:
        raise _fault(
            source,
            f"{name} is of type {dtype}, and LoRA is trained on {', '.join(_FLOATING)} only",
            "give the model as it was before quantization",
        )


def _check_missing(names: list[str], source: ModelSource) -> None:
    if names:
        raise _fault(source, f"weights are missing: {_some(names)} ({len(names)} in all)")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, …"


def _fault(source: ModelSource, message: str, hint: str | None = None) -> InputError:
    return InputError(
        message,
        where=source.model_id,
        hint=hint or "the weight files and config.json must come from the same model",
        error_id="INPUT-MODEL",
    )
