"""A run's adapter as a folder that stock tools load, or merged into the base weights.

A folder appears whole or not at all. Merging is checked in three parts, so that rounding to a
16-bit type cannot hide a wrong merge: the merge itself is done and compared in float32; what is
saved is exactly those weights rounded to the base's type; and the logits of the saved model stay
within what that rounding explains.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from amaqctl.errors import CheckError, InputError, ResourceError
from amaqctl.model.adapter import read_adapter
from amaqctl.model.configuration import load_config, num_layers
from amaqctl.model.cut import StageRange
from amaqctl.model.folder import read_object
from amaqctl.model.loading import load_stage
from amaqctl.model.lora_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.reading import first_line
from amaqctl.model.source import ModelSource
from amaqctl.model.tokenizer import load_tokenizer
from amaqctl.model.weight_files import find_file
from amaqctl.occupied import occupied_export, refuse_export
from amaqctl.quantizer import DTYPES
from amaqctl.storage import AlreadyThere, explained, write_folder

# Largest difference of a logit that passes, as a share of the largest logit. Float32 leaves only
# the order of additions, (W + s B A) x against W x + s B (A x). In a 16-bit type every merged
# weight is rounded by up to 2^-9 (bfloat16) or 2^-12 (float16) of itself, block after block.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
_PROBE_SHAPE = (2, 32)
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class MergeCheck:
    """How far the merged model is from the adapter on its base; both computed in float32.

    Args:
        dtype: of the saved weights.
        max_difference: largest difference of a logit, float32 merge.
        max_difference_saved: the same with the saved weights, rounded to ``dtype``.
        largest_logit: by absolute value.
        adapter_effect: largest difference of a logit that the adapter itself makes on its base.
        tolerance, tolerance_saved: what the two may be, as logits.
        num_logits: how many were compared.
    """

    dtype: str
    max_difference: float
    max_difference_saved: float
    largest_logit: float
    adapter_effect: float
    tolerance: float
    tolerance_saved: float
    num_logits: int


def export_adapter(adapter: Path, folder: Path, source: ModelSource | None, readme: str) -> None:
    """Write the stock PEFT folder: configuration, weights, tokenizer files and ``README.md``.

    Args:
        source: whose tokenizer is added; None where the base is not within reach.

    Raises:
        InputError: ``folder`` is not empty, or adapter or tokenizer cannot be read.
        ResourceError: it cannot be written; nothing is left.
    """
    read_adapter(adapter)
    tokenizer = None if source is None else load_tokenizer(source)

    def write(unfinished: Path) -> None:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(adapter / name, unfinished / name)
        if source is not None:
            _save_tokenizer(tokenizer, unfinished, source)
        (unfinished / "README.md").write_text(readme, encoding="utf-8")

    _whole_or_nothing(folder, write)


def export_merged(
    adapter: Path,
    folder: Path,
    source: ModelSource,
    dtype: str,
    readme: Callable[[MergeCheck], str],
) -> MergeCheck:
    """Write the base with the adapter merged in, as safetensors of ``dtype``, and check it.

    Args:
        adapter: stock PEFT folder.
        dtype: of the base weights in training, as in ``model.dtype``.
        readme: text of ``README.md``, given what the check found.

    Raises:
        InputError: ``folder`` is not empty, or model or adapter cannot be read.
        CheckError: the merged model does not do what the adapter on its base does.
        ResourceError: it cannot be written. Nothing is left in any of these cases.
    """
    read_adapter(adapter)
    tokenizer = load_tokenizer(source)
    with torch.no_grad(), no_progress_bar(), torch.random.fork_rng(devices=[]):
        logits, model = _merged(adapter, source, dtype)
        checks: list[MergeCheck] = []

        def write(unfinished: Path) -> None:
            model.to(DTYPES[dtype]).save_pretrained(unfinished)
            _copy_generation_config(source, unfinished)
            _save_tokenizer(tokenizer, unfinished, source)
            saved_BTV = _logits_of_saved(unfinished, model, dtype)
            checks.append(_checked(logits, saved_BTV, dtype))
            (unfinished / "README.md").write_text(readme(checks[0]), encoding="utf-8")

        _whole_or_nothing(folder, write)
    return checks[0]


@dataclass(frozen=True)
class _Logits:
    """Of the base, of the adapter on it, and of the merged model; float32."""

    base_BTV: Tensor
    adapted_BTV: Tensor
    merged_BTV: Tensor


def _merged(adapter: Path, source: ModelSource, dtype: str) -> tuple[_Logits, Any]:
    """The logits and the merged model, in float32."""
    blocks = num_layers(load_config(source))
    base: Any = load_stage(source, StageRange(0, blocks, blocks), DTYPES[dtype]).model
    base = base.float()  # after rounding to the type that was trained on
    base_BTV = _probe(base)
    adapted = _adapted(base, adapter)
    adapted_BTV = _probe(adapted)
    merged = _merged_in(adapted, adapter)
    return _Logits(base_BTV, adapted_BTV, _probe(merged)), merged


def _adapted(base: Any, adapter: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # peft asks the model for a name that transformers has deprecated.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return PeftModel.from_pretrained(base, str(adapter)).eval()
    except Exception as error:  # as many types as peft has parts
        raise _misfit(adapter, "put on", error) from error


def _merged_in(adapted: Any, adapter: Path) -> Any:
    try:
        return adapted.merge_and_unload()  # an overflow shows in the logits, see _checked
    except Exception as error:
        raise _misfit(adapter, "merged into", error) from error


def _misfit(adapter: Path, what: str, error: Exception) -> InputError:
    return InputError(
        f"the adapter cannot be {what} its base: {first_line(error)}",
        where=str(adapter),
        hint="export another checkpoint with --checkpoint",
        error_id="INPUT-ADAPTER",
    )


def _logits_of_saved(folder: Path, rounded: Any, dtype: str) -> Tensor:
    """Logits, in float32 arithmetic, of what is on disk, which must be ``rounded`` exactly."""
    saved = AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[dtype], use_safetensors=True, local_files_only=True
    )
    written, read = rounded.state_dict(), saved.state_dict()
    wrong = [n for n in written if n not in read or not torch.equal(written[n], read[n])]
    if wrong or len(written) != len(read):
        raise CheckError(
            f"{len(wrong)} saved weights are not those that were merged", error_id="CHECK-MERGE"
        )
    return _probe(saved.eval().float())


def _probe(model: Any) -> Tensor:
    """Logits of fixed random tokens, ``(B, T, V)``; of equal models they are equal."""
    vocabulary = int(model.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(vocabulary, _PROBE_SHAPE, generator=generator)
    most = getattr(model.config, "max_position_embeddings", None) or ids_BT.shape[1]
    logits_BTV: Tensor = model(input_ids=ids_BT[:, :most], use_cache=False).logits
    return logits_BTV


def _checked(logits: _Logits, saved_BTV: Tensor, dtype: str) -> MergeCheck:
    expected_BTV = logits.adapted_BTV
    largest = float(expected_BTV.abs().max())
    if not math.isfinite(largest):
        raise CheckError(
            "the adapter on its base gives logits that are not finite",
            hint="export an earlier checkpoint with --checkpoint",
            error_id="CHECK-MERGE",
        )
    check = MergeCheck(
        dtype=dtype,
        max_difference=float((logits.merged_BTV - expected_BTV).abs().max()),
        max_difference_saved=float((saved_BTV - expected_BTV).abs().max()),
        largest_logit=largest,
        adapter_effect=float((logits.base_BTV - expected_BTV).abs().max()),
        tolerance=TOLERANCES["float32"] * largest,
        tolerance_saved=TOLERANCES[dtype] * largest,
        num_logits=expected_BTV.numel(),
    )
    for found, allowed, part in (
        (check.max_difference, check.tolerance, "merging"),
        (check.max_difference_saved, check.tolerance_saved, f"rounding to {dtype}"),
    ):
        if not found <= allowed:  # NaN fails too
            raise CheckError(
                f"{part} changes a logit by {found:.3g}, more than {allowed:.3g}",
                hint="export without --merge, and load the adapter on its base",
                error_id="CHECK-MERGE",
            )
    return check


def _save_tokenizer(tokenizer: Any, folder: Path, source: ModelSource) -> None:
    try:
        with explained(folder):
            tokenizer.save_pretrained(folder)
    except ResourceError:
        raise
    except Exception as error:
        raise InputError(
            f"the model's tokenizer cannot be saved: {first_line(error)}",
            where=source.model_id,
            hint="take the tokenizer that belongs to the weights",
            error_id="INPUT-TOKENIZER",
        ) from error


def _copy_generation_config(source: ModelSource, folder: Path) -> None:
    """The base's own, byte for byte: nothing of it was trained."""
    path = find_file(source, GENERATION_CONFIG)
    if path is not None:
        read_object(path)
        shutil.copyfile(path, folder / GENERATION_CONFIG)


def _whole_or_nothing(folder: Path, write: Callable[[Path], None]) -> None:
    refuse_export(folder)
    place = folder.resolve() if folder.is_dir() else folder  # a link to an empty folder stays one
    try:
        write_folder(place, write)
    except AlreadyThere:
        raise occupied_export(folder) from None
    except ResourceError as error:
        error.hint = "free some space, or choose another place with --to"
        raise
