"""Where a GPU is: runs are as on the CPU, messages decode to the same bits, a resume is exact.

What needs a GPU is skipped where there is none. What CUDA refuses can be seen without one.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_points import QUANTIZERS, settings, what_differs
from quantizer_cases import NUM_CHANNELS, Case, all_cases
from run_files import amaqctl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from amaqctl import registry
from amaqctl.bits import BitAllocation
from amaqctl.engine.run_folder import RunFolder
from amaqctl.quantizer import TensorContext
from amaqctl.quantizers.column_harm import _lower_median
from amaqctl.wire import Message

NUM_STEPS = 4
NAMES = sorted(offer.name for offer in registry.offers(registry.QUANTIZERS))
# Sums on the GPU are taken in another order, so what follows from a sum may be another code.
WITHOUT_SUMS = {"none", "fixed", "group", "aq-sgd"}
# By the documentation of torch.use_deterministic_algorithms, of operations without a backward pass.
REFUSED_BY_CUDA = {
    "aten::median.dim",
    "aten::median.dim_values",
    "aten::nanmedian.dim",
    "aten::nanmedian.dim_values",
    "aten::kthvalue",
    "aten::kthvalue.values",
    "aten::histc",
    "aten::put",
    "aten::put_",
    "aten::nll_loss2d_forward",
    "aten::_ctc_loss",
}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class Called(TorchDispatchMode):
    """The names of all operations, those of the backward pass too, and plain divisors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.divisors: list[float] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        if func.name().startswith("aten::div") and not isinstance(args[1], Tensor):
            self.divisors.append(abs(float(args[1])))
        return func(*args, **(kwargs or {}))


def arguments(folder: Path, quantizer: str, *more: str) -> list[str]:
    """Of `train`, for a run of four steps with two checkpoints."""
    choice = QUANTIZERS.get(quantizer, f"{{name: {quantizer}}}")
    changes = [*settings(folder, "none", NUM_STEPS), "split.cuts=[1]", *more]
    changes += [f"quantizers.activation={choice}"]
    return ["quickstart", *(part for item in changes for part in ("--set", item)), "--quiet"]


def trained(folder: Path, run: str, quantizer: str, *more: str) -> RunFolder:
    result = amaqctl("train", *arguments(folder, quantizer, *more), "--out", folder / run)
    assert result.exit_code == 0, result.stderr
    return RunFolder(folder / run)


def without_gpu(*arguments: str) -> str:
    """What a command prints in a process that sees no GPU."""
    command = [sys.executable, "-m", "amaqctl", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def card_of(run: Path) -> str | None:
    """The GPU that a run was made on."""
    environment: dict[str, str | None] = json.loads((run / "environment.json").read_text())
    return environment["cuda"]


@pytest.mark.parametrize("name", NAMES)
def test_training_calls_nothing_that_cuda_refuses(tmp_path: Path, name: str) -> None:
    with Called() as called:
        trained(tmp_path, "run", name)
    assert "aten::_log_softmax" in called.names
    assert not called.names & REFUSED_BY_CUDA


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_decoding_divides_by_no_plain_number(case: Case) -> None:
    """CUDA multiplies by its reciprocal, which is exact for powers of two only."""
    sender, receiver = case.build(), case.build()
    for step in range(3):
        context = context_of(case, step)
        with torch.no_grad():
            sent = Message.from_bytes(
                Message(case.name, context, sender.quantize(hidden(step), context)).to_bytes()
            )
            with Called() as called:
                receiver.dequantize(sent.quantized, context)
        assert called.names
        assert [d for d in called.divisors if math.frexp(d)[0] != 0.5] == []


@pytest.mark.parametrize("num_columns", [1, 2, 5, 6])
def test_the_lower_median_is_that_of_torch(num_columns: int) -> None:
    values_WK = torch.rand(3, num_columns, generator=torch.Generator().manual_seed(2))
    expected = values_WK.median(1, keepdim=True).values
    assert torch.equal(_lower_median(values_WK), expected)


def context_of(case: Case, step: int) -> TensorContext:
    is_gradient = case.role == "gradient"
    return TensorContext(
        case.role,
        0,
        step,
        3,
        sample_ids=(0, 1, 2),
        lengths=(9, 6, 9),
        training=True,
        allocation=BitAllocation.uniform(3, NUM_CHANNELS, "channel") if is_gradient else None,
    )


def hidden(step: int) -> Tensor:
    """Rows of different lengths, one channel much larger than the others."""
    generator = torch.Generator().manual_seed(step)
    x_BTC = torch.randn(3, 9, NUM_CHANNELS, generator=generator)
    x_BTC[:, :, 3] *= 50
    x_BTC[1, 6:] = 0
    return x_BTC


@needs_gpu
@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_a_message_of_one_device_decodes_to_the_same_bits_on_the_other(case: Case) -> None:
    sender, receivers = case.build().to("cuda"), [case.build(), case.build().to("cuda")]
    by_cpu = case.build()
    for step in range(3):
        context, x = context_of(case, step), hidden(step)
        with torch.no_grad():
            sent = sender.quantize(x.cuda(), context)
            assert {tensor.device.type for tensor in sent.side.values()} <= {"cuda"}
            data = Message(case.name, context, sent).to_bytes()
            if case.name in WITHOUT_SUMS:
                expected = Message(case.name, context, by_cpu.quantize(x, context)).to_bytes()
                assert data == expected
            decoded = []
            for device, receiver in zip(("cpu", "cuda"), receivers, strict=True):
                quantized = Message.from_bytes(data).quantized.to(torch.device(device))
                decoded.append(receiver.dequantize(quantized, context))
                assert decoded[-1].device.type == device
        assert torch.equal(decoded[0], decoded[1].cpu())


@needs_gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_as_on_the_cpu(tmp_path: Path, name: str) -> None:
    same = "lora.dropout=0"  # its random numbers are the device's own
    on_gpu = trained(tmp_path, "gpu", name, same)
    without_gpu("train", *arguments(tmp_path, name, same), "--out", str(tmp_path / "cpu"))
    on_cpu = RunFolder(tmp_path / "cpu")
    assert card_of(on_gpu.path) == torch.cuda.get_device_name()
    assert card_of(on_cpu.path) is None
    pairs = zip(on_gpu.metrics(), on_cpu.metrics(), strict=True)
    losses = [(a["loss"], b["loss"]) for a, b in pairs if "loss" in a]
    assert len(losses) >= NUM_STEPS
    for ours, theirs in losses:
        assert math.isclose(ours, theirs, rel_tol=2e-3)
    sent = [run.run["result"]["wire_bytes"] for run in (on_gpu, on_cpu)]
    assert math.isclose(*sent, rel_tol=0 if name in WITHOUT_SUMS else 0.02)


@needs_gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_resume_on_the_gpu_is_exact(tmp_path: Path, name: str) -> None:
    straight = trained(tmp_path, "straight", name).path
    stopped = Path(shutil.copytree(straight, tmp_path / "stopped"))
    shutil.rmtree(stopped / "checkpoints" / f"step-{NUM_STEPS:06d}")
    result = amaqctl("train", "--resume", stopped, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert what_differs(straight, stopped) == []


@needs_gpu
def test_a_run_of_the_gpu_is_scored_on_the_cpu(tmp_path: Path) -> None:
    run = trained(tmp_path, "run", "amaq")
    said = json.loads(without_gpu("eval", str(run.path), "--boundary", "quantized", "--json"))
    loss, before = said["data"]["metrics"]["quantized"]["loss"], run.run["result"]["loss_after"]
    assert math.isclose(loss, before, rel_tol=2e-3)
