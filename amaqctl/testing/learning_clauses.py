"""The surrogate: finite, independent of what else is in flight, and right against differences.

Only activations have one; a gradient's quantizer is never asked. A surrogate's value is never
used, so its derivative is compared with what decoding really does:

- along x: (x̂(x + hv) - x̂(x - hv)) / 2h · v against the surrogate's vᵀJv, with h far larger than
  a quantization step, so that the staircase is looked at from afar;
- along the parameters p: E(p + ηd) - E(p - ηd) against 2η·∇E·d, where E = ½‖x̂ - x‖², ∇E is the
  surrogate's gradient for the incoming gradient x̂ - x, and d = -∇E scaled to a largest entry of 1.

Both are held to a factor, not to digits: rounding makes the left sides rough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.quantizer import FLOAT_DTYPES, Quantizer
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import NUM_CHANNELS, Subject, hidden_like, plain, same_bits

_SHAPE_BTC = (2, 16, NUM_CHANNELS)
_FACTOR_OF_X = 8.0
_FACTOR_OF_PARAMETERS = 16.0
_PARAMETER_STEPS = (0.5, 1.0, 2.0)
_STEPS_BEFORE = 8  # past whatever a method does only at the start


def surrogate(subject: Subject) -> None:
    """The surrogate keeps shape and dtype; its gradients, and the penalty, are finite."""
    if subject.role == "gradient":
        return
    for dtype in FLOAT_DTYPES:
        sender = subject.sender()
        for step in range(6):
            x = hidden_like(_SHAPE_BTC, step).to(dtype)
            context = subject.context(x, step)
            with case(f"{dtype}, step {step}"):
                subject.send(sender, x, context)
                _check_stand_in(sender.surrogate(x.clone().requires_grad_(), context), x)
                _check_penalty(sender.penalty(context))
                subject.train(sender, x, context)
                finite = all(bool(p.isfinite().all()) for p in sender.parameters())
                expect(finite, "finite parameters after a step", "NaN or infinity")
                allocation = sender.allocation()
                expect(
                    allocation is None or isinstance(allocation, BitAllocation),
                    "allocation() to be a BitAllocation or None",
                    type(allocation).__name__,
                )
    _check_groups(subject.sender())
    _check_in_flight(subject)


def _check_stand_in(stand_in: Tensor, x: Tensor) -> None:
    expect(stand_in.shape == x.shape, f"shape {tuple(x.shape)}", tuple(stand_in.shape))
    expect(stand_in.dtype == x.dtype, str(x.dtype), stand_in.dtype)
    expect(stand_in.requires_grad, "a stand-in with a gradient to x", "one without")


def _check_penalty(penalty: Tensor | None) -> None:
    if penalty is not None:
        expect(penalty.numel() == 1, "a scalar penalty", f"shape {tuple(penalty.shape)}")
        expect(bool(penalty.isfinite()), "a finite penalty", float(penalty.detach()))


def _check_groups(sender: Quantizer) -> None:
    grouped = [id(p) for group in sender.param_groups() for p in group["params"]]
    own = [id(p) for p in sender.parameters() if p.requires_grad]
    with case("param_groups()"):
        expect(sorted(grouped) == sorted(own), f"all {len(own)} parameters once", len(grouped))


def _check_in_flight(subject: Subject) -> None:
    """Two micro-batches forward and then two backward learn what one after the other does."""
    after_another, at_once = subject.sender(), subject.sender()
    for step in range(4):
        parts = [hidden_like(_SHAPE_BTC, 2 * step + i) for i in range(2)]
        contexts = [subject.context(x, step, micro_batch=i) for i, x in enumerate(parts)]
        for x, context in zip(parts, contexts, strict=True):
            subject.send(after_another, x, context)
            after_another.surrogate(x.requires_grad_(), context).backward(torch.ones_like(x))
        stand_ins = []
        for x, context in zip(parts, contexts, strict=True):
            subject.send(at_once, x, context)
            stand_ins.append(at_once.surrogate(x.requires_grad_(), context))
        for stand_in in stand_ins:
            stand_in.backward(torch.ones_like(stand_in))
        named = zip(after_another.named_parameters(), at_once.parameters(), strict=True)
        for (name, one), other in named:
            with case(f"two micro-batches in flight, step {step}, gradient of '{name}'"):
                expect((one.grad is None) == (other.grad is None), "a gradient in both", "one")
                if one.grad is not None and other.grad is not None:
                    same = same_bits(one.grad, other.grad)
                    expect(same, "the gradient of one after the other", "another")


def differences(subject: Subject) -> None:
    """The surrogate's derivatives agree with differences of what is decoded, to a factor."""
    if subject.role == "gradient":
        return
    with case("along x"):
        _along_x(subject)
    with case("along the parameters"):
        _along_parameters(subject)


def _along_x(subject: Subject) -> None:
    x, direction = plain(_SHAPE_BTC, 1), plain(_SHAPE_BTC, 2)
    measured = _dot(_fresh(subject, x + direction) - _fresh(subject, x - direction), direction) / 2
    sender, context = subject.sender(), subject.context(x)
    subject.send(sender, x, context)
    leaf = x.clone().requires_grad_()
    (at_x,) = torch.autograd.grad(sender.surrogate(leaf, context), leaf, direction)
    _check_ratio(_dot(at_x, direction), measured, _FACTOR_OF_X)


def _fresh(subject: Subject, x: Tensor) -> Tensor:
    return subject.receive(
        subject.receiver(), subject.send(subject.sender(), x, subject.context(x))
    )


def _along_parameters(subject: Subject) -> None:
    sender, receiver = subject.sender(), subject.receiver()
    scale_C = torch.logspace(-1, 1, NUM_CHANNELS)  # unlike channels: there is something to learn
    for step in range(_STEPS_BEFORE):
        x = plain(_SHAPE_BTC, step) * scale_C
        subject.receive(receiver, subject.train(sender, x, subject.context(x, step)))
    x = plain(_SHAPE_BTC, _STEPS_BEFORE) * scale_C
    context = subject.context(x, _STEPS_BEFORE)
    states = (_copied(sender), _copied(receiver))

    def error_at(shifts: list[Tensor]) -> tuple[float, Tensor]:
        """E, and x̂ - x, with the parameters moved."""
        ends = subject.sender(), subject.receiver()
        for end, state in zip(ends, states, strict=True):
            end.load_state_dict(state)
        with torch.no_grad():
            for parameter, shift in zip(ends[0].parameters(), shifts, strict=True):
                parameter.add_(shift)
        off = subject.receive(ends[1], subject.send(ends[0], x, context)) - x
        return 0.5 * _dot(off, off), off

    still = [torch.zeros_like(p) for p in sender.parameters()]
    _, off = error_at(still)
    slopes = _parameter_slopes(subject, states[0], x, off)
    peak = max((float(s.abs().max()) for s in slopes), default=0.0)
    if peak == 0:  # nothing learned from activations, or nothing to gain here
        return
    directions = [-s / peak for s in slopes]
    predicted = sum(_dot(s, d) for s, d in zip(slopes, directions, strict=True))
    measured = [
        (error_at([e * d for d in directions])[0] - error_at([-e * d for d in directions])[0])
        / (2 * e)
        for e in _PARAMETER_STEPS
    ]
    _check_ratio(predicted, sum(measured) / len(measured), _FACTOR_OF_PARAMETERS)


def _parameter_slopes(
    subject: Subject, state: dict[str, Tensor], x: Tensor, off: Tensor
) -> list[Tensor]:
    sender, context = subject.sender(), subject.context(x, _STEPS_BEFORE)
    sender.load_state_dict(state)
    subject.send(sender, x, context)
    sender.surrogate(x.clone().requires_grad_(), context).backward(off)
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in sender.parameters()]


def _check_ratio(predicted: float, measured: float, factor: float) -> None:
    agree = predicted * measured > 0 and 1 / factor <= measured / predicted <= factor
    expect(
        agree,
        f"a difference like the surrogate's {predicted:.4g}, to a factor of {factor:g}",
        f"{measured:.4g}",
    )


def _copied(quantizer: Quantizer) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in quantizer.state_dict().items()}


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())
