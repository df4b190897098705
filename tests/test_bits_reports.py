"""What senders report is asked at every save of a real run, and read back without them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaqctl.cli.main import app

PROFILE = """
amaqctl: 1
model: {id: tiny, dtype: float32}
split: {cuts: [4]}
quantizers:
  activation: {name: amaq, options: {target_bits: 3, allocation: tracked}}
  gradient: {name: hadanorm}
task: {name: word-problems}
train: {max_steps: 2, batch_size: 2, micro_batches: 2}
eval: {every: 2, max_examples: 2}
checkpoint: {every: 2}
"""


def run(*arguments: str):
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def test_a_run_keeps_target_columns_and_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(PROFILE)
    trained = run("train", "p.yaml", "--out", "out")
    assert trained.exit_code == 0, trained.stderr
    shutil.rmtree(Path("out", "quantizer"))  # nothing of a quantizer's state is needed
    shown = run("inspect-bits", "out", "--why", "--json")
    assert shown.exit_code == 0, shown.stderr
    data = json.loads(shown.stdout)["data"]
    sites = {site["role"]: site for site in data["allocations"][0]["sites"]}
    assert (sites["activation"]["column"], sites["activation"]["target_bits"]) == ("channel", 3.0)
    assert (sites["gradient"]["column"], sites["gradient"]["target_bits"]) == (
        "rotated channel",
        None,
    )
    (why,) = data["why"]
    assert len(why["range"]) == sites["activation"]["num_columns"]
    assert any(value is not None and value > 0 for value in why["gradient_energy"])
    assert "rotated channels at" in run("inspect-bits", "out").stdout
