"""One stage as a module: the vendor's own model class with slots, holding only its own weights.

Every stage but the first is called with the received hidden state as ``inputs_embeds``, for its
shape only; the slot in front of its first block injects the real one. So scalings, learned
positions and projections around the embedding need no care per family.

Shapes: B batch, T tokens of this call, S tokens so far (T included), C channels, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedConfig

from amaqctl.model.cut import StageRange
from amaqctl.model.lora_settings import AttachedLora
from amaqctl.model.slots import Sink, Source, layer_list


class StageModel(nn.Module):
    """A run of consecutive blocks; the first also embeds, the last also has norm and head.

    Attributes:
        range: which blocks.
        config: of the whole model.
        hidden_size: C.
        linear_names: linear layers of the *whole* model that LoRA may adapt, by full name.
        parameter_names: weights of the *whole* model, in its order, by full name.
        tied_names: those of them that are one tensor under several names.
        lora: what ``attach_lora`` attached, None before.
    """

    def __init__(
        self,
        model: Any,
        stage_range: StageRange,
        linear_names: tuple[str, ...],
        parameter_names: tuple[str, ...] = (),
        tied_names: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.range = stage_range
        self.model = model
        self.config: PreTrainedConfig = model.config
        self.hidden_size = int(model.config.hidden_size)
        self.linear_names = linear_names
        self.parameter_names, self.tied_names = parameter_names, tied_names
        self.lora: AttachedLora | None = None

    def forward(
        self,
        *,
        input_ids_BT: Tensor | None = None,
        hidden_BTC: Tensor | None = None,
        attention_mask_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Run this stage's blocks.

        Args:
            input_ids_BT: tokens, for the first stage.
            hidden_BTC: what the stage before returned, for all others.
            attention_mask_BT: 1 for tokens, 0 for padding on either side; ``(B, S)`` with a
                cache, past tokens included. None means no padding.
            cache: from ``new_cache``, extended in place.

        Returns:
            ``hidden_BTC`` for the next stage, or ``logits_BTV`` from the last one.
        """
        given = input_ids_BT if self.range.is_first else hidden_BTC
        assert given is not None, "the first stage takes input_ids_BT, the others hidden_BTC"
        arguments: dict[str, Any] = {
            "attention_mask": attention_mask_BT,
            "position_ids": position_ids(attention_mask_BT, given.shape[1]),
            "past_key_values": cache,
            "use_cache": cache is not None,
        }
        if self.range.is_first:
            arguments["input_ids"] = given
        else:
            arguments["inputs_embeds"] = given.detach()
        if not self.range.is_last:
            # Nothing reads what runs behind the sink: keep it to one token.
            arguments["logits_to_keep"] = 1
        return self._between_slots(given, arguments)

    def _between_slots(self, given: Tensor, arguments: dict[str, Any]) -> Tensor:
        source, sink = self._slots()
        try:
            if source is not None:
                source.received_BTC = given
            output = self.model(**arguments)
            if sink is None:
                return output.logits  # type: ignore[no-any-return]
            assert sink.captured_BTC is not None
            return sink.captured_BTC
        finally:
            if source is not None:
                source.received_BTC = None
            if sink is not None:
                sink.captured_BTC = None

    def _slots(self) -> tuple[Source | None, Sink | None]:
        blocks = self.blocks
        source = None if self.range.is_first else blocks[self.range.first_layer - 1]
        sink = None if self.range.is_last else blocks[self.range.end_layer]
        return source, sink  # type: ignore[return-value]

    @property
    def blocks(self) -> nn.ModuleList:
        """All positions of the whole model: own blocks, and slots for the others."""
        return layer_list(self.model, self.config)[1]

    @property
    def own_blocks(self) -> dict[int, nn.Module]:
        """The blocks held here, by index in the whole model."""
        blocks = self.blocks
        return {i: blocks[i] for i in range(self.range.first_layer, self.range.end_layer)}

    def new_cache(self) -> DynamicCache:
        """An empty key-value cache for one generation on this stage."""
        return DynamicCache(config=self.config)


def enable_gradient_checkpointing(stage: StageModel) -> None:
    """Recompute each own block in backward instead of keeping what it computed.

    Takes effect in training mode. The non-reentrant kind, since LoRA's inputs on the first stage
    need no gradient.
    """
    # The older of the two names is all that transformers 5.0 has; the newer warns about it.
    model = stage.model
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def position_ids(attention_mask_BS: Tensor | None, num_tokens: int) -> Tensor | None:
    """Positions ``(B, num_tokens)`` of the newest tokens, or None where the default is right.

    With left padding they count real tokens only, as ``generate`` does; without it the model's
    own default is the same thing and is left alone, so that training equals a plain forward.
    """
    if attention_mask_BS is None:
        return None
    mask = attention_mask_BS.long()
    if bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return None
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    return positions[:, -num_tokens:]
