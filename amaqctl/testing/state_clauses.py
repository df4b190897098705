"""What an instance remembers: nothing but its state, nothing in evaluation, never ever more."""

from __future__ import annotations

import gc
import sys
import types
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from amaqctl.quantizer import Quantizer
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import NUM_CHANNELS, Subject, hidden_like, same_bits

_SHAPE_BTC = (2, 8, NUM_CHANNELS)
_WARM_UP_STEPS, _MANY_STEPS = 15, 115
_SPARE_OBJECTS = 50  # half an object a step: small numbers may or may not be one and the same


def seeds(subject: Subject) -> None:
    """The same seed gives the same bytes, whatever torch's global generator has drawn."""
    first, second = subject.sender(), subject.sender()
    with torch.random.fork_rng(devices=[]):
        for step in range(6):
            x = hidden_like(_SHAPE_BTC, step)
            context = subject.context(x, step)
            with case(f"step {step}"):
                torch.manual_seed(step)
                data = subject.train(first, x, context)
                torch.manual_seed(step + 1000)
                again = subject.train(second, x, context)
                expect(data == again, "the same bytes twice", "others")


def evaluation(subject: Subject) -> None:
    """Evaluation changes no state, at either end, and no later message."""
    plain_ends = (subject.sender(), subject.receiver())
    evaluated_ends = (subject.sender(), subject.receiver())
    for step in range(8):
        x = hidden_like(_SHAPE_BTC, step)
        context = subject.context(x, step)
        with case(f"evaluation before step {step}"):
            _evaluate(subject, *evaluated_ends, step)
        with case(f"step {step} after an evaluation"):
            expected = subject.train(plain_ends[0], x, context)
            data = subject.train(evaluated_ends[0], x, context)
            expect(data == expected, "the bytes of a run without evaluations", "others")
            decoded = [subject.receive(ends[1], data) for ends in (plain_ends, evaluated_ends)]
            expect(same_bits(*decoded), "the same decoded bits", "others")


def _evaluate(subject: Subject, sender: Quantizer, receiver: Quantizer, step: int) -> None:
    before = [_copied_state(end) for end in (sender, receiver)]
    for shape in ((3, 6, NUM_CHANNELS), (1, 1, NUM_CHANNELS)):
        x = hidden_like(shape, 99)
        context = subject.context(x, step, training=False)
        # A score over examples knows their samples, a generation does not; one row stands for it.
        samples = tuple(range(shape[0])) if shape[0] > 1 else ()
        context = replace(context, sample_ids=samples)
        data = subject.send(sender, x, context)
        expect(data == subject.send(sender, x, context), "the same bytes twice", "others")
        decoded = subject.receive(receiver, data)
        expect(decoded.shape == x.shape, f"shape {shape}", tuple(decoded.shape))
        expect(bool(decoded.isfinite().all()), "finite values", "NaN or infinity")
    for end, old, new in zip(
        ("sender", "receiver"), before, map(_copied_state, (sender, receiver)), strict=True
    ):
        changed = [k for k in {*old, *new} if k not in old or k not in new or old[k] != new[k]]
        expect(not changed, f"an unchanged {end}", f"a change of {', '.join(sorted(changed))}")


def _copied_state(quantizer: Quantizer) -> dict[str, bytes]:
    return {key: save({"t": tensor}) for key, tensor in state_of(quantizer).items()}


def state_of(quantizer: Quantizer) -> dict[str, Tensor]:
    """The state as a checkpoint stores it.

    Raises:
        BrokenPromiseError: something in it is no tensor.
    """
    state: dict[str, Any] = quantizer.state_dict()
    for key, value in state.items():
        expect(isinstance(value, Tensor), f"a tensor as state '{key}'", type(value).__name__)
    return {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}


def resume(subject: Subject) -> None:
    """State goes through safetensors, and fresh ends go on with the very same bytes."""
    sender, receiver = subject.sender(), subject.receiver()
    for step in range(5):
        x = hidden_like(_SHAPE_BTC, step)
        subject.receive(receiver, subject.train(sender, x, subject.context(x, step)))
    resumed = subject.sender(), subject.receiver()
    with case("state after 5 steps, through safetensors"):
        for old, new in zip((sender, receiver), resumed, strict=True):
            new.load_state_dict(load(save(state_of(old))))
    for step in range(5, 12):
        x = hidden_like(_SHAPE_BTC, step)
        context = subject.context(x, step)
        with case(f"step {step}, resumed at step 5"):
            expected = subject.train(sender, x, context)
            data = subject.train(resumed[0], x, context)
            expect(data == expected, "the bytes of the run that was never stopped", "others")
            decoded = subject.receive(receiver, data), subject.receive(resumed[1], data)
            expect(same_bits(*decoded), "the same decoded bits", "others")


def memory(subject: Subject) -> None:
    """After warming up, a hundred more steps hold no more state, tensors or objects."""
    sender, receiver = subject.sender(), subject.receiver()
    held: list[Counter[str]] = []
    for step in range(_MANY_STEPS):
        x = hidden_like(_SHAPE_BTC, step % 7)
        subject.receive(receiver, subject.train(sender, x, subject.context(x, step)))
        if step + 1 in (_WARM_UP_STEPS, _MANY_STEPS):
            held.append(_held(subject, sender, receiver))
    for what, before in sorted(held[0].items()):
        most = before + (_SPARE_OBJECTS if what == "objects" else 0)
        with case(f"{what} held after {_WARM_UP_STEPS} and {_MANY_STEPS} steps"):
            expect(held[1][what] <= most, f"{most} or fewer", held[1][what])


_NOT_HELD = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.CodeType,
    types.FrameType,
)


def _held(subject: Subject, *ends: Quantizer) -> Counter[str]:
    """Sizes of all that the ends, or globals of the module they come from, keep alive."""
    state_bytes = sum(t.numel() * t.itemsize for end in ends for t in state_of(end).values())
    found = Counter({"bytes of state": state_bytes, "bytes of tensors": 0})
    seen: set[int] = set()
    waiting: list[Any] = [*ends, *vars(sys.modules[subject.cls.__module__]).values()]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or issubclass(type(thing), _NOT_HELD):
            continue
        seen.add(id(thing))
        found["objects"] += 1
        if issubclass(type(thing), Tensor):
            found["bytes of tensors"] += thing.numel() * thing.itemsize
            waiting.extend(t for t in (thing.grad_fn,) if t is not None)
        elif hasattr(type(thing), "next_functions"):  # a node of an autograd graph
            waiting.extend(node for node, _ in thing.next_functions if node is not None)
        waiting.extend(gc.get_referents(thing))
    return found
