"""Hand-made run folders for `inspect-bits`: the widths are arithmetic, so every value is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from amaqctl.engine.bits_report import SiteReport, report_arrays

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
    """The widths that a run saves at a step."""
    found = {}
    for link in range(len(CUTS)):
        found[f"link{link}.activation.channel"] = widths(link, step, shift)
        found[f"link{link}.gradient.tensor"] = np.full(32, 6, dtype=np.uint8)
    return found


def reports(shift: int = 0) -> dict[tuple[int, str], SiteReport]:
    """What the senders said: the activations' what they aim at and measured, as `amaq` does."""
    found = {}
    for link in range(len(CUTS)):
        ripple = np.arange(NUM_CHANNELS) % 3 / 2 - 0.5
        wanted = widths(link, STEPS[-1], shift) + ripple
        found[link, "activation"] = SiteReport(
            bits_a_value=4.5,
            has_codes=True,
            target_bits=4.0,
            legal_bits=(2, 8),
            range_K=np.full(NUM_CHANNELS, 3.0, np.float32),
            gradient_energy_K=(4.0 ** (wanted - 8)).astype(np.float32),
        )
        found[link, "gradient"] = SiteReport(6.5, has_codes=True, legal_bits=(6, 6))
    return found


def members(step: int, shift: int = 0) -> dict[str, np.ndarray]:
    """All that a run saves at a step."""
    return {**sites(step, shift), **report_arrays(reports(shift))}


def make_run(folder: Path, shift: int = 0, is_done: bool = True) -> Path:
    """A finished run of 60 steps, whose last reports ask for the width plus a ripple."""
    bits = folder / "bits"
    bits.mkdir(parents=True)
    for step in STEPS:
        np.savez_compressed(bits / f"step-{step:06d}.npz", **members(step, shift))
    run: dict[str, object] = {"schema": "amaqctl.run/1", "id": "b21e", "name": folder.name}
    (folder / "profile.yaml").write_text(PROFILE)
    losses = {0: 5.0, 20: 3.0, 40: 2.0, 60: 2.5}
    lines = [json.dumps({"kind": "eval", "step": s, "loss": v}) for s, v in losses.items()]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if is_done:
        run["result"] = {"steps": STEPS[-1]}
        np.savez_compressed(bits / "final.npz", **members(STEPS[-1], shift))
    (folder / "run.json").write_text(json.dumps(run))
    return folder
