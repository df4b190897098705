"""`Wrapper`: something in front of another quantizer: a rotation, a memory, an error feedback.

    y = transform(x)      sent by the inner quantizer      x̂ = inverse(ŷ)

A wrapper is a quantizer that leaves the grid to the one behind it. Two methods make one; what it
must send besides, it returns from `side` and declares in `side_layout`; what it remembers of each
message, it is told in `remember`, at both ends alike. Everything else (what the inner one learns,
its widths, reports and layout) passes through.

Legend: the shapes of x and y may differ in their channels only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.quantizer.choice import QuantizerChoice
from amaqctl.quantizer.contract import BitReport, Quantizer, QuantizerConfig
from amaqctl.quantizer.layout import Layout, SideLayout
from amaqctl.quantizer.site import Site, TensorContext
from amaqctl.quantizer.tensors import QuantizedTensor, restored

_INNER = "inner."


class Wrapper(Quantizer):
    """A transform in front of another quantizer.

    Attributes:
        inner: the instance behind it, a submodule.
        column: what a column of the inner one's codes is, for reports; None where a transform
            leaves it what it was.
    """

    class Config(QuantizerConfig):
        """Options of a wrapper: the quantizer behind it. Extend it with options of your own."""

        inner: QuantizerChoice = Field(
            default_factory=lambda: QuantizerChoice(name="amaq", options={}),
            description="the quantizer behind it: name and options",
        )

        @field_validator("inner", mode="before")
        @classmethod
        def _default_by_parts(cls, value: Any) -> Any:
            """Options without a name change those of the default, as ``--set`` may."""
            if not isinstance(value, Mapping) or "name" in value or "options" not in value:
                return value
            default = cls.model_fields["inner"].get_default(call_default_factory=True)
            if not isinstance(default, QuantizerChoice):
                return value
            own = value["options"]
            options = {**default.options, **own} if isinstance(own, Mapping) else own
            return {"name": default.name, **value, "options": options}

    column: ClassVar[str | None] = None

    def __init__(self, config: Wrapper.Config, site: Site) -> None:
        super().__init__(config, site)
        self._end = config.inner.resolved().end(self.inner_site(site))
        self.inner = self._end.quantizer
        self._side: Mapping[str, Tensor] = {}
        if self._remembers and site.end == "sender":
            self.keep_decoder()

    @abstractmethod
    def transform(self, x: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        """y, what the inner quantizer sends, differentiable by x. Changes no state.

        Args:
            x: float32, shape of the tensor to be sent.
            side: from `side`.
        """

    @abstractmethod
    def inverse(self, y: Tensor, side: Mapping[str, Tensor], context: TensorContext) -> Tensor:
        """x̂, float32, from what was decoded of y, float32; differentiable. Changes no state."""

    def side(self, x: Tensor, context: TensorContext) -> Mapping[str, Tensor]:
        """Side tensors of its own, in the dtypes that travel; none by default."""
        return {}

    def side_layout(
        self, shape: tuple[int, ...], context: TensorContext
    ) -> Mapping[str, SideLayout]:
        """What `side` returns for an x of this shape."""
        return {}

    def remember(self, decoded: Tensor, context: TensorContext, x: Tensor | None) -> None:
        """Told of every message once it is good, at both ends; override it to keep something.

        Of evaluation too, which must change nothing: test `context.training`. At the sender it is
        called within `quantize`, before `surrogate`. What the sender alone keeps is of no use to
        `inverse`, which must give the same at both ends.

        Args:
            decoded: x̂ as the receiver has it, float32, the same bits at both ends.
            x: what was to be sent, float32, at the sender; None at the receiver.
        """

    def inner_site(self, site: Site) -> Site:
        """Where the inner quantizer stands; other channels where the transform changes them."""
        return site

    def inner_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of y for an x of ``shape``."""
        return (*shape[:-1], self.inner.site.num_channels) if self._resizes else shape

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """The inner quantizer's message of y, with side tensors of both."""
        values = x.to(torch.float32)
        self._side = dict(self.side(values, context))
        y = self.transform(values, self._side, context).to(_inner_dtype(x.dtype))
        message = self._end.quantize(y, context)
        if self._remembers:
            y_decoded = self._end.decoded(message, context).to(torch.float32)
            self.remember(self.inverse(y_decoded, self._side, context), context, values)
        inner_side = {f"{_INNER}{name}": tensor for name, tensor in message.side.items()}
        return QuantizedTensor(tuple(x.shape), x.dtype, message.codes, {**inner_side, **self._side})

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """x̂ = inverse(ŷ), in the shape and dtype of x."""
        own = {n: t for n, t in quantized.side.items() if not n.startswith(_INNER)}
        y = self._end.dequantize(self._inner_message(quantized), context).to(torch.float32)
        values = self.inverse(y, own, context)
        if self._remembers:
            self.once_accepted(lambda: self.remember(values, context, None))
        return restored(values, quantized)

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout | None:
        """The inner one's, with side tensors of its own; None where the inner one declares none."""
        layout = self._end.layout(self.inner_shape(shape), _inner_dtype(dtype), context, allocation)
        if layout is None:
            return None
        inner_side = {f"{_INNER}{name}": side for name, side in layout.side.items()}
        return replace(layout, side={**inner_side, **self.side_layout(shape, context)})

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        """The inner one's stand-in, through the transform and back."""
        y = self.transform(x.to(torch.float32), self._side, context)
        stand_in = self._end.surrogate(y.to(_inner_dtype(x.dtype)), context)
        return self.inverse(stand_in.to(torch.float32), self._side, context).to(x.dtype)

    def penalty(self, context: TensorContext) -> Tensor | None:
        """The inner one's."""
        return self._end.penalty(context)

    def param_groups(self) -> list[dict[str, Any]]:
        """The inner one's groups, and one of what the wrapper itself learns."""
        groups = self._end.param_groups()
        inner = {id(parameter) for parameter in self.inner.parameters()}
        own = [p for p in self.parameters() if id(p) not in inner and p.requires_grad]
        return [*groups, {"params": own}] if own else groups

    def allocation(self) -> BitAllocation | None:
        """The inner one's widths."""
        return self._end.allocation()

    def report(self) -> BitReport:
        """The inner one's, its columns by their own name where the transform mixes them."""
        report = self._end.report()
        return replace(report, column=self.column) if self.column else report

    def decoded(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """By the inner one's twin: the wrapper's own state is the same at both ends."""
        own = {n: t for n, t in quantized.side.items() if not n.startswith(_INNER)}
        y = self._end.decoded(self._inner_message(quantized), context).to(torch.float32)
        return restored(self.inverse(y, own, context), quantized)

    def keep_decoder(self) -> None:
        """The inner one's."""
        self.inner.keep_decoder()

    @property
    def _remembers(self) -> bool:
        return type(self).remember is not Wrapper.remember

    @property
    def _resizes(self) -> bool:
        return self.inner.site.num_channels != self.site.num_channels

    def _inner_message(self, quantized: QuantizedTensor) -> QuantizedTensor:
        side = {
            name.removeprefix(_INNER): tensor
            for name, tensor in quantized.side.items()
            if name.startswith(_INNER)
        }
        return QuantizedTensor(
            self.inner_shape(quantized.shape),
            _inner_dtype(quantized.dtype),
            quantized.codes,
            side,
        )


def _inner_dtype(dtype: torch.dtype) -> torch.dtype:
    """That of y: a sum of a few float16 values may be beyond float16."""
    return torch.float32 if dtype == torch.float16 else dtype
