"""One quantizer, fed a trace in order, at both ends of every channel.

Nothing here is simulated: messages are encoded to bytes and decoded from them by separate
instances, as in training. Quantizers that learn are trained as in training too: the surrogate is
taken at each activation, the gradient recorded for it is sent back through it, and AdamW steps
once the step's messages are over. The recorded tensors do not react to it: the model saw lossless
messages.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.errors import AmaqError, CheckError, QuantizationError
from amaqctl.quantizer import QuantizedTensor, QuantizerEnd, Role, Site, TensorContext
from amaqctl.trace.choice import Choice
from amaqctl.trace.measure import Measurement, measurement
from amaqctl.wire import Message

_LEARNS = "it learns from the gradient that it would quantize"


class _Ends:
    """The instances of one channel: sender, receiver, and for verification a second receiver."""

    def __init__(self, choice: Choice, site: Site, quantizer_lr: float, verify: bool) -> None:
        self.sender = choice.make(site)
        self.receiver = choice.make(site)
        self.mirror: QuantizerEnd | None = choice.make(site) if verify else None
        self.num_sent = 0
        groups = self.sender.param_groups()
        defaults = {"lr": quantizer_lr, "weight_decay": 0.0}
        self.optimizer = (
            torch.optim.AdamW([{**defaults, **group} for group in groups]) if groups else None
        )


class Replay:
    """Feeds one quantizer.

    Args:
        choice: the quantizer.
        quantizer_lr: learning rate of what it learns.
        verify: check every message; see `CheckError` below.

    Attributes:
        measured: what each message cost and lost.
        skipped: why a role was left out.
        failure: what the quantizer did wrong, after which it is fed no more.
    """

    def __init__(self, choice: Choice, quantizer_lr: float, verify: bool = False) -> None:
        self.choice = choice
        self.measured: list[Measurement] = []
        self.skipped: dict[Role, str] = {}
        self.failure: AmaqError | None = None
        self._quantizer_lr = quantizer_lr
        self._verify = verify
        self._ends: dict[tuple[int, Role], _Ends] = {}
        self._in_flight: dict[tuple[int, int], list[Tensor]] = {}
        self._received: dict[tuple[int, int], BitAllocation | None] = {}
        self._step = -1

    def activation(
        self, site: Site, context: TensorContext, x_BTC: Tensor, widths: BitAllocation | None
    ) -> BitAllocation | None:
        """Send an activation.

        Args:
            site: of its channel.
            context: as recorded.
            x_BTC: as recorded.
            widths: what a gradient reuses if this quantizer has no widths of its own.

        Returns:
            The widths of the message sent, or ``widths`` where it has none.

        Raises:
            QuantizationError: the quantizer refuses the tensor.
            PluginError: it breaks its contract.
            CheckError: verification was asked for and found a difference.
        """
        self._enter_step(context.step)
        place = (context.link, context.micro_batch)
        quantized = self._send(site, context, x_BTC)
        if quantized is not None:
            sender = self._ends[context.link, "activation"].sender
            self._in_flight[place] = _differentiable(sender, x_BTC, context)
            if quantized.codes is not None:
                widths = quantized.codes.allocation
        self._received[place] = widths
        return widths

    def gradient(
        self, site: Site, context: TensorContext, gradient_BTC: Tensor, is_sent: bool = True
    ) -> None:
        """Send the gradient of an earlier activation, and let the activation's sender learn.

        Args: as for `activation`; ``is_sent`` False only learns.

        Raises: as `activation`.
        """
        self._enter_step(context.step)
        place = (context.link, context.micro_batch)
        context = replace(context, allocation=self._received.pop(place, None))
        if is_sent:
            self._send(site, context, gradient_BTC)
        outputs = self._in_flight.pop(place, [])
        gradients: list[Tensor | None] = [gradient_BTC, None]  # a penalty is a scalar
        learned = [(o, g) for o, g in zip(outputs, gradients, strict=False) if o.requires_grad]
        if learned:
            sender = self._ends[context.link, "activation"].sender
            with sender.blamed_in_backward(context):
                torch.autograd.backward([o for o, _ in learned], [g for _, g in learned])

    def _enter_step(self, step: int) -> None:
        """Once a step is over, what it taught is applied, as in training."""
        if step == self._step:
            return
        self._step = step
        for ends in self._ends.values():
            if ends.optimizer is not None:
                ends.optimizer.step()
                ends.optimizer.zero_grad(set_to_none=True)

    def _send(self, site: Site, context: TensorContext, x: Tensor) -> QuantizedTensor | None:
        """Send a tensor, unless its role is left out.

        A quantizer that refuses the first tensor of a role is not made for the role.
        """
        role = context.role
        if role in self.skipped:
            return None
        place = (context.link, role)
        is_first = not any(m.role == role for m in self.measured)
        try:
            if place not in self._ends:
                self._ends[place] = _Ends(self.choice, site, self._quantizer_lr, self._verify)
            if role == "gradient" and self._ends[place].optimizer is not None:
                self.skipped[role] = _LEARNS
                return None
            return self._through(self._ends[place], context, x)
        except QuantizationError as error:
            if not is_first:
                raise
            self.skipped[role] = error.message
            return None

    def _through(self, ends: _Ends, context: TensorContext, x: Tensor) -> QuantizedTensor:
        started = time.perf_counter()
        quantized = ends.sender.quantize(x, context)
        message = Message(self.choice.name, context, quantized, sequence=ends.num_sent)
        with ends.sender.offer.blamed("quantize", context.place):
            data, sizes = message.to_bytes_and_sizes()
        encoded = time.perf_counter()
        arrived = Message.from_bytes(data)
        decoded = ends.receiver.dequantize(arrived.quantized, arrived.context)
        ended = time.perf_counter()
        ends.num_sent += 1
        if ends.mirror is not None:
            expected = ends.mirror.dequantize(quantized, arrived.context)
            self._compare(context, arrived.to_bytes() == data, same_bits(decoded, expected))
        self.measured.append(
            measurement(context, x, decoded, sizes, encoded - started, ended - encoded)
        )
        return quantized

    def _compare(self, context: TensorContext, same_message: bool, same_values: bool) -> None:
        if same_message and same_values:
            return
        what = "decodes from its bytes to other values than before they were packed"
        if not same_message:
            what = "makes a message that is another when it is read and written again"
        raise CheckError(
            f"'{self.choice.label}' {what}",
            where=context.place,
            hint=f"the quantizer is at fault: amaqctl plugins {self.choice.name}",
            error_id="CHECK-VERIFY",
        )


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape, one dtype and the very same bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    raw_a, raw_b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(raw_a, raw_b)


def _differentiable(sender: QuantizerEnd, x: Tensor, context: TensorContext) -> list[Tensor]:
    """The surrogate and, once a step, the penalty: what the gradient is sent back through."""
    outputs = [sender.surrogate(x.detach().requires_grad_(), context)]
    penalty = sender.penalty(context) if context.micro_batch == 0 else None
    return outputs if penalty is None else [*outputs, penalty]
