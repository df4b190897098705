"""The tensors of a trace, as they were when they were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from amaqctl.errors import InputError, PluginError
from amaqctl.quantizer import QuantizerEnd, Role, resolve_quantizer
from amaqctl.trace.reader import Trace
from amaqctl.wire import Message


class RecordedTensors:
    """Decodes the messages of a trace one after the other, by the quantizer that recorded them.

    Args:
        trace: whose messages carry their tensors losslessly.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._recorders: dict[tuple[int, Role, str], QuantizerEnd] = {}
        self._activations: dict[tuple[int, int], Any] = {}

    def __iter__(self) -> Iterator[tuple[Message, Tensor]]:
        """Each message and its tensor (B, T, C).

        Raises:
            InputError: the trace is damaged, or a gradient has no activation of its step, shape
                and dtype before it.
            PluginError: the quantizer that recorded it is not installed.
        """
        for number, message in enumerate(self._trace):
            self._check_partner(number, message)
            yield message, self._tensor(number, message)

    def _tensor(self, number: int, message: Message) -> Tensor:
        recorder = self._recorder(message)
        try:
            x_BTC = recorder.dequantize(message.quantized, message.context)
        except Exception as error:
            raise self._damaged(
                f"record {number} cannot be decoded: {type(error).__name__}: {error}"
            ) from error
        return x_BTC

    def _recorder(self, message: Message) -> QuantizerEnd:
        link, role = message.context.link, message.context.role
        place = (link, role, message.quantizer)
        if place not in self._recorders:
            try:
                quantizer = resolve_quantizer(message.quantizer)
            except PluginError as error:
                error.where = str(self._trace.path)
                raise
            self._recorders[place] = quantizer.end(self._trace.site(link, role).site())
        return self._recorders[place]

    def _check_partner(self, number: int, message: Message) -> None:
        context, quantized = message.context, message.quantized
        place = (context.link, context.micro_batch)
        facts = (context.step, quantized.shape, quantized.dtype)
        if context.role == "activation":
            self._activations[place] = facts
        elif self._activations.pop(place, None) != facts:
            raise self._damaged(
                f"record {number}: a gradient of link {context.link} step {context.step} without "
                "the activation that it is for"
            )

    def _damaged(self, message: str) -> InputError:
        return InputError(
            message,
            where=str(self._trace.path),
            hint="record it again",
            error_id="INPUT-TRACE-DAMAGED",
        )
