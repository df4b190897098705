"""The norm over all LoRA gradients, from one number a parameter, wherever its stage is held.

It is the norm that `torch.nn.utils.clip_grad_norm_` of the unsplit model would take, bit for bit:
torch takes the norm of each gradient, stacks them in the order of the parameters, and takes the
norm of that. Sums of squares, or a norm of the stages' norms, round otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from amaqctl.errors import DivergedError

Norms = Mapping[int, float]


def parameter_norms(parameters: Mapping[int, nn.Parameter]) -> dict[int, float]:
    """L2 norm of each gradient, by place of its parameter in the whole model.

    Args:
        parameters: by place; one without a gradient is left out.
    """
    with_gradient = {place: p.grad for place, p in parameters.items() if p.grad is not None}
    if not with_gradient:
        return {}
    # What torch's own clipping calls.
    norms = torch._foreach_norm(list(with_gradient.values()))
    return dict(zip(with_gradient, torch.stack(list(norms)).tolist(), strict=True))


def total_norm(norms: Norms, step: int, device: torch.device) -> float:
    """L2 norm of all gradients together.

    Args:
        norms: from `parameter_norms`, of all stages.
        step: from 0, for messages.
        device: where the unsplit model would take it; sums there may have another order.

    Raises:
        DivergedError: it is not finite.
    """
    in_order = [norms[place] for place in sorted(norms)]
    stacked = torch.tensor(in_order, dtype=torch.float32, device=device)
    norm = float(torch.linalg.vector_norm(stacked)) if in_order else 0.0
    if not math.isfinite(norm):
        raise DivergedError(
            "a gradient is not finite", where=f"step {step}", hint="lower optimizer.lr"
        )
    return norm
