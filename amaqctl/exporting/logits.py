"""How a whole model that was written is held against what it should be, by its logits.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from amaqctl.errors import CheckError
from amaqctl.quantizer import DTYPES

# Largest difference of a logit that passes, as a share of the largest logit. Float32 leaves only
# the order of additions, (W + s B A) x against W x + s B (A x). In a 16-bit type every merged
# weight is rounded by up to 2^-9 (bfloat16) or 2^-12 (float16) of itself, block after block.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
_PROBE_SHAPE = (2, 32)


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


@dataclass(frozen=True)
class Logits:
    """Of the base, of the adapter on it, and of the merged model; float32."""

    base_BTV: Tensor
    adapted_BTV: Tensor
    merged_BTV: Tensor


def logits_of_saved(folder: Path, rounded: Any, dtype: str) -> Tensor:
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
    return probe(saved.eval().float())


def probe(model: Any) -> Tensor:
    """Logits of fixed random tokens, ``(B, T, V)``; of equal models they are equal."""
    vocabulary = int(model.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(vocabulary, _PROBE_SHAPE, generator=generator)
    most = getattr(model.config, "max_position_embeddings", None) or ids_BT.shape[1]
    logits_BTV: Tensor = model(input_ids=ids_BT[:, :most], use_cache=False).logits
    return logits_BTV


def checked(logits: Logits, saved_BTV: Tensor, dtype: str) -> MergeCheck:
    """Hold what was saved against what should be.

    Raises:
        CheckError: it differs by more than rounding explains.
    """
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
