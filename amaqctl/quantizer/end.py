"""`QuantizerEnd`: one end of a channel, and the one place where a quantizer is called.

What a quantizer promises is checked here on every call, and what it does wrong is told by its
name: plugin, distribution, method, link and step. Messages are held against the declared layout at
both ends, so that a receiver's complaint is the peer's doing and a sender's the quantizer's.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from traceback import walk_tb
from typing import Any, NoReturn

import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, passes
from amaqctl.errors import InputError, QuantizationError
from amaqctl.quantizer.acceptance import acceptance
from amaqctl.quantizer.contract import BitReport, Quantizer, QuantizerConfig
from amaqctl.quantizer.layout import Layout, LayoutError, check_finite
from amaqctl.quantizer.report_fault import report_fault
from amaqctl.quantizer.site import Site, TensorContext
from amaqctl.quantizer.tensors import QuantizedTensor
from amaqctl.registry import Offer


class QuantizerEnd:
    """A quantizer at one end of a channel.

    Args:
        offer: where it comes from.
        quantizer: the instance.
    """

    def __init__(self, offer: Offer, quantizer: Quantizer) -> None:
        self.offer = offer
        self.quantizer = quantizer
        self._last_layout: Layout | None = None

    @property
    def site(self) -> Site:
        """Where it stands."""
        return self.quantizer.site

    @property
    def config(self) -> QuantizerConfig:
        """Its options."""
        config: QuantizerConfig = self.quantizer.config
        return config

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Quantize a tensor, without gradient.

        Raises:
            PluginError: it fails, or makes something else than it declares.
            QuantizationError: it refuses the tensor.
        """
        with self._blamed("quantize", context), torch.no_grad():
            quantized = self.quantizer.quantize(x, context)
        if not isinstance(quantized, QuantizedTensor):
            self._fail("quantize", context, f"returned {_kind(quantized)}, no QuantizedTensor")
        if (quantized.shape, quantized.dtype) != (tuple(x.shape), x.dtype):
            found = f"{quantized.dtype} of shape {tuple(quantized.shape)}"
            self._fail("quantize", context, f"made a message of {found} for {_said(x)}")
        try:
            self._check_layout(quantized, context)
        except LayoutError as error:
            self._fail("quantize", context, f"made {error.message}")
        return quantized

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """Check a message, decode it without gradient, and then change what it changes.

        Raises:
            LayoutError: it is not laid out as declared, or of samples that there are none of;
                nothing was decoded.
            QuantizationError: it does not fit those before it, or decodes to NaN or infinity.
            PluginError: the quantizer fails, or decodes to something else than was sent.
        """
        self._check_layout(quantized, context)
        self._check_samples(context)
        with acceptance():
            with self._blamed("dequantize", context), torch.no_grad():
                value = self.quantizer.dequantize(quantized, context)
            if not isinstance(value, Tensor):
                self._fail("dequantize", context, f"returned {_kind(value)}, no tensor")
            if (tuple(value.shape), value.dtype) != (tuple(quantized.shape), quantized.dtype):
                due = f"{quantized.dtype} of shape {tuple(quantized.shape)}"
                self._fail("dequantize", context, f"decoded {due} to {_said(value)}")
            if not passes.all_finite(value):
                # Of a stranger's end, whose it is; with a peer, a message may be what made it.
                offer = self.offer
                of = "" if offer.built_in else f" of {offer.distribution} {offer.version}"
                raise QuantizationError(
                    f"'{offer.name}'{of} decodes to NaN or infinity", where=context.place
                )
        return value.detach()

    def decoded(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """What the receiver makes of a message that this sender just made."""
        with self._blamed("decoded", context), torch.no_grad():
            return self.quantizer.decoded(quantized, context)

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        """The differentiable stand-in for what was just sent.

        Raises:
            PluginError: it fails, is of another shape or dtype, or passes no gradient on.
        """
        watched = x
        if x.requires_grad and not self.offer.built_in:
            watched = x.view_as(x)
            watched.register_hook(lambda grad: self._check_gradient(grad, context))
        with self._blamed("surrogate", context):
            stand_in = self.quantizer.surrogate(watched, context)
        if not isinstance(stand_in, Tensor):
            self._fail("surrogate", context, f"returned {_kind(stand_in)}, no tensor")
        if (stand_in.shape, stand_in.dtype) != (x.shape, x.dtype):
            self._fail("surrogate", context, f"returned {_said(stand_in)} for {_said(x)}")
        if x.requires_grad and not stand_in.requires_grad:
            self._fail("surrogate", context, "passes no gradient on to its input")
        return stand_in

    @contextlib.contextmanager
    def blamed_in_backward(self, context: TensorContext) -> Iterator[None]:
        """Around a backward pass: an error that passes through this quantizer's code names it."""
        try:
            yield
        except Exception as error:
            if not self._stands_in(error):
                raise
            with self._blamed("the backward pass of surrogate", context):
                raise

    def penalty(self, context: TensorContext) -> Tensor | None:
        """Scalar to be added to the loss, or None.

        Raises:
            PluginError: it fails, or returns no finite scalar.
        """
        with self._blamed("penalty", context):
            penalty = self.quantizer.penalty(context)
        if penalty is None:
            return None
        if not isinstance(penalty, Tensor) or penalty.numel() != 1:
            found = _said(penalty) if isinstance(penalty, Tensor) else _kind(penalty)
            self._fail("penalty", context, f"returned {found}, no scalar tensor")
        if not bool(penalty.isfinite()):
            self._fail("penalty", context, f"returned {float(penalty.detach())}")
        return penalty

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of what is learned at the sender.

        Raises:
            PluginError: it fails, or the groups are none that an optimizer takes.
        """
        with self._blamed("param_groups"):
            groups = list(self.quantizer.param_groups())
            own = {id(parameter) for parameter in self.quantizer.parameters()}
            if not all(id(parameter) in own for group in groups for parameter in group["params"]):
                raise ValueError("a parameter that is none of its own")
            if groups:
                torch.optim.AdamW(
                    [dict(group) for group in groups]
                )  # it refuses what it cannot use
        return groups

    def allocation(self) -> BitAllocation | None:
        """The widths in force at the sender."""
        with self._blamed("allocation"):
            allocation = self.quantizer.allocation()
        if allocation is not None and not isinstance(allocation, BitAllocation):
            self._fail("allocation", None, f"returned {_kind(allocation)}, no BitAllocation")
        return allocation

    def report(self) -> BitReport:
        """What reports show beside the widths.

        Raises:
            PluginError: it fails, or a part of the report is not what `BitReport` says.
        """
        with self._blamed("report"):
            report = self.quantizer.report()
        if not isinstance(report, BitReport):
            self._fail("report", None, f"returned {_kind(report)}, no BitReport")
        fault = report_fault(report)
        if fault:
            self._fail("report", None, f"returned {fault}")
        return report

    def state_dict(self) -> dict[str, Tensor]:
        """Its state, by name.

        Raises:
            PluginError: it fails, or something in it is no tensor.
        """
        with self._blamed("state_dict"):
            state: dict[str, Any] = dict(self.quantizer.state_dict())
        for name, value in state.items():
            if not isinstance(value, Tensor):
                self._fail("state_dict", None, f"keeps {_kind(value)} as '{name}', no tensor")
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved state.

        Raises:
            InputError: it does not fit, names or shapes.
            PluginError: the quantizer fails otherwise.
        """
        with self._blamed("load_state_dict"):
            try:
                self.quantizer.load_state_dict(dict(state))
            except (RuntimeError, KeyError, QuantizationError) as error:
                last_line = str(error).splitlines()[-1].strip()
                raise InputError(f"the state does not fit: {last_line}") from error

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout | None:
        """The declared layout of a message; None where the quantizer declares none.

        Raises:
            PluginError: it fails, or returns something else.
        """
        with self._blamed("layout", context):
            layout = self.quantizer.layout(shape, dtype, context, allocation)
        if layout is not None and not isinstance(layout, Layout):
            self._fail("layout", context, f"returned {_kind(layout)}, no Layout")
        return layout

    def legal_bits(self) -> tuple[int, int] | None:
        """Least and largest width that the last message could have had; None if undeclared."""
        codes = None if self._last_layout is None else self._last_layout.codes
        return (min(codes.widths), max(codes.widths)) if codes and codes.widths else None

    def _check_layout(self, quantized: QuantizedTensor, context: TensorContext) -> None:
        check_finite(quantized)
        allocation = None if quantized.codes is None else quantized.codes.allocation
        layout = self.layout(tuple(quantized.shape), quantized.dtype, context, allocation)
        self._last_layout = layout
        if layout is not None:
            layout.check(quantized)

    def _check_samples(self, context: TensorContext) -> None:
        """Memories have a place for each training sample, and for no other."""
        num_samples = self.site.num_samples
        wrong = [i for i in context.sample_ids if not 0 <= i < num_samples]
        if wrong and context.training:
            raise LayoutError(
                f"sample {wrong[0]} where there are {num_samples}", where=context.place
            )

    def _check_gradient(self, gradient: Tensor, context: TensorContext) -> None:
        if not bool(gradient.isfinite().all()):
            self._fail("the backward pass of surrogate", context, "made NaN or infinity")

    def _stands_in(self, error: BaseException) -> bool:
        """Whether the error came through the file that defines the quantizer."""
        module = sys.modules.get(type(self.quantizer).__module__)
        file = getattr(module, "__file__", None)
        return any(frame.f_code.co_filename == file for frame, _ in walk_tb(error.__traceback__))

    def _blamed(
        self, method: str, context: TensorContext | None = None
    ) -> contextlib.AbstractContextManager[None]:
        return self.offer.blamed(method, None if context is None else context.place)

    def _fail(self, method: str, context: TensorContext | None, what: str) -> NoReturn:
        fault = self.offer.fault(f"{what} ({method})", None if context is None else context.place)
        assert not self.offer.built_in, str(fault)  # then it is ours, not a plugin author's
        raise fault


def _said(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
