"""A run's adapter as a folder that stock tools load, or merged into the base weights.

A folder appears whole or not at all. Merging is checked in three parts, so that rounding to a
16-bit type cannot hide a wrong merge: the merge itself is done and compared in float32; what is
saved is exactly those weights rounded to the base's type; and the logits of the saved model stay
within what that rounding explains.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from amaqctl.errors import InputError, ResourceError
from amaqctl.exporting.logits import Logits, MergeCheck, checked, logits_of_saved, probe
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
from amaqctl.model.whole_weights import read_weights
from amaqctl.occupied import occupied_export, refuse_export
from amaqctl.quantizer import DTYPES
from amaqctl.storage import AlreadyThere, explained, write_folder

__all__ = ["MergeCheck", "export_adapter", "export_merged", "export_trained"]

GENERATION_CONFIG = "generation_config.json"


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
        return _written(folder, model, logits, dtype, tokenizer, source, readme)


def export_trained(
    weights: Path, folder: Path, source: ModelSource, readme: Callable[[MergeCheck], str]
) -> MergeCheck:
    """Write the whole model of a full fine-tuning, as safetensors of float32, and check it.

    Args:
        weights: folder of the trained weights.
        readme: text of ``README.md``, given what the check found.

    Raises:
        InputError: ``folder`` is not empty, or model or weights cannot be read.
        CheckError: what is on disk does not do what the trained weights do.
        ResourceError: it cannot be written. Nothing is left in any of these cases.
    """
    trained = read_weights(weights)
    tokenizer = load_tokenizer(source)
    with torch.no_grad(), no_progress_bar(), torch.random.fork_rng(devices=[]):
        model = _whole_base(source, "float32")
        base_BTV = probe(model)
        _put_in(model, trained, weights)
        trained_BTV = probe(model)
        logits = Logits(base_BTV, trained_BTV, trained_BTV)
        return _written(folder, model, logits, "float32", tokenizer, source, readme)


def _put_in(model: Any, trained: dict[str, Tensor], folder: Path) -> None:
    places = dict(model.named_parameters())
    for name, weight in trained.items():
        if name not in places or places[name].shape != weight.shape:
            raise InputError(
                f"{name} of the trained weights is of no use to the base",
                where=str(folder),
                hint="take the base that the run was trained on",
                error_id="INPUT-WEIGHTS",
            )
        places[name].copy_(weight)


def _written(
    folder: Path,
    model: Any,
    logits: Logits,
    dtype: str,
    tokenizer: Any,
    source: ModelSource,
    readme: Callable[[MergeCheck], str],
) -> MergeCheck:
    """Write a whole model as ``dtype``, read it back and compare."""
    checks: list[MergeCheck] = []

    def write(unfinished: Path) -> None:
        model.to(DTYPES[dtype]).save_pretrained(unfinished)
        _copy_generation_config(source, unfinished)
        _save_tokenizer(tokenizer, unfinished, source)
        saved_BTV = logits_of_saved(unfinished, model, dtype)
        checks.append(checked(logits, saved_BTV, dtype))
        (unfinished / "README.md").write_text(readme(checks[0]), encoding="utf-8")

    _whole_or_nothing(folder, write)
    return checks[0]


def _merged(adapter: Path, source: ModelSource, dtype: str) -> tuple[Logits, Any]:
    """The logits and the merged model, in float32."""
    base = _whole_base(source, dtype)
    base_BTV = probe(base)
    adapted = _adapted(base, adapter)
    adapted_BTV = probe(adapted)
    merged = _merged_in(adapted, adapter)
    return Logits(base_BTV, adapted_BTV, probe(merged)), merged


def _whole_base(source: ModelSource, dtype: str) -> Any:
    """All of the base in float32, after rounding to the type that was trained on."""
    blocks = num_layers(load_config(source))
    return load_stage(source, StageRange(0, blocks, blocks), DTYPES[dtype]).model.float()


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
