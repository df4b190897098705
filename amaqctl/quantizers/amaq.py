"""`amaq`: adaptive mixed-bit activation quantization (arXiv 2510.05468).

The paper: each channel (or position) c has a trainable gate q_c and the width

    b_c = min + (max - min) · σ(α · q_c)           rounded, straight-through
    loss = task loss + β · mean_c σ(α · q_c)²       (`Bits_Loss`)

so that widths fall gradually while important channels keep more. Gates have their own learning
rate. `mode: paper` does just this.

Follows from it: with the grid of `amaqctl.bits.grid`, s = r / n, n = 2^(b-1) - 1, and the
straight-through estimator on both roundings, an unclipped value has

    ∂x̂/∂b = ln 2 · 2^(b-1) / n · (x - x̂)           (ln 2 · (x - x̂) below two bits)

The sender knows x and x̂ and receives ∂L/∂x̂, so gates learn there and nothing is added to the
wire.

Ours (each an option; `mode: budget`, the default):
- budget: one shift λ of all gates, b_c = min + (max - min)·σ(α·q_c + λ), solved at each step so
  that the mean width is the budget exactly; the gates decide only who gets what;
- tracked allocation: instead of learning by gradient, the gates are set at each step to the widths
  with the least harm E[g_c²] · D_c(b), from running means of the gradients that came back and of
  the error that each channel had, measured, at every width;
- outlier tokens: tokens of massive activations, often the first, have ranges of their own;
- centre: the channel mean is subtracted before the grid (always of a 0-bit channel, which sends
  nothing else);
- scale for each channel, token, or channel x token;
- prompt ranges: the tokens that a cached generation adds to its prompt reuse the prompt's ranges
  and means, which would cost a message of one token more than its codes;
- spare code: the code that a symmetric grid leaves unused goes to the channel's longer side;
- clip: the range of a channel is the one with the least squared error, or k times its mean
  magnitude, or (null) its largest magnitude.

Legend: B batch, T tokens, C channels, K columns (channels or positions), W legal widths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from amaqctl.bits import BitAllocation, largest_code
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import (
    BitReport,
    Layout,
    QuantizedTensor,
    Quantizer,
    Site,
    TensorContext,
)
from amaqctl.quantizers import bit_budget
from amaqctl.quantizers.amaq_config import AmaqConfig
from amaqctl.quantizers.column_grid import grid_of
from amaqctl.quantizers.column_harm import ColumnHarm
from amaqctl.quantizers.prompt_ranges import PromptRanges


class AmaqQuantizer(Quantizer):
    """A bit-width of its own for each channel or position."""

    option_sets = (
        {},
        {"mode": "paper"},
        {"target_bits": 2.5, "fall": 0.5, "clip": 3.0},
        {"axis": "position", "allocation": "learned", "target_bits": 3.0},
        {"axis": "position", "memory": 0.5, "target_bits": 5.0},
        {"scale": "token", "center": False, "target_bits": 5.0, "memory": 0.0},
        {"scale": "channel-token", "scale_dtype": "float32"},
        {"allocation": "learned", "target_bits": 1.0, "center": False},
    )

    Config = AmaqConfig
    config: AmaqConfig
    gates_K: nn.Parameter

    def __init__(self, config: AmaqConfig, site: Site) -> None:
        super().__init__(config, site)
        num_columns = site.num_channels if config.axis == "channel" else site.max_positions
        initial = math.log(config.initial_share / (1 - config.initial_share)) / config.alpha
        self.gates_K = nn.Parameter(
            torch.full((num_columns,), initial), requires_grad=config.allocation == "learned"
        )
        self.harm = ColumnHarm(
            num_columns, config.min_bits, config.max_bits, config.memory, config.axis
        )
        self._grid = grid_of(config, self.harm.widths)
        self._prompt = PromptRanges(config.prompt_ranges)
        self._widths: dict[tuple[int | None, ...], Tensor] = {}
        self._last_widths_K: Tensor | None = None
        self._step_of_gates: int | None = None
        self._residual_BTC: Tensor | None = None

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Codes in mixed widths, with a range (and mean) for each channel or token.

        Raises:
            QuantizationError: more positions than there are position gates.
        """
        columns, limit = self._columns(x, context), None
        if not context.training:  # generated tokens are held against their prompt
            limit = self._prompt.limit(self._widths_at(context, columns), context)
        measured = self._grid.measure(x, limit)
        if self.config.allocation == "tracked" and context.training:
            self._track(x, measured, columns, context)
        allocation = BitAllocation(self._widths_at(context, columns), self.config.axis)
        self._last_widths_K = self._widths_at(context, slice(None))
        known = self._prompt.known(allocation.widths_C, context)
        quantized = self._grid.encode(measured, allocation, known)
        self._prompt.notice(quantized, context, measured.limit)
        if context.training and self.config.allocation == "learned":
            self._residual_BTC = self._grid.rounding_residual(measured, quantized)
        return quantized

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """x̂ = code · s (+ channel mean); widths come from the message.

        Raises:
            QuantizationError: a message goes on from a prompt that never came.
        """
        x = self._grid.decode(self._prompt.completed(quantized, context))
        self.once_accepted(lambda: self._prompt.notice(quantized, context))
        return x

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout:
        """Codes and side tensors of the grid; a generated token may leave out its prompt's."""
        leaves_out = self._prompt.may_be_left_out(context)
        return self._grid.layout.sent(shape, allocation, leaves_out=leaves_out)

    def surrogate(self, x: Tensor, context: TensorContext) -> Tensor:
        """x, watched, or with the derivative of x̂ by the widths, hence by the gates, attached."""
        if not context.training:
            return x
        columns = self._columns(x, context)
        if self.config.allocation == "tracked":
            # Watched also where nothing before the cut learns.
            watched = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            is_sent_K = self._is_sent_K(x)
            is_empty_K = (self._widths_at(context, columns) == 0).to(x.device)
            watched.register_hook(
                lambda grad: self.harm.observe_gradient(grad, columns, is_sent_K, is_empty_K)
            )
            return watched
        residual_BTC, self._residual_BTC = self._residual_BTC, None
        assert residual_BTC is not None, "surrogate without quantize"
        bits_K = self._fractional_bits(context, slice(columns.stop))[columns.start :].to(x.device)
        width_K = self._widths_at(context, columns).to(x.device)
        top_K = largest_code(width_K)
        slope_K = math.log(2) * torch.where(width_K >= 2, (top_K + 1) / top_K, 1.0)
        lift_K = (bits_K - bits_K.detach()) * slope_K  # value zero, derivative that of the widths
        lift = lift_K if self.config.axis == "channel" else lift_K.unsqueeze(-1)
        return x + (lift * residual_BTC).to(x.dtype)

    def penalty(self, context: TensorContext) -> Tensor | None:
        """β · mean σ(α·q)², in paper mode only."""
        if not self.config.beta:
            return None
        bits_loss = torch.sigmoid(self.config.alpha * self.gates_K).square().mean()
        return bits_loss * float(self.config.beta)

    def param_groups(self) -> list[dict[str, Any]]:
        """The gates, where they learn by gradient."""
        return [{"params": [self.gates_K]}] if self.config.allocation == "learned" else []

    def allocation(self) -> BitAllocation | None:
        """The widths last used for sending; of positions, those of the longest message."""
        if self._last_widths_K is None:
            return None
        return BitAllocation(self._last_widths_K, self.config.axis)

    def report(self) -> BitReport:
        """The budget, and what was measured of each column."""
        return BitReport(
            target_bits=self.config.target_bits,
            range_K=self.harm.range_energy_K.sqrt(),
            gradient_energy_K=self.harm.gradient_energy_K.clone(),
        )

    def _columns(self, x: Tensor, context: TensorContext) -> slice:
        if self.config.axis == "channel":
            return slice(None)
        first, num_positions = context.first_position, x.shape[-2] if x.dim() > 1 else 1
        if first + num_positions > self.site.max_positions:
            raise QuantizationError(
                f"{first + num_positions} positions, but gates for {self.site.max_positions}",
                hint="raise train.max_length",
            )
        return slice(first, first + num_positions)

    def _is_sent_K(self, x: Tensor) -> Tensor:
        """Which of the columns of ``x`` hold a real token; a position may be all padding."""
        if self.config.axis == "channel":
            return torch.ones(x.shape[-1], dtype=torch.bool, device=x.device)
        is_token = (x.detach() != 0).any(-1)
        return is_token.reshape(-1, is_token.shape[-1] if is_token.dim() else 1).any(0)

    def _track(self, x: Tensor, measured: Any, columns: slice, context: TensorContext) -> None:
        """Set the gates by water-filling, once a step: its micro-batches share their widths."""
        if self._step_of_gates == context.step:
            return
        self.harm.begin_step()
        if self.harm.is_error_due(context.step) and x.numel():
            error_WK, range_K = self._grid.error_curves(measured, self.harm.widths)
            self.harm.observe_error(error_WK, range_K, columns, self._is_sent_K(x))
        low, high = self.config.min_bits, self.config.max_bits
        harm_WK, num_columns = self.harm.harm_WK(), self.gates_K.numel()
        # Positions after the longest of this message have gates too, for messages to come.
        for stop in sorted({num_columns, columns.stop or num_columns}, reverse=True):
            bits_K = bit_budget.water_filling(harm_WK[:, :stop], low, self._budget(context))
            shares_K = ((bits_K - low) / (high - low)).clamp(1e-4, 1 - 1e-4)  # a gate is finite
            with torch.no_grad():
                self.gates_K[:stop] = (torch.logit(shares_K) / self.config.alpha).to(self.gates_K)
        self._step_of_gates = context.step

    def _widths_at(self, context: TensorContext, columns: slice) -> Tensor:
        """Integer widths (K,), the same for all micro-batches of a step.

        The budget is the mean over the columns up to the last of ``columns``: a message of a whole
        sequence meets it whatever its length, and a generated token is one of its sequence.
        """
        now = (context.step, self.gates_K._version)
        if not any(key[:2] == now for key in self._widths):
            self._widths.clear()
        key = (*now, columns.stop)
        if key not in self._widths:
            bits_K = self._fractional_bits(context, slice(columns.stop))
            if self.config.mode == "paper":
                self._widths[key] = bits_K.detach().cpu().round().to(torch.uint8)
            else:
                self._widths[key] = bit_budget.round_to_mean(
                    bits_K, self.config.min_bits, self.config.max_bits, self._budget(context)
                )
        return self._widths[key][columns.start :]

    def _fractional_bits(self, context: TensorContext, columns: slice) -> Tensor:
        """b (K,), differentiable by the gates, through the shift as well."""
        low, high = self.config.min_bits, self.config.max_bits
        logits_K = self.config.alpha * self.gates_K[columns]
        if self.config.mode == "budget":
            shift = bit_budget.shift_to_mean(logits_K, low, high, self._budget(context))
            shares_K = torch.sigmoid(logits_K + shift).detach()
            weight_K = shares_K * (1 - shares_K)
            # The shift moves so that the mean stays: dλ/dz = -w / Σw (implicit function theorem).
            moved = (weight_K * (logits_K - logits_K.detach())).sum()
            logits_K = logits_K + (shift - moved / weight_K.sum().clamp(min=1e-12))
        return low + (high - low) * torch.sigmoid(logits_K)

    def _budget(self, context: TensorContext) -> float:
        """Mean width in bits at this step."""
        assert self.config.target_bits is not None, "budget mode has a target"
        start, target = self.config.start_bits, self.config.target_bits
        # Counted such that the last training step is on target even with fall: 1.
        falling_steps = self.config.fall * (context.total_steps - 1)
        done = context.step / falling_steps if falling_steps > 0 else 1.0
        return start + (target - start) * min(max(float(done), 0.0), 1.0)
