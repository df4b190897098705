"""The kinds of training step that are compared: unsplit peft, split without loss, split with AMAQ.

All three train the same batches of one profile with the same adapter shapes and optimizer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from amaqctl.build import Built, build, resolve_parts
from amaqctl.engine.stage import token_loss
from amaqctl.model.configuration import load_config
from amaqctl.model.source import resolve_source
from amaqctl.model.tokenizer import load_tokenizer, pad_token_id
from amaqctl.profile import LoadedProfile, load_profile
from amaqctl.quantizer import DTYPES
from amaqctl.tasks.batch import Batch, batch_at

Step = Callable[[Batch, int], None]

LOSSLESS = [
    "quantizers.activation={name: none}",
    "quantizers.gradient={name: none}",
]
SPLIT = {"split, none": LOSSLESS, "split, amaq": []}
KINDS = ("unsplit", *SPLIT)


def loaded(profile: str, overrides: list[str], kind: str = "unsplit") -> LoadedProfile:
    """The profile of a kind of step."""
    return load_profile(profile, [*overrides, *SPLIT.get(kind, [])])


def step_of(kind: str, profile: LoadedProfile) -> tuple[Step, Built | None]:
    """A step, and what was built where it is split."""
    if kind == "unsplit":
        return unsplit_step(profile), None
    built = build(profile)
    return lambda batch, number: built.engine.train_step(batch, number) and None, built


def unsplit_step(loaded: LoadedProfile) -> Step:
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
