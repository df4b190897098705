"""THE test: training through real messages is unsplit training with stock peft, bit for bit.

Quantizer ``none`` in the path, so that nothing but the split itself could make a difference:
every step loss, the adapters after five AdamW steps, evaluation logits and greedy generation.
"""

from __future__ import annotations

import pytest
import torch
from model_families import CONFIGS, save_random_model
from whole_training import NUM_STEPS, Run, assert_same, train_split, train_whole

from amaqctl.model.source import ModelSource

# stock peft, in the reference only, still asks transformers by a deprecated name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


ONE_CUT, U_SHAPE = (2,), (1, 3)

# Every family meets two kinds of cut, both micro-batchings and both ways to keep activations.
PLAIN = [Run(ONE_CUT), Run(U_SHAPE, 2, True)]
DEEP = [Run("all", 2), Run(ONE_CUT, 1, True)]
SHAPED = [Run(U_SHAPE), Run("all", 2, True)]
RUNS = [
    (name, run) for index, name in enumerate(CONFIGS) for run in (PLAIN, DEEP, SHAPED)[index % 3]
] + [
    ("llama", Run("all", 2, True, torch.bfloat16)),
    ("gpt2", Run(U_SHAPE, 1, False, torch.bfloat16)),
]


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
    assert_same(split, whole)
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
