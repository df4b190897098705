"""What is not finite before the first step is the base's fault: its type, or its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_folder import edit_weights, write_model_folder, write_profile
from typer.testing import CliRunner

from amaqctl.cli.main import app

NAME = "model.layers.1.mlp.up_proj.weight"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def _larger_than_float16(weights: dict[str, torch.Tensor]) -> None:
    weights[NAME] *= 1e6


def _products_larger_than_float16(weights: dict[str, torch.Tensor]) -> None:
    weights["model.embed_tokens.weight"] *= 1e4
    for name in weights:
        if name.endswith(("up_proj.weight", "down_proj.weight", "o_proj.weight")):
            weights[name] *= 1e4


def _nan(weights: dict[str, torch.Tensor]) -> None:
    weights[NAME][3, 5] = float("nan")


def _infinity(weights: dict[str, torch.Tensor]) -> None:
    weights[NAME][3, 5] = float("inf")


@pytest.mark.parametrize(
    ("change", "dtype", "hint"),
    [
        (_larger_than_float16, "float16", f"{NAME} does not fit into float16: set model.dtype"),
        (_products_larger_than_float16, "float16", "the base overflows in float16: set model.dty"),
        (_nan, "float32", f"the base's weights hold NaN ({NAME})"),
        (_nan, "float16", f"the base's weights hold NaN ({NAME})"),
        (_infinity, "float32", f"the base's weights hold infinity ({NAME})"),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval", "dry-run"])
def test_the_hint_names_type_or_weights(tmp_path: Path, command, change, dtype, hint) -> None:
    folder = write_model_folder(tmp_path / "m")
    edit_weights(folder, change)
    profile = write_profile(tmp_path / "p.yaml", folder, tmp_path / "d.jsonl")
    arguments = ["train", "--dry-run"] if command == "dry-run" else [command]
    arguments += ["--out", tmp_path / "run"] if command == "train" else []
    result = run(*arguments, profile, "--set", f"model.dtype={dtype}", "--json")
    assert result.exit_code == 6
    error = json.loads(result.stdout)["error"]
    assert error["message"].startswith("before anything was trained: ")
    assert error["hint"].startswith(hint)
    assert "lr" not in error["hint"]
