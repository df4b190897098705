"""Training with stock peft and stock torch, and the same through real messages.

What is ours in the reference: where LoRA starts, and where in the blocks dropout begins its draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from engine_parts import (
    LORA,
    LR,
    SEED,
    CountingTransport,
    IdTokenizer,
    engine_of,
    logits_of,
    random_task,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from amaqctl.engine.engine import Engine
from amaqctl.engine.evaluator import Evaluator
from amaqctl.model.cut import Cuts
from amaqctl.model.dropout import SeededDropout
from amaqctl.model.lora import initialise_lora, lora_parameters
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.slots import layer_list
from amaqctl.model.source import ModelSource
from amaqctl.model.wide_product import multiply_wide
from amaqctl.tasks.batch import Batch, collate, split_batch
from amaqctl.tasks.task import IGNORE_INDEX

NUM_STEPS = 5
BATCH_SIZE = 4
PAD = 0
TASK = random_task()


@dataclass(frozen=True)
class Run:
    """One way to train, split or not."""

    cuts: Cuts
    micro_batches: int = 1
    checkpointed: bool = False
    dtype: torch.dtype = torch.float32
    dropout: float = 0.0
    max_grad_norm: float | None = None

    @property
    def lora(self) -> LoraSettings:
        """Settings of the adapter."""
        return replace(LORA, dropout=self.dropout)


@dataclass
class Result:
    """What training leaves."""

    losses: list[float]
    norms: list[float]
    adapters: dict[str, Tensor]
    logits: list[Tensor]
    generated: list[str]


def batches() -> list[Batch]:
    """A padded batch for each step: rows of 12, 9 and 6 tokens, padded to 16."""
    examples = TASK.train
    starts = (0, 4, 8, 2, 6)
    found = [collate(examples[s : s + BATCH_SIZE], PAD, multiple_of=16) for s in starts]
    assert all(len(set(batch.lengths)) > 1 for batch in found)
    return found


def real_logits(logits_BTV: Tensor, batch: Batch) -> Tensor:
    """Logits at tokens only: what stands at padding is nobody's business."""
    return logits_BTV[batch.attention_mask_BT.bool()]


def reference_loss(logits_BTV: Tensor, labels_BT: Tensor, num_loss_tokens: int) -> Tensor:
    labels_BT = functional.pad(labels_BT, (0, 1), value=IGNORE_INDEX)[:, 1:]
    total = functional.cross_entropy(
        logits_BTV.float().flatten(0, 1), labels_BT.flatten(), reduction="sum"
    )
    return total / num_loss_tokens


def whole_model(source: ModelSource, run: Run) -> Any:
    with no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(source.folder_or_hub_id, dtype=run.dtype)
    multiply_wide(model, run.dtype)  # as stages do, where torch's own products are other bits
    config = LoraConfig(
        r=LORA.r,
        lora_alpha=LORA.alpha,
        lora_dropout=run.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    model = get_peft_model(model, config)
    initialise_lora(adapters_of(model), SEED)
    if run.checkpointed:
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    return model


def adapters_of(model: Any) -> dict[str, torch.nn.Parameter]:
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def train_whole(source: ModelSource, run: Run) -> tuple[Result, int]:
    """The reference, and an end token that it happens to generate."""
    model = whole_model(source, run)
    optimizer = torch.optim.AdamW(adapters_of(model).values(), lr=LR)
    base = model.get_base_model()
    dropout = SeededDropout(dict(enumerate(layer_list(base, base.config)[1])), SEED)
    losses, norms = [], []
    for step, batch in enumerate(batches()):
        model.train()
        loss = 0.0
        for index, part in enumerate(split_batch(batch, run.micro_batches)):
            with dropout.drawing(step, index):
                out = model(
                    input_ids=part.input_ids_BT,
                    attention_mask=part.attention_mask_BT,
                    use_cache=False,
                )
                part_loss = reference_loss(out.logits, part.labels_BT, batch.num_loss_tokens)
                part_loss.backward()
            loss += float(part_loss.detach())
        limit = math.inf if run.max_grad_norm is None else run.max_grad_norm
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    model.eval()
    logits = []
    for batch in batches()[:2]:
        with torch.no_grad():
            out = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
        logits.append(real_logits(out.logits, batch))
    end_id, generated = generate_whole(model)
    adapters = {name: value.detach() for name, value in adapters_of(model).items()}
    return Result(losses, norms, adapters, logits, generated), end_id


def generate_whole(model: Any) -> tuple[int, list[str]]:
    prompts = [list(e.input_ids[: e.prompt_length]) for e in TASK.validation]
    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    arguments = {
        "input_ids": ids_BT,
        "attention_mask": mask_BT,
        "do_sample": False,
        "max_new_tokens": TASK.max_new_tokens,
        "pad_token_id": PAD,
    }
    free = model.generate(**arguments)[:, longest:]
    end_id = int(free[0, 2])  # so that one row at least stops before the others
    rows = model.generate(**arguments, eos_token_id=end_id)[:, longest:].tolist()
    return end_id, [" ".join(map(str, row)) for row in rows]


def train_split(source: ModelSource, run: Run, end_id: int) -> tuple[Result, Engine]:
    engine = engine_of(
        source,
        run.cuts,
        transport=CountingTransport(),
        dtype=run.dtype,
        micro_batches=run.micro_batches,
        checkpointed=run.checkpointed,
        lora=run.lora,
        max_grad_norm=run.max_grad_norm,
    )
    evaluator = Evaluator(
        engine, TASK, IdTokenizer(PAD, end_id), PAD, batch_size=BATCH_SIZE, max_examples=None
    )
    losses, norms = [], []
    for step, batch in enumerate(batches()):
        result = engine.train_step(batch, step)
        losses.append(result.loss)
        norms.append(result.grad_norm)
        if step < 2:  # an evaluation between two steps must leave no trace in what follows
            evaluator.evaluate(step, "clean" if step else "quantized")
    logits = [
        real_logits(logits_of(engine, b.input_ids_BT, step=NUM_STEPS, lengths=b.lengths), b)
        for b in batches()[:2]
    ]
    adapters: dict[str, Tensor] = {}
    for stage in engine.stages.values():
        adapters |= {n: p.detach() for n, p in lora_parameters(stage.model).items()}
    generated = evaluator.generate(TASK.validation, NUM_STEPS)
    return Result(losses, norms, adapters, logits, generated), engine


def assert_same(split: Result, whole: Result) -> None:
    """Every loss and norm, every byte of the adapters, logits at tokens, and what is generated."""
    assert split.losses == whole.losses
    assert split.norms == whole.norms
    assert sorted(split.adapters) == sorted(whole.adapters)
    for name, theirs in whole.adapters.items():
        assert torch.equal(split.adapters[name], theirs), name
    for ours, theirs in zip(split.logits, whole.logits, strict=True):
        assert torch.equal(ours, theirs)
    assert split.generated == whole.generated
