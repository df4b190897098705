"""Hand-made run folders for `inspect-bits`: the widths are arithmetic, so every value is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

NUM_CHANNELS = 96
CUTS = (8, 12, 16)
STEPS = (20, 40, 60)

PROFILE = """\
amaqctl: 1
model: {id: tiny}
split: {cuts: [8, 12, 16]}
quantizers:
  activation: {name: amaq, options: {target_bits: 4}}
  gradient: {name: group, options: {bits: 6, group_size: 64}}
task: {name: python-docs}
"""


def widths(link: int, step: int, shift: int = 0) -> np.ndarray:
    """uint8 (96,): 8 everywhere at step 20, then 2 to 7 by arithmetic."""
    if step == STEPS[0]:
        return np.full(NUM_CHANNELS, 8, dtype=np.uint8)
    i = np.arange(NUM_CHANNELS)
    return (2 + (i * i * 3 + i * (link + 5) + i // 7 + shift + step // 60) % 31 // 5 % 6).astype(
        np.uint8
    )


def sites(step: int, shift: int = 0) -> dict[str, np.ndarray]:
    """What a run saves at a step."""
    found = {}
    for link in range(len(CUTS)):
        found[f"link{link}.activation.channel"] = widths(link, step, shift)
        found[f"link{link}.gradient.tensor"] = np.full(32, 6, dtype=np.uint8)
    return found


def make_run(folder: Path, shift: int = 0, is_done: bool = True) -> Path:
    """A finished run of 60 steps, with state whose sensitivity is the width plus a ripple."""
    bits = folder / "bits"
    bits.mkdir(parents=True)
    for step in STEPS:
        np.savez_compressed(bits / f"step-{step:06d}.npz", **sites(step, shift))
    run: dict[str, object] = {"schema": "amaqctl.run/1", "id": "b21e", "name": folder.name}
    (folder / "profile.yaml").write_text(PROFILE)
    losses = {0: 5.0, 20: 3.0, 40: 2.0, 60: 2.5}
    lines = [json.dumps({"kind": "eval", "step": s, "loss": v}) for s, v in losses.items()]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if is_done:
        run["result"] = {"steps": STEPS[-1]}
        np.savez_compressed(bits / "final.npz", **sites(STEPS[-1], shift))
        write_state(folder / "quantizer", shift)
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def write_state(folder: Path, shift: int = 0) -> None:
    """What the senders measured, and their options."""
    folder.mkdir(parents=True)
    tensors: dict[str, np.ndarray] = {}
    options = {}
    for link in range(len(CUTS)):
        place = f"link{link}.activation.sender"
        ripple = np.arange(NUM_CHANNELS) % 3 / 2 - 0.5
        wanted = widths(link, STEPS[-1], shift) + ripple
        tensors[f"{place}.harm.gradient_energy_K"] = (4.0 ** (wanted - 8)).astype(np.float32)
        tensors[f"{place}.harm.range_energy_K"] = np.full(NUM_CHANNELS, 9.0, dtype=np.float32)
        tensors[f"link{link}.gradient.sender.memory"] = np.zeros(4, dtype=np.float32)
        options[place] = {"options": {"min_bits": 2, "max_bits": 8, "target_bits": 4.0}}
        options[f"link{link}.gradient.sender"] = {"options": {"bits": 6, "group_size": 64}}
    save_file(tensors, folder / "quantizer.safetensors")
    (folder / "options.json").write_text(json.dumps(options))
