"""Ranges and means that a cached generation takes over from its prompt (ours).

A message of one new token would need a range and a mean of 16 bits for every channel, ten times
what its codes take, and a range of one value is no quantization at all. Both ends already hold
the prompt in their key-value caches; here they hold its side values too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from amaqctl.errors import QuantizationError
from amaqctl.quantizer import QuantizedTensor, TensorContext
from amaqctl.quantizers.outlier_tokens import OUTLIER_ROW


class PromptRanges:
    """One end's memory of the last prompt. Both ends see the same messages, so both hold the same.

    Args:
        is_on: off, every message carries its own side values.
    """

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on
        self._prompt: QuantizedTensor | None = None
        self._outlier_limit: Tensor | None = None  # at the sender

    def known(self, widths_K: Tensor, context: TensorContext) -> Mapping[str, Tensor] | None:
        """Side values that need not be sent with a tensor of these widths, or None."""
        if not _goes_on(context) or self._prompt is None:
            return None
        return self._of_channels() if self._has_widths(widths_K) else None

    def limit(self, widths_K: Tensor, context: TensorContext) -> Tensor | None:
        """Magnitude above which a token that goes on from the prompt is an outlier, or None."""
        return None if self.known(widths_K, context) is None else self._outlier_limit

    def may_be_left_out(self, context: TensorContext) -> bool:
        """Whether a message of this context may do without side values that its prompt had."""
        return self._is_on and _goes_on(context)

    def notice(
        self,
        quantized: QuantizedTensor,
        context: TensorContext,
        outlier_limit: Tensor | None = None,
    ) -> None:
        """Keep the side values of a prompt, and its limit, which the receiver has no need of."""
        if self._is_on and not context.training and "range" in quantized.side:
            self._prompt = quantized
            if outlier_limit is not None:
                self._outlier_limit = outlier_limit

    def completed(self, quantized: QuantizedTensor, context: TensorContext) -> QuantizedTensor:
        """The message with the side values that it left out.

        Raises:
            QuantizationError: no prompt came before it, or one of other widths.
        """
        if "range" in quantized.side or not self.may_be_left_out(context):
            return quantized
        assert quantized.codes is not None
        if self._prompt is None or not self._has_widths(quantized.codes.allocation.widths_C):
            raise QuantizationError(
                "a message goes on from a prompt that did not come",
                where=f"link {context.link} {context.role} step {context.step}",
                hint="send the prompt again: later tokens have the ranges of their prompt",
            )
        return replace(quantized, side={**self._of_channels(), **quantized.side})

    def _of_channels(self) -> dict[str, Tensor]:
        """What the prompt says of channels; which of its tokens were outliers is its own affair."""
        assert self._prompt is not None
        return {name: t for name, t in self._prompt.side.items() if name != OUTLIER_ROW}

    def _has_widths(self, widths_K: Tensor) -> bool:
        assert self._prompt is not None
        assert self._prompt.codes is not None
        return torch.equal(self._prompt.codes.allocation.widths_C, widths_K)


def _goes_on(context: TensorContext) -> bool:
    return not context.training and context.first_position > 0
