"""The contract: a quantizer's options, its two methods, and what it may override besides.

A quantizer decides the grid: which width and which scale each part of a tensor gets. Packing,
framing, sending and reporting are done for it. It lives twice, once at the sender and once at the
receiver, in separate instances built from the same options; the receiver sees nothing but what
was in the bytes. The value comes from the bytes, the derivative from the surrogate.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from amaqctl.bits import BitAllocation
from amaqctl.quantizer.acceptance import acceptance, once_accepted
from amaqctl.quantizer.layout import Layout
from amaqctl.quantizer.site import Site, TensorContext
from amaqctl.quantizer.tensors import QuantizedTensor

_TWIN = "decoder_twin."


class QuantizerConfig(BaseModel):
    """Base of each quantizer's options: frozen, unknown keys refused, every field described."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class BitReport:
    """What reports show of a sender beside its widths; each part may be left out.

    Args:
        target_bits: mean width that is aimed at, in bits a value, codes alone.
        column: what a column of the codes is, in the singular, where it is not what the axis says:
            ``rotated channel``.
        range_K: root mean square of each column's range, float (K,); 0 where it is not known.
        gradient_energy_K: mean square of the loss gradient by one value of each column, (K,); 0
            where it is not known.
    """

    target_bits: float | None = None
    column: str | None = None
    range_K: Tensor | None = None
    gradient_energy_K: Tensor | None = None


class Quantizer(nn.Module, ABC):
    """One method of quantization. Subclass it, nest a ``Config``, write two methods and a layout.

    State is what ``state_dict`` says: buffers, parameters, and for anything else a tensor from
    ``get_extra_state``. It is saved in checkpoints and loaded into a fresh instance.

    Args:
        config: the validated options.
        site: where it stands.

    Attributes:
        option_sets: options with which the contract is checked, each as in a profile: those that
            change the code that runs, not merely a number.
    """

    option_sets: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    Config: ClassVar[type[QuantizerConfig]] = QuantizerConfig

    def __init__(self, config: Any, site: Site) -> None:
        super().__init__()
        self.config = config
        self.site = site
        self._twins: list[Quantizer] = []  # at most one; in a list, it is no submodule

    @abstractmethod
    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Quantize at the sender. Called without gradient.

        Args:
            x: float32, bfloat16 or float16, finite, any leading shape, channels last, on the
                device of this module.

        Raises:
            QuantizationError: the tensor is none that this method can send.
        """

    @abstractmethod
    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """Restore shape and dtype at the receiver, from this message (and, if stateful, those
        before it) and never from the sender's object. Called without gradient.

        Args:
            quantized: laid out as `layout` declares, side tensors finite; codes and side tensors
                on the device of this module, where the result belongs too.

        Raises:
            QuantizationError: the message does not fit those before it. What is changed goes
                through `once_accepted`, so that a refused message changes nothing.
        """

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout | None:
        """What a message looks like; checked at both ends for every message.

        Args:
            shape, dtype: of the tensor that it carries.
            context: as it travels, without ``allocation``.
            allocation: bit-widths of the message at hand, for side tensors whose shapes follow
                from them; checked too, but maybe not yet. None for a message without codes.

        Returns:
            The layout; None, the default, declares nothing, and whatever a peer sends is decoded.
        """
        return None

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        """Differentiable stand-in for the decoded x at the sender, called after `quantize`.

        Its value is never used, only its derivative. The default is x itself: the
        straight-through estimator.
        """
        return x

    def penalty(self, context: TensorContext) -> Tensor | None:
        """Scalar to be added to the loss, already weighted, or None."""
        return None

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the learned parameters at the sender; they get `quantizer_lr`."""
        parameters = list(self.parameters())
        return [{"params": parameters}] if parameters else []

    def allocation(self) -> BitAllocation | None:
        """The widths in force at the sender, for inspection; None when there are none yet."""
        return None

    def report(self) -> BitReport:
        """What reports show of this sender beside its widths."""
        return BitReport()

    def decoded(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """What the receiver makes of a message, known at the sender too.

        A twin of this instance, built as the receiver's, decodes it. Its state is saved with this
        one's, and its parameters are none of this one's. Where the state of receivers follows from
        their messages, hand in each of them, in order. Who needs it calls `keep_decoder` at the
        start. A quantizer whose sender can decode its own messages may override this.

        Args:
            quantized: from `quantize`, just now.

        Returns:
            The tensor that `dequantize` gives at the receiver, shape and dtype of the message.
        """
        with torch.no_grad(), acceptance():
            return self._twin().dequantize(quantized, context)

    def keep_decoder(self) -> None:
        """Have the twin of `decoded` from the start, so that states have the same names always.

        At a receiver, which the twin itself is, it does nothing.
        """
        if self.site.end == "sender" and type(self).decoded is Quantizer.decoded:
            self._twin()

    def once_accepted(self, change: Callable[[], None]) -> None:
        """Change state at the end of the message that is being decoded, if it is accepted.

        To be called in `dequantize`. Outside of a channel the change is made at once.
        """
        once_accepted(change)

    def _twin(self) -> Quantizer:
        if not self._twins:
            twin = type(self)(self.config, replace(self.site, end="receiver"))
            own = next(itertools.chain(self.parameters(), self.buffers()), None)
            self._twins.append(twin if own is None else twin.to(own.device))
        return self._twins[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for twin in self._twins:
            twin._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for twin in self._twins:
            twin.state_dict(destination=destination, prefix=f"{prefix}{_TWIN}", keep_vars=keep_vars)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **more: Any
    ) -> None:
        start = f"{prefix}{_TWIN}"
        names = [name for name in state_dict if name.startswith(start)]
        of_twin = {name.removeprefix(start): state_dict.pop(name) for name in names}
        super()._load_from_state_dict(state_dict, prefix, *others, **more)
        self._twins.clear()
        if of_twin:
            self._twin().load_state_dict(of_twin)
