"""What an evaluation asks of the logits, and the few numbers that answer it.

Logits are taken where the last stage is and never travel: a stage held elsewhere answers with a sum
of losses, a choice or a token a row.

Legend: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amaqctl.engine.stage import token_loss


@dataclass(frozen=True)
class Look:
    """One forward without training.

    Args:
        step: steps trained so far.
        generation: number of the generation whose key-value cache it extends; None: no cache.
        wants_loss: the summed loss of the labels.
        choices: token ids among which the likeliest is wanted, a row.
        choice_positions: where in each row; as many as there are rows, where there are choices.
        wants_next: the likeliest token after the last one, a row.
    """

    step: int
    generation: int | None = None
    wants_loss: bool = False
    choices: tuple[int, ...] = ()
    choice_positions: tuple[int, ...] = ()
    wants_next: bool = False


@dataclass(frozen=True)
class Seen:
    """What a `Look` was after.

    Args:
        loss: summed over the labels, in nats.
        choices: for each row, index of the likeliest choice.
        next_tokens: for each row.
    """

    loss: float = 0.0
    choices: tuple[int, ...] = ()
    next_tokens: tuple[int, ...] = ()


def seen_in(logits_BTV: Tensor, look: Look, labels_BT: Tensor | None) -> Seen:
    """Reduce logits to what was asked for."""
    loss, choices, next_tokens = 0.0, (), ()
    if look.wants_loss:
        assert labels_BT is not None, "a loss needs labels"
        loss = float(token_loss(logits_BTV, labels_BT.to(logits_BTV.device)))
    if look.choices:
        positions_B = torch.tensor(look.choice_positions, device=logits_BTV.device)
        at_prompt_BV = logits_BTV[torch.arange(len(look.choice_positions)), positions_B]
        choices = tuple(at_prompt_BV[:, list(look.choices)].argmax(-1).tolist())
    if look.wants_next:
        next_tokens = tuple(logits_BTV[:, -1].argmax(-1).tolist())
    return Seen(loss, choices, next_tokens)
