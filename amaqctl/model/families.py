"""Model families that may be cut. The list is the parametrisation of the equality test.

A family belongs here when split training and generation were shown to be bit-identical to the
whole model (``tests/test_model_split.py``); nothing else may be cut, since a wrong cut trains
silently.
"""

from __future__ import annotations

from typing import Any

from amaqctl.errors import InputError

SUPPORTED = ("gemma3_text", "gpt2", "llama", "mistral", "opt", "phi3", "qwen2", "qwen3")


def check_family(settings: dict[str, Any], where: str) -> None:
    """Refuse a model configuration (as a dictionary) that was not shown to split exactly.

    Raises:
        InputError: the family is not in the tested list, or an option of it that drops or
            bypasses blocks is on.
    """
    family = settings.get("model_type")
    if family not in SUPPORTED:
        raise InputError(
            f"model family '{family}' is not supported",
            where=where,
            hint=f"only families shown to split exactly are: {', '.join(SUPPORTED)}",
            error_id="INPUT-MODEL-FAMILY",
        )
    for option in ("layerdrop", "add_cross_attention"):
        if settings.get(option):
            raise InputError(
                f"a {family} model with {option} cannot be cut",
                where=where,
                hint=f"set {option} to {type(settings[option])()} in its config.json",
                error_id="INPUT-MODEL-FAMILY",
            )
