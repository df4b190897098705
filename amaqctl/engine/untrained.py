"""What is wrong when something is not finite before training: never the learning rate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch

from amaqctl.engine.stage import Stage
from amaqctl.errors import DivergedError


@contextlib.contextmanager
def blamed_on_the_base(stages: Mapping[int, Stage], step: int) -> Iterator[None]:
    """In step 0 let a `DivergedError` name the base's weights or their type.

    Args:
        stages: those held here, by index.
        step: steps trained so far.

    Raises:
        DivergedError: what was raised within, with that hint.
    """
    try:
        yield
    except DivergedError as error:
        if step:
            raise
        message = f"before anything was trained: {error.message}"
        raise DivergedError(message, where=error.where, hint=_hint(stages)) from error


def _hint(stages: Mapping[int, Stage]) -> str:
    dtypes = set()
    for _, stage in sorted(stages.items()):
        for full_name, weight in stage.model.model.named_parameters():
            name = full_name.replace(".base_layer", "")
            if weight.requires_grad:
                continue
            dtypes.add(weight.dtype)
            if bool(weight.isnan().any()):
                return f"the base's weights hold NaN ({name}): take them anew, or another model"
            if bool(weight.isinf().any()):
                if weight.dtype != torch.float16:
                    return f"the base's weights hold infinity ({name}): take another model"
                return f"{name} does not fit into float16: set model.dtype to float32 or bfloat16"
    if torch.float16 in dtypes:
        return "the base overflows in float16: set model.dtype to float32 or bfloat16"
    return "the base itself overflows: check that weights and config.json are of one model"
