"""Trained weights as bytes: a frame of the wire (kind 4) whose body is a safetensors file.

The header is empty; names are places of the weights in the whole model, in decimals.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from amaqctl.engine.fellows import Weights
from amaqctl.errors import WireError
from amaqctl.wire import read_frame, write_frame
from amaqctl.wire.frame import KIND_WEIGHTS, MAX_HEADER_BYTES, PREFIX_BYTES

Shapes = Mapping[int, tuple[int, ...]]
"""Of the weights that are due, by place."""
_VALUE_BYTES = 4
_NAME_BYTES = 200  # what safetensors says of one tensor, generously


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def max_weights_bytes(shapes: Shapes) -> int:
    """Longest legal frame with weights of these shapes."""
    values = sum(torch.Size(shape).numel() for shape in shapes.values())
    return PREFIX_BYTES + MAX_HEADER_BYTES + _VALUE_BYTES * values + _NAME_BYTES * len(shapes)


def weights_to_bytes(weights: Weights) -> bytes:
    """Weights, float32, as a frame."""
    named = {str(place): weights[place].detach().cpu().contiguous() for place in sorted(weights)}
    return write_frame(KIND_WEIGHTS, _Header(), save(named))


def weights_from_bytes(data: bytes, shapes: Shapes) -> dict[int, Tensor]:
    """Weights out of a frame, by place.

    Args:
        shapes: of all that are due, and no others.

    Raises:
        WireError: it is no such frame, weights are missing or more than due, or one has another
            shape or dtype or is not finite.
    """
    _, body = read_frame(data, KIND_WEIGHTS, _Header, max_weights_bytes(shapes))
    try:
        named: dict[str, Tensor] = load(bytes(body))
    except SafetensorError as error:
        raise WireError(f"illegal weights: {error}") from error
    due = {str(place): shape for place, shape in shapes.items()}
    if named.keys() != due.keys():
        first = min(named.keys() ^ due.keys())
        what = "missing" if first in due else "not due"
        raise WireError(f"illegal weights: those of place {first[:20]!r} are {what}")
    for name, tensor in named.items():
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != due[name]:
            raise WireError(
                f"illegal weights: place {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, "
                f"due is float32 of {due[name]}"
            )
        if not bool(tensor.isfinite().all()):
            raise WireError(f"illegal weights: place {name} is not finite")
    return {int(name): tensor for name, tensor in named.items()}
