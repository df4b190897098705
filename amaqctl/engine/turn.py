"""Whether a message is of the turn that a stage is at: all that the stage knows is compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from amaqctl.engine.link import Received
from amaqctl.errors import WireError
from amaqctl.quantizer import TensorContext

_OF_THE_TURN = ("step", "total_steps", "micro_batch", "training")
_OF_THE_SAMPLES = ("sample_ids", "lengths", "left_padded", "first_position")


def check_turn(
    received: Received,
    own: TensorContext,
    shape_BT: Sequence[int] | None = None,
    *,
    knows_samples: bool = True,
) -> None:
    """Refuse a message of another turn, or one whose context lies.

    Args:
        received: what came.
        own: the context that the stage itself would give it.
        shape_BT: batch rows and tokens, where the stage knows them.
        knows_samples: whether ``own`` has the samples; without the data they come by message.

    Raises:
        WireError: naming the first thing that differs.
    """
    got = received.context
    for what in _OF_THE_TURN + (_OF_THE_SAMPLES if knows_samples else ()):
        if getattr(got, what) != getattr(own, what):
            raise WireError(
                f"a message with {what} {getattr(got, what)} where {getattr(own, what)} was due",
                where=f"link {got.link} {got.role}",
            )
    if shape_BT is not None and tuple(received.value.shape[:2]) != tuple(shape_BT):
        raise WireError(
            f"a tensor of shape {tuple(received.value.shape)} for a batch of {tuple(shape_BT)}",
            where=f"link {got.link} {got.role}",
        )


def check_gradient(received: Received, sent: Tensor) -> None:
    """Refuse a gradient that does not fit its activation.

    Raises:
        WireError: another shape or dtype.
    """
    if received.value.shape != sent.shape or received.value.dtype != sent.dtype:
        raise WireError(
            f"a gradient of {received.value.dtype} and shape {tuple(received.value.shape)} for "
            f"an activation of {sent.dtype} and shape {tuple(sent.shape)}",
            where=f"link {received.context.link} gradient",
        )
