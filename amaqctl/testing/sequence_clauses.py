"""Sequences as batches and generations send them: padding after, padding before, then one by one.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from amaqctl.quantizer import FLOAT_DTYPES, Quantizer, TensorContext
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import NUM_CHANNELS, Subject, hidden_like, plain, same_bits

_LENGTHS = (7, 1, 4)
_NUM_NEW_TOKENS = 3
_NUM_STEPS = 3
_LEAST_COSINE = 0.1


def padding(subject: Subject) -> None:
    """Where samples differ in length, padding is finite and the tokens come as without it."""
    for dtype in FLOAT_DTYPES:
        sender, receiver = subject.sender(), subject.receiver()
        for step in range(_NUM_STEPS):
            x = plain((len(_LENGTHS), max(_LENGTHS), NUM_CHANNELS), step).to(dtype)
            context = replace(subject.context(x, step), lengths=_LENGTHS)
            with case(f"{dtype}, lengths {_LENGTHS}, step {step}"):
                x = _zeros_in_padding(x, context)
                decoded = subject.receive(receiver, subject.train(sender, x, context))
                _check_tokens(decoded, x, _is_token(context, x))


def generation(subject: Subject) -> None:
    """A prompt padded on the left, then token after token; the training after is none the worse."""
    ends, untouched = (
        (subject.sender(), subject.receiver()),
        (subject.sender(), subject.receiver()),
    )
    for step in range(_NUM_STEPS):
        x = hidden_like((2, 8, NUM_CHANNELS), step)
        context = subject.context(x, step)
        with case(f"training step {step}, after a generation before each step"):
            expected = subject.train(untouched[0], x, context)
            data = subject.train(ends[0], x, context)
            expect(data == expected, "the bytes of a run without generations", "others")
            decoded = [subject.receive(end[1], data) for end in (ends, untouched)]
            expect(same_bits(*decoded), "the same decoded bits", "others")
        sent = [_generate(subject, *ends, step) for _ in range(2)]
        with case(f"the same generation again, step {step}"):
            expect(sent[0] == sent[1], "the same bytes", "others")


def _generate(subject: Subject, sender: Quantizer, receiver: Quantizer, step: int) -> list[bytes]:
    """All messages of one generation: a prompt, then a token at a time."""
    messages = []
    for token in range(_NUM_NEW_TOKENS + 1):
        num_positions = 1 if token else max(_LENGTHS)
        x = plain((len(_LENGTHS), num_positions, NUM_CHANNELS), 10 * step + token)
        context = replace(
            subject.context(x, step, training=False),
            lengths=tuple(length + token for length in _LENGTHS),
            left_padded=True,
            first_position=max(_LENGTHS) + token - 1 if token else 0,
        )
        with case(f"generation after step {step}, " + (f"token {token}" if token else "prompt")):
            x = x if token else _zeros_in_padding(x, context)
            messages.append(subject.send(sender, x, context))
            decoded = subject.receive(receiver, messages[-1])
            is_token_BT = torch.ones(x.shape[:2], dtype=torch.bool)
            _check_tokens(decoded, x, is_token_BT if token else _is_token(context, x))
    return messages


def _is_token(context: TensorContext, x: Tensor) -> Tensor:
    """Where there is no padding, bool (B, T)."""
    position_T = torch.arange(x.shape[1])
    lengths_B1 = torch.tensor(context.lengths).unsqueeze(1)
    if context.left_padded:
        return position_T >= x.shape[1] - lengths_B1
    return position_T < lengths_B1


def _zeros_in_padding(x: Tensor, context: TensorContext) -> Tensor:
    """As a stage sends it."""
    return x.masked_fill(~_is_token(context, x).unsqueeze(-1), 0.0)


def _check_tokens(decoded: Tensor, x: Tensor, is_token_BT: Tensor) -> None:
    expect(decoded.shape == x.shape, f"shape {tuple(x.shape)}", tuple(decoded.shape))
    expect(decoded.dtype == x.dtype, str(x.dtype), decoded.dtype)
    expect(bool(decoded.isfinite().all()), "finite values", "NaN or infinity")
    for row, is_token_T in enumerate(is_token_BT):
        ours, theirs = x[row, is_token_T].flatten(), decoded[row, is_token_T].flatten()
        cosine = float(torch.cosine_similarity(ours.float(), theirs.float(), 0))
        expect(
            cosine >= _LEAST_COSINE,
            f"a cosine of {_LEAST_COSINE} or more between the tokens sent and those that came",
            f"{cosine:.3f} in sample {row}",
        )
