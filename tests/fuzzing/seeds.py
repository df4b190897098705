"""What cases of runs and traces begin from: two finished runs and a trace, made once a process."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from fuzzing.runner import Case, run_case

_PROFILE = """\
amaqctl: 1
model: {id: tiny, dtype: float32}
split: {cuts: [1]}
lora: {r: 2, alpha: 4, dropout: 0.1, target_modules: [q_proj]}
quantizers:
  activation: {name: amaq, options: {target_bits: 3, memory: 0.5}}
  gradient: {name: group, options: {bits: 4, group_size: 16}}
task: {name: word-problems, options: {num_train: 8, num_validation: 4}}
optimizer: {lr: 1e-3, schedule: linear}
train: {max_steps: 4, batch_size: 2, micro_batches: 2, max_length: 96}
eval: {every: 2, max_examples: 2}
checkpoint: {every: 2}
"""
RUN, OTHER, TRACE = "runs/one", "runs/two", "t.trace"


@cache
def finished() -> dict[str, bytes]:
    """Path to content: the runs ``RUN`` and ``OTHER``, and ``TRACE`` of their profile."""
    stateful = "quantizers.activation={name: aq-sgd, options: {bits: 4}}"
    commands = (
        ("train", "p.yaml", "--out", RUN),
        ("train", "p.yaml", "--out", OTHER, "--set", stateful),
        ("eval", RUN, "--limit", "1"),
        ("compress-trace", "--record", "p.yaml", "--out", TRACE, "--steps", "2"),
    )
    files = {"p.yaml": _PROFILE.encode()}
    with tempfile.TemporaryDirectory(prefix="amaqctl-fuzz-seed-") as name:
        for command in commands:
            outcome = run_case(Case("seed", command, files), folder=Path(name))
            assert outcome.exit_code == 0, outcome.output.decode("utf-8", "replace")
            files = {}
        made = {}
        for path in sorted(Path(name).rglob("*")):
            if path.is_file():
                made[os.fspath(path.relative_to(name))] = path.read_bytes()
    for path in (f"{run}/{file}" for run in (RUN, OTHER) for file in ("run.json", "profile.yaml")):
        made[path] = made[path].replace(name.encode(), b".")  # that folder is gone
    # What names the time of its making gets a name that does not.
    return {
        f"{RUN}/eval/one.json" if path.startswith(f"{RUN}/eval/") else path: content
        for path, content in made.items()
    }
