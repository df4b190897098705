"""A model's configuration, and what of it can be checked before any weight is read.

Code from a model folder is never run, and what it asks for (an attention, a quantization) is not
fetched or left out in silence: it is refused by name.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from amaqctl.errors import InputError
from amaqctl.model.families import check_family
from amaqctl.model.folder import check_folder
from amaqctl.model.hub import check_hub
from amaqctl.model.reading import reading
from amaqctl.model.source import ModelSource

_ATTENTIONS = (None, "eager", "sdpa")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
# A bound for what is made before the weights are looked at; the deepest known have 126.
_MOST_BLOCKS = 4096
_COUNTS = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads")
_COUNTS_OF_SOME = ("num_key_value_heads", "intermediate_size", "head_dim", "n_inner")


def load_config(source: ModelSource) -> PreTrainedConfig:
    """The model's configuration.

    Raises:
        InputError: it cannot be read or means no model, or the family is not supported.
    """
    check_folder(source)
    check_hub(source)
    with reading(source, "configuration"):
        settings, _ = PreTrainedConfig.get_config_dict(
            source.folder_or_hub_id, **source.hub_arguments
        )
        if not isinstance(settings, dict) or "model_type" not in settings:
            raise ValueError("there is no config.json that names a model_type")
        check_family(settings, source.model_id)
        _check_settings(settings, source)
    with reading(source, "configuration"):
        config = AutoConfig.from_pretrained(
            source.folder_or_hub_id, trust_remote_code=False, **source.hub_arguments
        )
        _check_values(config, source)
    return config


def num_layers(config: PreTrainedConfig) -> int:
    """Number of transformer blocks."""
    return int(config.num_hidden_layers)


def _check_settings(settings: dict[str, Any], source: ModelSource) -> None:
    """What config.json asks for and is not done here."""
    quantization = settings.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise _fault(
            source,
            f"its weights are quantized ({method or 'quantization_config'}), and LoRA is trained "
            "on floating-point weights only",
            "give the model as it was before quantization",
        )
    for key in ("attn_implementation", "_attn_implementation"):
        attention = settings.get(key)
        if attention not in _ATTENTIONS:
            raise _fault(
                source,
                f"its config.json asks for {key} {attention!r}, which is not used here",
                f"set {key} to 'sdpa' or 'eager', or take it out",
            )
    for key in ("dtype", "torch_dtype"):
        dtype = settings.get(key)
        if dtype is not None and not isinstance(getattr(torch, str(dtype), None), torch.dtype):
            raise _fault(
                source,
                f"its config.json gives {key} {dtype!r}, which is no type of torch",
                f"set {key} to float32, float16 or bfloat16, or take it out",
            )
    for key in ("fusion_config", "transformers_weights"):
        if settings.get(key) is not None:
            raise _fault(
                source, f"its config.json has {key}, which is not used here", f"take {key} out"
            )


def _check_values(config: PreTrainedConfig, source: ModelSource) -> None:
    some = [key for key in _COUNTS_OF_SOME if getattr(config, key, None) is not None]
    for key in (*_COUNTS, *some):
        value = getattr(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _fault(source, f"its config.json gives {key} {value!r}, not a number above 0")
    if config.num_hidden_layers > _MOST_BLOCKS:
        raise _fault(
            source, f"its config.json gives {config.num_hidden_layers} blocks (num_hidden_layers)"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and (not isinstance(positions, int) or positions < 1):
        raise _fault(source, f"its config.json gives max_position_embeddings {positions!r}")
    pad, vocab_size = getattr(config, "pad_token_id", None), config.vocab_size
    if pad is not None and not -vocab_size <= pad < vocab_size:  # -1 is of old LLaMA
        raise _fault(source, f"its config.json gives pad_token_id {pad}, of {vocab_size} tokens")
    _check_rotations(getattr(config, "rope_parameters", None), source)
    for key, value in config.to_dict().items():
        if key.endswith(("dropout", "pdrop")) and value is not None and not _is_share(value):
            raise _fault(source, f"its config.json gives {key} {value!r}, not a number in [0, 1)")
    for key in _ACTIVATIONS:
        name = getattr(config, key, None)
        if name is not None and name not in ACT2FN:
            near = difflib.get_close_matches(str(name), ACT2FN, n=1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            hint = f"{guess}known: {', '.join(sorted(ACT2FN))}"
            raise _fault(source, f"its config.json names an unknown activation, {name!r}", hint)


def _check_rotations(parameters: Any, source: ModelSource) -> None:
    """Of all layers, or of each kind of layer by its name."""
    for entry in [parameters, *(parameters or {}).values()]:
        kind = entry.get("rope_type") if isinstance(entry, dict) else None
        if kind is not None and kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
            known = ", ".join(sorted({"default", *ROPE_INIT_FUNCTIONS}))
            message = f"its config.json names an unknown rope_type, {kind!r}"
            raise _fault(source, message, f"known: {known}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < 1


def _fault(source: ModelSource, message: str, hint: str | None = None) -> InputError:
    return InputError(
        message,
        where=source.model_id,
        hint=hint or "take the config.json that belongs to the weights",
        error_id="INPUT-MODEL",
    )
