"""What several clients of one server do with the weights that each trains by itself.

A client's own adapter sees its own data only. Every so many steps all clients take the mean of
theirs, and one that joins later begins with it.
"""

from __future__ import annotations

from amaqctl.engine.engine import Engine
from amaqctl.engine.fellows import Weights
from amaqctl.engine.shared_state import set_weights, shared_state, take_over, weights_of


def average(engine: Engine, step: int) -> int:
    """Replace the leader's own weights by their mean over all clients.

    Args:
        step: how many steps are done.

    Returns:
        Bytes that went there and back.
    """
    mean, num_bytes = engine.others.average(step, weights_of(engine.stages))
    set_weights(engine.stages, mean)
    return num_bytes


def follow_average(engine: Engine, step: int, weights: Weights) -> Weights:
    """Hand in what a client trained by itself; the mean over all clients."""
    mean, state = engine.fellows.mean_weights(step, weights, lambda: shared_state(engine.stages))
    if state is not None:
        take_over(engine.stages, state)
    return mean


def join(engine: Engine) -> int:
    """Enter a run that other clients are at, with the mean of their weights.

    Returns:
        Steps that are done.
    """
    step, weights = engine.others.join()
    set_weights(engine.stages, weights)
    return step
