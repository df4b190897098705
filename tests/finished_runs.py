"""Hand-made run folders for `compare` and `runs`: every number is written down, none is trained."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

MIB = 2**20
VALUES = 100 * MIB  # values sent, so that 16 bit would be 200 MiB


def make_run(
    folder: Path,
    *,
    activation: dict[str, Any],
    gradient: dict[str, Any] | None = None,
    seed: int = 17,
    sent_mib: float = 50.0,
    loss: float = 2.5,
    fingerprint: str = "9b1e" * 16,
    status: str = "done",
    facts: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    age: timedelta = timedelta(hours=3, minutes=20),
    **sections: dict[str, Any],
) -> Path:
    """A run of 60 steps.

    Args:
        activation, gradient: ``name`` and ``options`` of the quantizers.
        facts, result: what else goes into run.json and into its result.
        sections: what is changed in the profile.
    """
    gradient = gradient or {"name": "group", "options": {"bits": 6}}
    folder.mkdir(parents=True)
    profile: dict[str, Any] = {
        "amaqctl": 1,
        "model": {"id": "tiny"},
        "split": {"cuts": [3]},
        "quantizers": {"activation": activation, "gradient": gradient},
        "task": {"name": "python-docs"},
        "train": {"max_steps": 60, "seed": seed},
    }
    for name, changed in sections.items():
        profile[name] = {**profile.get(name, {}), **changed}
    with (folder / "profile.yaml").open("w") as file:
        YAML().dump(profile, file)
    started = datetime.now(UTC) - age
    run: dict[str, Any] = {
        "schema": "amaqctl.run/1",
        "id": folder.name[-4:],
        "name": "quickstart",
        "status": status,
        "started": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": {"id": "tiny", "revision": None},
        "data": {"fingerprint": fingerprint, "num_train": 3341, "num_validation": 298},
        "seed": seed,
        **(facts or {}),
    }
    if status == "done":
        run["result"] = _result(sent_mib, loss) | (result or {})
        _write_options(folder, activation, gradient)
    (folder / "run.json").write_text(json.dumps(run))
    _write_metrics(folder, 60 if status == "done" else 40, sent_mib, loss)
    return folder


def _result(sent_mib: float, loss: float) -> dict[str, Any]:
    bits = 8 * sent_mib * MIB / VALUES
    return {
        "steps": 60,
        "loss_before": 5.0,
        "loss_after": loss,
        "activation_bits_over_run": bits + 0.5,
        "gradient_bits_over_run": bits - 0.5,
        "activation_bits_at_end": bits - 0.25,
        "gradient_bits_at_end": bits - 0.75,
        "wire_bytes": round(sent_mib * MIB),
        "wire_values": VALUES,
        "seconds": 95.4,
        "peak_memory_mib": 415,
    }


def _write_options(folder: Path, activation: dict[str, Any], gradient: dict[str, Any]) -> None:
    kept = {
        f"link0.{role}.{end}": {"options": choice.get("options", {})}
        for role, choice in (("activation", activation), ("gradient", gradient))
        for end in ("sender", "receiver")
    }
    (folder / "quantizer").mkdir()
    (folder / "quantizer" / "options.json").write_text(json.dumps(kept))


def _write_metrics(folder: Path, num_steps: int, sent_mib: float, loss: float) -> None:
    records: list[dict[str, Any]] = [{"kind": "eval", "step": 0, "loss": 5.0}]
    for step in range(20, num_steps + 1, 20):
        records.append(
            {"kind": "train", "step": step, "wire/total_bytes": round(sent_mib * MIB / 3)}
        )
        records.append({"kind": "eval", "step": step, "loss": loss + (60 - step) / 100})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
