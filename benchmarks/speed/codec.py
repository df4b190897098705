"""Every built-in method against a copy of the same tensor: encode, decode, real bytes.

    python benchmarks/speed/codec.py [--quick]

Encode is `quantize` and `Message.to_bytes`, decode is `Message.from_bytes` and `dequantize`, both
through the checks of a channel's ends. `amaq` is timed as it trains: 16 steps in a row, of which
two measure error curves (on the large shape 8 and one), gradients observed; its figure is the
mean. `aq-sgd` is on later visits.
Prints the part of the record; `run.py` makes both implementations of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from inputs import BATCH, DTYPES, LARGE, SMALL, TINY, Shape, gradients, hidden_states
from timing import Call, Clock, printed, round_robin, row_of

from amaqctl.quantizer import QuantizerEnd, Site, TensorContext
from amaqctl.quantizer.choice import resolve_quantizer
from amaqctl.wire import Message

ROUNDS = 5
STEPS = 16
"""Consecutive steps of `amaq` in a round; half as many on the large shape, with one error curve."""
_WARM_UP_STEPS = 8
_TOTAL_STEPS = 1000


@dataclass(frozen=True)
class Method:
    """A quantizer and its options, under the title of its rows."""

    title: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def varies(self) -> bool:
        """Whether its steps are not alike, so that their mean counts."""
        return self.name == "amaq"


NONE = Method("none", "none")
FIXED = Method("fixed 4 bits", "fixed", {"bits": 4, "scale": "channel"})
GROUP = Method("group 64, 4 bits", "group", {"bits": 4, "group_size": 64})
AQ_SGD = Method("aq-sgd 4 bits", "aq-sgd", {"bits": 4})
AMAQ = Method("amaq 4 bits", "amaq", {"target_bits": 4})
AMAQ_3 = Method("amaq 3 bits", "amaq", {"target_bits": 3})
METHODS = (NONE, FIXED, GROUP, AQ_SGD, AMAQ, AMAQ_3)


class CodecCase:
    """Both ends of one channel.

    Args:
        method: what quantizes.
        shape, dtype: of the tensors.
        num_calls: calls in a round; of `amaq` consecutive steps.
    """

    def __init__(
        self, method: Method, shape: Shape, dtype: str, num_calls: int, device: str = "cpu"
    ) -> None:
        self.labels = {"method": method.title, "shape": shape.name, "dtype": dtype}
        self.shape, self.device = shape, device
        self.figure = "mean" if method.varies else "median"
        self._observes = method.varies
        self._num_calls = num_calls
        self._step = 0
        self._name = method.name
        self._dtype = DTYPES[dtype]
        self._ends = dict(self._made(method))
        self.num_bytes = 0

    def _made(self, method: Method) -> Iterator[tuple[str, QuantizerEnd]]:
        num_batch, num_tokens, num_channels = self.shape.sizes
        resolved = resolve_quantizer(method.name, dict(method.options))
        for end in ("sender", "receiver"):
            site = Site(0, "activation", num_channels, num_tokens, num_batch, 17, end=end)
            yield end, resolved.end(site, torch.device(self.device))

    def calls(self) -> list[Call]:
        """One round; in the first, which does not count, memories and means begin."""
        return [self._call() for _ in range(self._num_calls if self._step else _WARM_UP_STEPS)]

    def _call(self) -> Call:
        step, self._step = self._step, self._step + 1
        x = hidden_states(self.shape, self._dtype, step % 2, self.device)
        ids = tuple(range(self.shape.sizes[0]))
        context = TensorContext("activation", 0, step, _TOTAL_STEPS, sample_ids=ids)
        clock = Clock(self.device)
        with clock.of("encode"):
            quantized = self._ends["sender"].quantize(x, context)
            data = Message(self._name, context, quantized, sequence=step).to_bytes()
        if self._observes:
            self._observe(x, context, clock)
        with clock.of("decode"):
            message = Message.from_bytes(data)
            received = message.quantized.to(x.device)
            self._ends["receiver"].dequantize(received, message.context)
        self.num_bytes = len(data)
        return clock.call

    def _observe(self, x: torch.Tensor, context: TensorContext, clock: Clock) -> None:
        """What the backward pass does at the sender, and nothing else of it."""
        gradient = gradients(self.shape, self._dtype, self.device)
        leaf = x.detach().requires_grad_()
        with clock.of("observe"):
            stand_in = self._ends["sender"].surrogate(leaf, context)
            torch.autograd.grad(stand_in, leaf, gradient)


def num_calls(method: Method, shape: Shape) -> int:
    """Calls in a round."""
    if method.varies:
        return STEPS // 2 if shape == LARGE else STEPS
    return 2 if shape == LARGE else 8


def cases(
    methods: Iterable[Method], shapes: Iterable[Shape], dtypes: Iterable[str], device: str = "cpu"
) -> list[CodecCase]:
    """All combinations."""
    shapes, dtypes = list(shapes), list(dtypes)
    return [
        CodecCase(method, shape, dtype, num_calls(method, shape), device)
        for shape in shapes
        for method in methods
        for dtype in dtypes
    ]


def measure(quick: bool) -> dict[str, Any]:
    """The part of the record."""
    device = os.environ.get("SPEED_DEVICE", "cpu")
    shapes = [TINY] if quick else [LARGE, SMALL, BATCH]
    made = cases(METHODS, shapes, DTYPES, device)
    rows = []
    for timed, case in zip(round_robin(made, 2 if quick else ROUNDS), made, strict=True):
        bits = 8 * case.num_bytes / case.shape.num_values
        rows.append({**row_of(timed), "bits": round(bits, 3)})
    return {"has_native": has_native(), "rows": rows}


def has_native() -> bool:
    """Whether this tree has a compiled codec, built or not, and it is not switched off."""
    is_there = find_spec("amaqctl.bits.native") is not None
    return is_there and os.environ.get("AMAQCTL_NATIVE") != "0"


if __name__ == "__main__":
    printed(measure)
