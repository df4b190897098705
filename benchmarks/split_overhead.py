"""What the cut costs: split training against unsplit peft training, side by side in one process.

    python benchmarks/split_overhead.py [--steps 10] [--profile quickstart] [--set KEY=VALUE]…

Prints, as ratios of medians over alternating steps on the same batches: the time of a step split
with `none` (lossless messages) to an unsplit one; the share of a step that the profile's own
quantizers spend encoding and decoding; and, each in a process of its own, peak memory.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from amaqctl.build import Built, build, resolve_parts
from amaqctl.engine.link import Channel
from amaqctl.engine.memory import peak_memory_mib
from amaqctl.engine.stage import token_loss
from amaqctl.model.configuration import load_config
from amaqctl.model.source import resolve_source
from amaqctl.model.tokenizer import load_tokenizer, pad_token_id
from amaqctl.profile import LoadedProfile, load_profile
from amaqctl.quantizer import DTYPES
from amaqctl.tasks.batch import Batch, batch_at

LOSSLESS = [
    "quantizers.activation={name: none}",
    "quantizers.gradient={name: none}",
]


def unsplit_step(loaded: LoadedProfile) -> Callable[[Batch, int], None]:
    """The same model, adapter shapes and optimizer, uncut, as stock peft trains it."""
    profile = loaded.profile
    model = AutoModelForCausalLM.from_pretrained(
        resolve_source(profile.model.id).folder_or_hub_id, dtype=DTYPES[profile.model.dtype]
    )
    config = LoraConfig(
        r=profile.lora.r,
        lora_alpha=profile.lora.alpha,
        target_modules=profile.lora.target_modules,
    )
    model = get_peft_model(model, config)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=profile.optimizer.lr, weight_decay=0.0)
    model.train()

    def step(batch: Batch, _: int) -> None:
        logits = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        (token_loss(logits, batch.labels_BT) / batch.num_loss_tokens).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def split_step(built: Built) -> Callable[[Batch, int], None]:
    """One step of the engine."""
    return lambda batch, step: built.engine.train_step(batch, step) and None


def batches(loaded: LoadedProfile, num_steps: int) -> list[Batch]:
    """The run's own batches, made without loading a model."""
    train = loaded.profile.train
    source = resolve_source(loaded.profile.model.id)
    tokenizer = load_tokenizer(source)
    pad = pad_token_id(tokenizer, load_config(source).vocab_size)
    part = resolve_parts(loaded).task
    task = part.cls(part.config, tokenizer, max_length=train.max_length, seed=train.seed)
    return [
        batch_at(task.train, step, train.batch_size, train.seed, pad) for step in range(num_steps)
    ]


def seconds(step: Callable[[Batch, int], None], batch: Batch, number: int) -> float:
    """Wall time of one step."""
    started = time.perf_counter()
    step(batch, number)
    return time.perf_counter() - started


def time_codec(built: Built) -> list[float]:
    """Wrap the channels' verbs so that the time inside them adds up in the returned list."""
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent[0] += time.perf_counter() - started

        return call

    for stage in built.engine.stages.values():
        if stage.outgoing is not None:
            for channel in (stage.outgoing.activations, stage.outgoing.gradients):
                assert isinstance(channel, Channel)
                for verb in ("send", "receive", "surrogate"):
                    setattr(channel, verb, timed(getattr(channel, verb)))
    return spent


def side_by_side(loaded: LoadedProfile, overrides: list[str], num_steps: int) -> dict[str, float]:
    """Medians over alternating steps."""
    lossless = build(load_profile(loaded.path, [*overrides, *LOSSLESS]))
    quantized = build(loaded)
    spent = time_codec(quantized)
    steps = {
        "unsplit": unsplit_step(loaded),
        "split": split_step(lossless),
        "quantized": split_step(quantized),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    codec: list[float] = []
    for number, batch in enumerate(batches(loaded, num_steps + 2)):
        first = number % len(steps)  # who comes after whom is worth some per cent
        for name in [*steps, *steps][first : first + len(steps)]:
            before = spent[0]
            taken = seconds(steps[name], batch, number)
            if number >= 2:  # the first two warm up
                times[name].append(taken)
                if name == "quantized":
                    codec.append((spent[0] - before) / taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{f"{name}_step_seconds": value for name, value in medians.items()},
        "split_to_unsplit": medians["split"] / medians["unsplit"],
        "quantized_to_unsplit": medians["quantized"] / medians["unsplit"],
        "codec_share_of_a_step": statistics.median(codec),
    }


def peak_memory(kind: str, loaded: LoadedProfile, overrides: list[str], num_steps: int) -> float:
    """Peak MiB of a process that only trains in one of the ways."""
    arguments = [__file__, "--only", kind, "--profile", str(loaded.path), "--steps", str(num_steps)]
    for override in overrides:
        arguments += ["--set", override]
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quickstart")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--only", choices=["unsplit", "split"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    loaded = load_profile(arguments.profile, arguments.overrides)
    if arguments.only:
        if arguments.only == "unsplit":
            step = unsplit_step(loaded)
        else:
            step = split_step(
                build(load_profile(arguments.profile, [*arguments.overrides, *LOSSLESS]))
            )
        for number, batch in enumerate(batches(loaded, arguments.steps)):
            step(batch, number)
        print(peak_memory_mib())
        return
    result = side_by_side(loaded, arguments.overrides, arguments.steps)
    for kind in ("unsplit", "split"):
        result[f"{kind}_peak_mib"] = peak_memory(kind, loaded, arguments.overrides, 4)
    print(json.dumps({k: round(v, 4) for k, v in result.items()}, indent=2))


if __name__ == "__main__":
    main()
