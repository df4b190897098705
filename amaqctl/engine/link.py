"""`Channel` and `Link`: a quantizer and a transport make one direction of a cut.

The sender's quantizer and the receiver's are separate instances, in one process too, and what
crosses between them is bytes. A channel also has a lossless pair, so that the same weights can be
run with the quantizers in the path and without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, passes
from amaqctl.errors import DivergedError, QuantizationError, WireError
from amaqctl.quantizer import LayoutError, QuantizerEnd, TensorContext
from amaqctl.transports.transport import Address, Transport
from amaqctl.wire import Limits, Message, SizeBreakdown

OnSent = Callable[[Message, SizeBreakdown], None]


@dataclass(frozen=True)
class QuantizerPair:
    """One registered quantizer's ends that are in this process: both, or one of them."""

    name: str
    sender_here: QuantizerEnd | None
    receiver_here: QuantizerEnd | None

    @property
    def sender(self) -> QuantizerEnd:
        """The sending end, which is here."""
        assert self.sender_here is not None, "the sender is another process"
        return self.sender_here

    @property
    def receiver(self) -> QuantizerEnd:
        """The receiving end, which is here."""
        assert self.receiver_here is not None, "the receiver is another process"
        return self.receiver_here

    @property
    def ends(self) -> dict[str, QuantizerEnd]:
        """Those that are here, by ``sender`` and ``receiver``."""
        both = {"sender": self.sender_here, "receiver": self.receiver_here}
        return {name: end for name, end in both.items() if end is not None}


@dataclass(frozen=True)
class Received:
    """What came out of a message: the decoded tensor, its context, and the widths it had."""

    value: Tensor
    context: TensorContext
    allocation: BitAllocation | None


class Channel:
    """One direction of one cut, or the end of it that is in this process.

    Args:
        address: link index and role.
        transport: moves the bytes.
        quantizers: the pair in use.
        lossless: the pair used when the boundary is to be clean.
        limits: what the receiver is ready to allocate.
        device: where received tensors go.
        on_sent: told of every message sent and what its bytes are for.

    Attributes:
        last_allocation: widths of the last training message sent; None before there is one.
        last_bits: bits a value, header and all, of the last training message sent; None before.
        num_sent, num_received: messages so far, hence the next sequence numbers of both ends.
    """

    def __init__(
        self,
        address: Address,
        transport: Transport,
        quantizers: QuantizerPair,
        lossless: QuantizerPair,
        limits: Limits,
        device: torch.device,
        on_sent: OnSent,
    ) -> None:
        self.address = address
        self.quantizers = quantizers
        self.is_clean = False
        self.last_allocation: BitAllocation | None = None
        self.last_bits: float | None = None
        self._transport = transport
        self._lossless = lossless
        self._limits = limits
        self._device = device
        self._on_sent = on_sent
        self.num_sent = 0
        self.num_received = 0
        self._is_broken = False

    def send(self, x: Tensor, context: TensorContext) -> None:
        """Quantize, pack and send a tensor (B, T, C).

        Raises:
            DivergedError: the tensor holds NaN or infinity.
            QuantizationError: the quantizer refuses the tensor, or makes what no message can carry
                or no receiver accepts.
            PluginError: the quantizer is at fault.
            WireError: this channel met a message that was not legal.
        """
        self._refuse_if_broken()
        x = x.detach()
        if not passes.all_finite(x):
            raise DivergedError(
                "NaN or infinity in the tensor to be sent",
                where=f"link {context.link} {context.role} step {context.step}",
                hint="lower optimizer.lr, or look at the data of this step",
            )
        context = self._own(context)
        pair = self._pair()
        with _one_thread():
            quantized = pair.sender.quantize(x, context)
        message = Message(pair.name, context, quantized, sequence=self.num_sent)
        with pair.sender.offer.blamed("quantize", context.place):
            data, sizes = message.to_bytes_and_sizes(self._limits)
        self._transport.send(self.address, data)
        self.num_sent += 1
        if context.training:
            self.last_bits = 8 * len(data) / max(x.numel(), 1)
            if quantized.codes is not None:
                self.last_allocation = quantized.codes.allocation
        self._on_sent(message, sizes)

    def receive(self) -> Received:
        """Wait for the next message and decode it from its bytes alone.

        A message that is not legal changes nothing, and ends the channel until `restart`: what
        comes after it was sent by a peer that is out of step, or lies.

        Raises:
            WireError: the bytes are no legal message, or not the one that is due, here or before.
            TransportError: none comes.
            QuantizationError, PluginError: both ends are in this process, and the quantizer refuses
                what it made, or is at fault.
        """
        self._refuse_if_broken()
        data = self._transport.receive(self.address)
        try:
            received = self._decoded(data)
        except WireError:
            self._is_broken = True
            raise
        self.num_received += 1
        return received

    def restart(self, num_sent: int, num_received: int) -> None:
        """Go on from a state that both ends agreed on; its sequence numbers come next."""
        self.num_sent, self.num_received = num_sent, num_received
        self._is_broken = False

    def _decoded(self, data: bytes) -> Received:
        message = Message.from_bytes(data, self._limits)
        self._check_due(message)
        self._check_fits(message)
        quantized = message.quantized.to(self._device)
        try:
            with _one_thread():
                value = self._pair().receiver.dequantize(quantized, message.context)
        except QuantizationError as error:
            # With both ends here and a layout as declared, the quantizer refuses its own message.
            if self._transport.is_local and not isinstance(error, LayoutError):
                raise
            raise WireError(error.message, where=self._place(), hint=error.hint) from error
        allocation = None if quantized.codes is None else quantized.codes.allocation
        return Received(value, message.context, allocation)

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        """The sender's differentiable stand-in for what was just sent."""
        with _one_thread():
            return self._pair().sender.surrogate(x, self._own(context))

    def penalty(self, context: TensorContext) -> Tensor | None:
        """What the sender adds to the loss, with the quantizers in the path or without."""
        return self.quantizers.sender.penalty(self._own(context))

    def _own(self, context: TensorContext) -> TensorContext:
        """The context of a tensor of this channel."""
        return replace(context, link=self.address.link, role=self.address.role)  # type: ignore[arg-type]

    def _refuse_if_broken(self) -> None:
        if self._is_broken:
            raise WireError(
                "a message before was not legal, and what follows it cannot be trusted",
                where=self._place(),
                hint="start both ends again from a checkpoint",
            )

    def _pair(self) -> QuantizerPair:
        return self._lossless if self.is_clean else self.quantizers

    def _check_due(self, message: Message) -> None:
        due = (self._pair().name, self.address.link, self.address.role, self.num_received)
        got = (
            message.quantizer,
            message.context.link,
            message.context.role,
            message.sequence,
        )
        for what, expected, actual in zip(
            ("quantizer", "link", "role", "sequence number"), due, got, strict=True
        ):
            if expected != actual:
                raise WireError(
                    f"a message with the {what} {actual!r} where {expected!r} was due",
                    where=self._place(),
                )

    def _check_fits(self, message: Message) -> None:
        """A tensor (B, T, C) of this site, and lengths that its mask can be made of."""
        site, context = self.quantizers.receiver.site, message.context
        shape, lengths = message.quantized.shape, message.context.lengths
        if len(shape) != 3 or shape[2] != site.num_channels:
            raise WireError(
                f"a tensor of shape {shape} where (batch, tokens, {site.num_channels}) was due",
                where=self._place(),
            )
        num_positions = context.first_position + shape[1]
        if num_positions > site.max_positions:
            raise WireError(
                f"{num_positions} positions where at most {site.max_positions} are legal",
                where=self._place(),
            )
        if lengths and (
            len(lengths) != shape[0] or max(lengths) > num_positions or min(lengths) < 1
        ):
            raise WireError(
                f"the lengths {lengths} do not fit {shape[0]} rows of {num_positions} positions",
                where=self._place(),
            )

        num_ids = len(context.sample_ids)
        must_have = context.training and self.address.role == "activation"
        if (num_ids or must_have) and num_ids != shape[0]:
            raise WireError(f"{num_ids} sample ids for {shape[0]} rows", where=self._place())

    def _place(self) -> str:
        return f"link {self.address.link} {self.address.role}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run a codec's many small operations in one thread.

    Waking a second one costs more than it saves, and sums taken in one order give the same bytes
    whatever the number of threads.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@dataclass(frozen=True)
class Link:
    """Both directions of one cut."""

    activations: Channel
    gradients: Channel

    def set_clean(self, is_clean: bool) -> None:
        """Take the quantizers out of the path, or put them back."""
        self.activations.is_clean = is_clean
        self.gradients.is_clean = is_clean
