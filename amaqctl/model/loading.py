"""A stage filled with its weights: exactly those of its blocks, in the vendor's own class.

transformers is handed tensors by name and no folder, so that nothing else which lies in a
stranger's folder (an adapter, a pickle, code) is looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from amaqctl.errors import InputError
from amaqctl.model.configuration import load_config, num_layers
from amaqctl.model.cut import StageRange
from amaqctl.model.low_bit_loading import SetAside
from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.reading import reading
from amaqctl.model.slots import Skip, empty_foreign_slots
from amaqctl.model.source import ModelSource
from amaqctl.model.stage_model import StageModel
from amaqctl.model.weight_files import open_weights
from amaqctl.model.weight_plan import check_num_blocks, plan
from amaqctl.model.wide_product import multiply_wide

# from_pretrained switches process-wide defaults: two threads in it load garbage.
_LOADING = threading.Lock()
_HINT = "take the config.json that belongs to the weights"


def load_stage(
    source: ModelSource,
    stage_range: StageRange,
    dtype: torch.dtype,
    base_bits: int | None = None,
) -> StageModel:
    """Load one stage: only its own weights, frozen, in evaluation mode, on the CPU.

    A range of all blocks gives the whole model. An adapter that lies in the model's folder is
    not loaded.

    Args:
        base_bits: 8 or 4 for the weights of linear layers in blocks; None leaves them in ``dtype``.

    Raises:
        InputError: weights are missing, damaged, of another shape or of no use to any stage;
            config.json does not give a model that runs; the layout cannot be cut; or
            bitsandbytes, which ``base_bits`` needs, is not there.
        ResourceError: out of memory.
    """
    config = load_config(source)
    assert num_layers(config) == stage_range.num_layers
    with open_weights(source) as tensors:
        check_num_blocks(tensors, stage_range.num_layers, source)
        with _LOADING, reading(source, "weights"), no_progress_bar():
            aside = None if base_bits is None else SetAside(base_bits)
            stage = _loaded(config, stage_range, dtype, tensors, source, aside)
    with reading(source, "configuration", _HINT):
        _try_forward(stage, dtype)
    _probe_passage(stage, source, dtype)
    return stage


def _loaded(
    config: PreTrainedConfig,
    stage_range: StageRange,
    dtype: torch.dtype,
    tensors: Mapping[str, Any],
    source: ModelSource,
    aside: SetAside | None,
) -> StageModel:
    vendor: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    linear_names: list[str] = []
    parameter_names: list[str] = []
    tied_names: set[str] = set()
    slices: dict[str, Any] = {}

    def construct(self: Any, config: PreTrainedConfig) -> None:
        with reading(source, "configuration", _HINT):
            vendor.__init__(self, config)
        # While the whole model still stands, without weights.
        linear_names.extend(adaptable_linears(self))
        parameter_names.extend(n for n, _ in self.named_parameters(remove_duplicate=False))
        if config.tie_word_embeddings:
            tied_names.update(*(vendor._tied_weights_keys or {}).items())
        slices.update(plan(self, vendor, tensors, source))
        empty_foreign_slots(self, stage_range)
        if aside is not None:
            aside.take(self, slices)

    # A state dictionary and no folder: nothing else that lies there is looked at.
    model, report = _stage_class(vendor, construct, stage_range).from_pretrained(
        None, config=config, state_dict=slices, dtype=dtype, output_loading_info=True
    )
    _check_complete(report, source)
    if aside is not None:
        aside.put_back(model, dtype, source)
    model.requires_grad_(False)
    multiply_wide(model, dtype)
    stage = StageModel(
        model,
        stage_range,
        tuple(linear_names),
        tuple(parameter_names),
        frozenset(tied_names),
    )
    stage.eval()
    return stage


def _stage_class(vendor: Any, construct: Callable[..., None], stage_range: StageRange) -> Any:
    """The vendor's class, emptied in its constructor, so that only what is left is loaded."""
    members: dict[str, Any] = {
        "__init__": construct,
        "__module__": vendor.__module__,
        # The other stages' tensors; `plan` has refused those that are no stage's.
        "_keys_to_ignore_on_load_unexpected": [".*"],
    }
    if not stage_range.is_last:
        # Loading would look for the head that is not here.
        members["_tied_weights_keys"] = {}
    return type(vendor.__name__, (vendor,), members)


def adaptable_linears(model: Any) -> dict[str, nn.Module]:
    """The linear layers of a whole model that LoRA may adapt, by full name, in its order."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def _check_complete(report: dict[str, Any], source: ModelSource) -> None:
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in report.get(kind) or ())
        if names:
            raise InputError(
                f"the model's weights do not fit its config.json: {len(names)} "
                f"{kind.replace('_keys', '')}, such as {names[0]}",
                where=source.model_id,
                hint="the weight files and config.json must come from the same model",
                error_id="INPUT-MODEL",
            )


@torch.no_grad()
def _try_forward(stage: StageModel, dtype: torch.dtype) -> None:
    """Run three tokens, and again one by one from a cache; a config.json may fit and not run."""
    first = stage.range.is_first
    ids_BT = torch.zeros(1, 3, dtype=torch.long)
    hidden_BTC = torch.zeros(1, 3, stage.hidden_size, dtype=dtype)
    cache = stage.new_cache()
    for tokens in (slice(0, 3), slice(0, 2), slice(2, 3)):
        stage(
            input_ids_BT=ids_BT[:, tokens] if first else None,
            hidden_BTC=None if first else hidden_BTC[:, tokens],
            attention_mask_BT=torch.ones(1, tokens.stop, dtype=torch.long),
            cache=None if tokens == slice(0, 3) else cache,
        )


def _probe_passage(stage: StageModel, source: ModelSource, dtype: torch.dtype) -> None:
    """With its own blocks off, a middle stage must hand on what it receives, bit for bit.

    Raises:
        InputError: this transformers release does something between the blocks.
    """
    if stage.range.is_first or stage.range.is_last:
        return
    blocks = stage.blocks
    own = range(stage.range.first_layer, stage.range.end_layer)
    kept = [blocks[index] for index in own]
    probe_BTC = torch.linspace(-3, 3, 3 * stage.hidden_size).view(1, 3, -1).to(dtype)
    try:
        for index in own:
            blocks[index] = Skip(index)
        with torch.no_grad():
            passed_BTC = stage(hidden_BTC=probe_BTC)
    finally:
        for index, block in zip(own, kept, strict=True):
            blocks[index] = block
    if not torch.equal(passed_BTC, probe_BTC):
        raise InputError(
            "this model changes the hidden state between its blocks and cannot be cut",
            where=source.model_id,
            hint="install a transformers release that amaqctl was tested with",
            error_id="INPUT-MODEL-FAMILY",
        )
