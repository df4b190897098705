"""THE test: training through real messages is unsplit training with stock peft, bit for bit.

Quantizer ``none`` in the path, so that nothing but the split itself could make a difference:
every step loss, the adapters after five AdamW steps, evaluation logits and greedy generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from engine_parts import LORA, LR, SEED, CountingTransport, IdTokenizer, engine_of, random_task
from model_families import CONFIGS, save_random_model
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from amaqctl.engine.engine import Engine
from amaqctl.engine.evaluator import Evaluator
from amaqctl.model.cut import Cuts
from amaqctl.model.lora import initialise_lora, lora_parameters
from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.source import ModelSource
from amaqctl.tasks.batch import Batch, collate, split_batch
from amaqctl.tasks.task import IGNORE_INDEX

# stock peft, in the reference only, still asks transformers by a deprecated name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

NUM_STEPS = 5
BATCH_SIZE = 4
PAD = 0
TASK = random_task()
CUTS: dict[str, Cuts] = {"one-cut": [2], "u-shape": [1, 3], "all": "all"}


@dataclass(frozen=True)
class Run:
    """One way to train, split or not."""

    cuts: str
    micro_batches: int = 1
    checkpointed: bool = False
    dtype: torch.dtype = torch.float32


# Every family meets two kinds of cut, both micro-batchings and both ways to keep activations.
PLAIN = [Run("one-cut"), Run("u-shape", 2, True)]
DEEP = [Run("all", 2), Run("one-cut", 1, True)]
SHAPED = [Run("u-shape"), Run("all", 2, True)]
RUNS = [
    (name, run) for index, name in enumerate(CONFIGS) for run in (PLAIN, DEEP, SHAPED)[index % 3]
] + [
    ("llama", Run("all", 2, True, torch.bfloat16)),
    ("gpt2", Run("u-shape", 1, False, torch.bfloat16)),
]


@dataclass
class Result:
    """What training leaves."""

    losses: list[float]
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
    config = LoraConfig(
        r=LORA.r,
        lora_alpha=LORA.alpha,
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
    losses = []
    for batch in batches():
        model.train()
        loss = 0.0
        for part in split_batch(batch, run.micro_batches):
            out = model(
                input_ids=part.input_ids_BT,
                attention_mask=part.attention_mask_BT,
                use_cache=False,
            )
            part_loss = reference_loss(out.logits, part.labels_BT, batch.num_loss_tokens)
            part_loss.backward()
            loss += float(part_loss.detach())
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
    return Result(losses, adapters, logits, generated), end_id


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
        CUTS[run.cuts],
        transport=CountingTransport(),
        dtype=run.dtype,
        micro_batches=run.micro_batches,
        checkpointed=run.checkpointed,
    )
    evaluator = Evaluator(
        engine, TASK, IdTokenizer(PAD, end_id), PAD, batch_size=BATCH_SIZE, max_examples=None
    )
    losses = []
    for step, batch in enumerate(batches()):
        losses.append(engine.train_step(batch, step).loss)
        if step < 2:  # an evaluation between two steps must leave no trace in what follows
            evaluator.evaluate(step, "clean" if step else "quantized")
    logits = [
        real_logits(engine.logits(b.input_ids_BT, step=NUM_STEPS, lengths=b.lengths), b)
        for b in batches()[:2]
    ]
    adapters: dict[str, Tensor] = {}
    for stage in engine.stages.values():
        adapters |= {n: p.detach() for n, p in lora_parameters(stage.model).items()}
    generated = evaluator.generate(TASK.validation, NUM_STEPS)
    return Result(losses, adapters, logits, generated), engine


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_random_model(config, folder / name) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("family, run", RUNS, ids=[f"{n}-{r.cuts}" for n, r in RUNS])
def test_split_training_is_whole_training(
    sources: dict[str, ModelSource], family: str, run: Run
) -> None:
    whole, end_id = train_whole(sources[family], run)
    split, engine = train_split(sources[family], run, end_id)
    assert split.losses == whole.losses
    assert sorted(split.adapters) == sorted(whole.adapters)
    for name, theirs in whole.adapters.items():
        assert torch.equal(split.adapters[name], theirs), name
    for ours, theirs in zip(split.logits, whole.logits, strict=True):
        assert torch.equal(ours, theirs)
    assert split.generated == whole.generated
    assert str(end_id) in whole.generated[0].split()[:3]
    # The equality would be empty if nothing had trained, or nothing had been sent.
    assert len(set(whole.losses)) == NUM_STEPS
    assert all(bool(v.any()) for n, v in whole.adapters.items() if "lora_B" in n)
    num_links = engine.num_stages - 1
    messages = [channel.messages for _, channel in engine.traffic]
    assert messages == [NUM_STEPS * run.micro_batches] * 2 * num_links


def test_every_family_meets_two_cuts_and_both_micro_batchings() -> None:
    for name in CONFIGS:
        runs = [run for family, run in RUNS if family == name]
        assert len({run.cuts for run in runs}) >= 2
        assert {run.micro_batches for run in runs} == {1, 2}
        assert {run.checkpointed for run in runs} == {False, True}
