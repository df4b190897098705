"""`Stage`: a run of layers held by one party, and its three verbs forward, backward, update.

A stage knows its own layers, the links on its two sides and its optimizer. What it knows of a
batch beyond its own part comes with the message: the last stage has labels, the first has tokens,
the ones between have neither. In a process that has the data every stage knows the samples too, and
holds what comes against them.

Legend: B batch, T tokens, C channels, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amaqctl.bits import BitAllocation
from amaqctl.engine.gradient_norm import parameter_norms
from amaqctl.engine.learning_rate import LearningRate
from amaqctl.engine.link import Link
from amaqctl.engine.turn import check_gradient, check_turn
from amaqctl.errors import DivergedError
from amaqctl.model.dropout import SeededDropout
from amaqctl.model.stage_model import StageModel
from amaqctl.quantizer import TensorContext
from amaqctl.tasks.batch import Batch
from amaqctl.tasks.task import IGNORE_INDEX


@dataclass(frozen=True)
class Given:
    """What of a micro-batch is known in this process without a message.

    Args:
        batch: all of it, where the data are.
        labels_BT: where the last stage is; also without the data.
    """

    batch: Batch | None
    labels_BT: Tensor | None


@dataclass
class _InFlight:
    """What a micro-batch leaves at a stage between its forward and its backward."""

    context: TensorContext
    leaf: Tensor | None
    allocation: BitAllocation | None
    outputs: list[Tensor]  # the surrogate and any penalty; for the last stage the loss


class Stage:
    """One party's layers.

    Args:
        model: the stage's modules, LoRA attached.
        incoming, outgoing: links before and after; None at the ends of the model.
        optimizer: over the LoRA weights, if there are any its first group, and the gates of
            outgoing quantizers.
        lora_parameters: what the gradient norm is taken over, by place in the whole model.
        learning_rate: of the LoRA weights.
        max_grad_norm: bring the LoRA gradient of all stages down to this norm; None for no clip.
        dropout: draws for the adapter's dropout and the model's own.
    """

    def __init__(
        self,
        model: StageModel,
        *,
        incoming: Link | None,
        outgoing: Link | None,
        optimizer: torch.optim.Optimizer | None,
        lora_parameters: Mapping[int, nn.Parameter],
        learning_rate: LearningRate,
        max_grad_norm: float | None,
        dropout: SeededDropout,
    ) -> None:
        self.model = model
        self.incoming = incoming
        self.outgoing = outgoing
        self.optimizer = optimizer
        self.lora_parameters = dict(lora_parameters)
        self._learning_rate = learning_rate
        self._max_grad_norm = max_grad_norm
        self._dropout = dropout
        self._in_flight: dict[int, _InFlight] = {}

    def forward(self, given: Given, context: TensorContext, num_loss_tokens: int) -> float | None:
        """Run one training micro-batch forward.

        Args:
            given: the micro-batch; tokens are read by the first stage, labels by the last.
            context: step, micro-batch and samples; a later stage takes it from the message.
            num_loss_tokens: of the whole batch, the divisor of the summed token loss.

        Returns:
            The micro-batch's share of the loss at the last stage, else None.

        Raises:
            DivergedError: the loss, or the hidden state to be sent, is not finite.
            WireError: the message that came is of another step or micro-batch.
        """
        self.model.train()
        leaf, allocation = None, None
        if self.incoming is not None:
            received = self.incoming.activations.receive()
            known = given.labels_BT if given.batch is None else given.batch.input_ids_BT
            shape_BT = None if known is None else known.shape
            check_turn(received, context, shape_BT, knows_samples=given.batch is not None)
            leaf = received.value.requires_grad_()
            context, allocation = received.context, received.allocation
        with self._dropout.drawing(context.step, context.micro_batch):
            tokens = given.batch.input_ids_BT if given.batch and leaf is None else None
            output = self._call(tokens, leaf, context, None)
        if self.outgoing is None:
            assert given.labels_BT is not None, "the last stage needs labels"
            loss = token_loss(output, given.labels_BT.to(output.device)) / num_loss_tokens
            if not bool(loss.isfinite()):
                raise DivergedError(
                    "the loss is not finite",
                    where=f"step {context.step}",
                    hint="lower optimizer.lr, or look at the data of this step",
                )
            self._in_flight[context.micro_batch] = _InFlight(context, leaf, allocation, [loss])
            return float(loss.detach())
        outputs = self._send_activation(output, context)
        self._in_flight[context.micro_batch] = _InFlight(context, leaf, allocation, outputs)
        return None

    def backward(self, micro_batch: int) -> None:
        """Run one training micro-batch backward: gradients in from behind, out to the front."""
        flight = self._in_flight.pop(micro_batch)
        gradients: list[Tensor | None] = [None] * len(flight.outputs)  # None: a scalar's one
        if self.outgoing is not None:
            received = self.outgoing.gradients.receive()
            check_gradient(received, flight.outputs[0])
            check_turn(received, flight.context)
            gradients[0] = received.value
        differentiable = [
            (out, grad)
            for out, grad in zip(flight.outputs, gradients, strict=True)
            if out.requires_grad
        ]
        if differentiable:
            outputs, grads = zip(*differentiable, strict=True)
            drawing = self._dropout.drawing(flight.context.step, micro_batch)
            with drawing, self._blamed_in_backward(flight.context):
                torch.autograd.backward(outputs, grads)
        if self.incoming is not None:
            assert flight.leaf is not None
            gradient = flight.leaf.grad
            if gradient is None:
                gradient = torch.zeros_like(flight.leaf)
            context = replace(flight.context, allocation=flight.allocation)
            self.incoming.gradients.send(gradient, context)

    def _blamed_in_backward(
        self, context: TensorContext
    ) -> contextlib.AbstractContextManager[None]:
        if self.outgoing is None:
            return contextlib.nullcontext()
        return self.outgoing.activations.quantizers.sender.blamed_in_backward(context)

    def gradient_norms(self) -> dict[int, float]:
        """Norm of each LoRA gradient held here, before any clip, by place in the whole model."""
        return parameter_norms(self.lora_parameters)

    def clip(self, norm: float) -> None:
        """Bring the LoRA gradient down to ``max_grad_norm``.

        Args:
            norm: of all stages' gradients together, from `total_norm`.
        """
        weights, limit = list(self.lora_parameters.values()), self._max_grad_norm
        if limit is not None and weights:
            # Below the limit too, as torch does: just below it the factor is not yet 1.
            nn.utils.clip_grads_with_norm_(weights, limit, torch.tensor(norm))

    def update(self, step: int) -> None:
        """Apply the optimizer, clear gradients.

        Args:
            step: from 0, for the learning rate of the LoRA weights; gates keep theirs.
        """
        if self.optimizer is None:
            return
        if self.lora_parameters:
            self.optimizer.param_groups[0]["lr"] = self._learning_rate.at(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(
        self,
        input_ids_BT: Tensor | None,
        context: TensorContext,
        cache: Any,
        *,
        knows_samples: bool = True,
    ) -> Tensor | None:
        """Forward without training.

        Args:
            input_ids_BT: tokens, for the first stage.
            context: for the first stage; a later one takes it from the message.
            cache: this stage's key-value cache, or None.
            knows_samples: whether ``context`` has the samples of this forward.

        Returns:
            Logits (B, T, V) at the last stage, else None.
        """
        self.model.eval()
        hidden = None
        if self.incoming is not None:
            received = self.incoming.activations.receive()
            check_turn(received, context, knows_samples=knows_samples)
            hidden, context = received.value, received.context
        output = self._call(input_ids_BT, hidden, context, cache)
        if self.outgoing is None:
            return output
        self.outgoing.activations.send(_without_padding(output, context), context)
        return None

    def _call(
        self, tokens: Tensor | None, hidden: Tensor | None, context: TensorContext, cache: Any
    ) -> Tensor:
        device = next(self.model.parameters()).device
        source = tokens if hidden is None else hidden
        assert source is not None
        mask = padding_mask(context, source.shape[0], source.shape[1])
        output: Tensor = self.model(
            input_ids_BT=None if tokens is None else tokens.to(device),
            hidden_BTC=hidden,
            attention_mask_BT=mask.to(device),
            cache=cache,
        )
        return output

    def _send_activation(self, hidden: Tensor, context: TensorContext) -> list[Tensor]:
        assert self.outgoing is not None
        channel = self.outgoing.activations
        hidden = _without_padding(hidden, context)
        channel.send(hidden, context)
        outputs = [channel.surrogate(hidden, context)]
        # The penalty belongs to the step, not to each of its micro-batches.
        penalty = channel.penalty(context) if context.micro_batch == 0 else None
        return outputs if penalty is None else [*outputs, penalty]


def token_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Summed cross-entropy in nats, float32; position t predicts the label of t + 1."""
    shifted_BT = functional.pad(labels_BT, (0, 1), value=IGNORE_INDEX)[:, 1:]
    return functional.cross_entropy(
        logits_BTV.float().flatten(0, 1),
        shifted_BT.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )


def padding_mask(context: TensorContext, num_rows: int, num_new: int) -> Tensor:
    """Attention mask (B, past + T) int64, from the lengths that ride in the message.

    ``lengths`` count all real tokens so far; the mask covers cached positions too.
    """
    num_positions = context.first_position + num_new
    if not context.lengths:
        return torch.ones((num_rows, num_positions), dtype=torch.int64)
    lengths_B1 = torch.tensor(context.lengths).unsqueeze(1)
    positions_1T = torch.arange(num_positions).unsqueeze(0)
    if context.left_padded:
        return (positions_1T >= num_positions - lengths_B1).to(torch.int64)
    return (positions_1T < lengths_B1).to(torch.int64)


def _without_padding(hidden_BTC: Tensor, context: TensorContext) -> Tensor:
    """Zeros where there is padding, so that it sets no scale and carries nothing.

    No real token attends to padding and no loss is taken there, so results stay the same bit
    for bit.
    """
    if not context.lengths or all(n == hidden_BTC.shape[1] for n in context.lengths):
        return hidden_BTC
    num_rows, num_new = hidden_BTC.shape[:2]
    mask_BT = padding_mask(context, num_rows, num_new)[:, context.first_position :]
    return hidden_BTC.masked_fill((mask_BT == 0).unsqueeze(-1).to(hidden_BTC.device), 0.0)
