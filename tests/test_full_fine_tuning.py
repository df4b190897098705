"""`lora: null`: the weights themselves are trained, as the unsplit model's, wherever it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from party_processes import outcome
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from amaqctl import build
from amaqctl.cli.main import app
from amaqctl.engine.stage import token_loss
from amaqctl.errors import InputError, ProfileError
from amaqctl.model.cut import StageRange
from amaqctl.model.loading import load_stage
from amaqctl.model.lora_settings import TRAINED_WEIGHTS
from amaqctl.model.trained import trained_parameters
from amaqctl.model.whole_weights import load_weights_into, write_weights
from amaqctl.profile import load_profile
from amaqctl.tasks.batch import batch_at, split_batch

PROFILE = """\
amaqctl: 1
model: {id: tiny, dtype: float32}
split: {cuts: [3]}
lora: null
quantizers: {activation: {name: none}, gradient: {name: none}}
task: {name: text, options: {train: d.txt, validation: 0.2}}
train: {max_steps: 6, batch_size: 4, max_length: 32, max_grad_norm: 0.5}
optimizer: {lr: 0.003, weight_decay: 0.1}
eval: {every: 3, max_examples: 4}
checkpoint: {every: 3}
"""
NUM_STEPS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    (folder / "p.yaml").write_text(PROFILE)
    lines = (f"Line {n} of {n % 7} things, and what comes of {n * n}.\n" for n in range(300))
    (folder / "d.txt").write_text("".join(lines))
    return folder


def built(place: Path, *overrides: str) -> build.Built:
    data = f"task.options.train={place / 'd.txt'}"
    return build.build(load_profile(str(place / "p.yaml"), [data, *overrides]))


def unsplit(made: build.Built, num_micro_batches: int) -> tuple[list[float], list[float], Any]:
    """Losses, norms and weights of the whole model in stock torch."""
    num_blocks = len(made.engine.stages[0].model.blocks)
    stage = load_stage(made.source, StageRange(0, num_blocks, num_blocks), torch.float32)
    model = stage.model
    tied = {"lm_head.weight", "model.embed_tokens.weight"}
    names = [name for name, _ in model.named_parameters() if name not in tied]
    weights = [dict(model.named_parameters())[name].requires_grad_() for name in names]
    optimizer = torch.optim.AdamW(weights, lr=0.003, weight_decay=0.1)
    losses, norms = [], []
    model.train()
    for step in range(NUM_STEPS):
        batch = batch_at(made.task.train, step, 4, 17, made.pad_token_id)
        loss = 0.0
        for part in split_batch(batch, num_micro_batches):
            logits = model(part.input_ids_BT, attention_mask=part.attention_mask_BT).logits
            share = token_loss(logits, part.labels_BT) / batch.num_loss_tokens
            share.backward()
            loss += float(share.detach())
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights, 0.5)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses, norms, dict(zip(names, weights, strict=True))


@pytest.mark.parametrize("cuts", ["[1]", "[3]", "[2, 6]", "all"])
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_split_is_unsplit(place: Path, cuts: str, num_micro_batches: int) -> None:
    made = built(place, f"split.cuts={cuts}", f"train.micro_batches={num_micro_batches}")
    losses, norms, weights = unsplit(made, num_micro_batches)
    found = [
        made.engine.train_step(batch_at(made.task.train, s, 4, 17, made.pad_token_id), s)
        for s in range(NUM_STEPS)
    ]
    assert [result.loss for result in found] == losses
    assert [result.grad_norm for result in found] == norms
    assert min(norms) > 0.5
    trained = {
        name: parameter
        for stage in made.engine.stages.values()
        for name, parameter in trained_parameters(stage.model).items()
    }
    assert trained.keys() == weights.keys()
    assert all(torch.equal(trained[name], weights[name]) for name in weights)
    before = built(place).engine.stages[0].model.model.state_dict()
    assert not torch.equal(
        trained["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"]
    )


def test_what_is_tied_stays_and_is_told(place: Path) -> None:
    made = built(place)
    assert any("tied" in text for text in made.warnings), made.warnings
    for stage in made.engine.stages.values():
        held = dict(stage.model.model.named_parameters())
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            assert name not in held or not held[name].requires_grad
    assert not any("tied" in text for text in built(place, "lora={}").warnings)


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_stopped_run_goes_on_to_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    quantized = ["--set", "quantizers={activation: {name: amaq}, gradient: {name: group}}"]
    for asked in (
        ["train", "p.yaml", *quantized, "--out", "straight"],
        ["train", "p.yaml", *quantized, "--max-steps", "3", "--out", "stopped"],
        ["train", "--resume", "stopped", "--max-steps", "6"],
        ["eval", "straight", "--boundary", "both"],
        ["inspect-bits", "straight"],
    ):
        done = run(*asked)
        assert done.exit_code == 0, done.output
    straight, stopped = outcome(place / "straight"), outcome(place / "stopped")
    for what in ("adapter", "states", "widths"):
        assert straight[what] == stopped[what]
    assert len(straight["adapter"]) > 30
    assert not (place / "straight" / "adapter").exists()


def test_the_export_is_the_whole_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert run("train", "p.yaml", "--max-steps", "3", "--out", "whole").exit_code == 0
    for number, more in enumerate(([], ["--merge"])):
        done = run("export", "whole", "--to", f"model{number}", *more)
        assert done.exit_code == 0, done.output
        page = (place / f"model{number}" / "README.md").read_text()
        assert page.startswith("# Trained model\n")
        assert "adapter" not in page
        saved = load_file(place / f"model{number}" / "model.safetensors")
        trained = load_file(place / "whole" / "weights" / TRAINED_WEIGHTS)
        assert all(torch.equal(saved[name], weight) for name, weight in trained.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_are_too_few(place: Path, dtype: str) -> None:
    with pytest.raises(ProfileError, match="weights that are trained themselves need float32"):
        built(place, f"model.dtype={dtype}")


def test_weights_that_do_not_fit_change_nothing(place: Path, tmp_path: Path) -> None:
    made = built(place)
    models = [stage.model for stage in made.engine.stages.values()]
    write_weights(models, tmp_path)
    good = load_file(tmp_path / TRAINED_WEIGHTS)
    name = "model.norm.weight"
    before = {n: p.clone() for m in models for n, p in trained_parameters(m).items()}
    for changed, said in (
        ({**good, name: good[name] * torch.nan}, "not finite"),
        ({**good, name: good[name][:3].clone()}, "has shape"),
        ({**good, "other": good[name].clone()}, "it also has other"),
        ({n: w * 2 for n, w in good.items() if n != name}, "it lacks model.norm.weight"),
    ):
        save_file(changed, tmp_path / TRAINED_WEIGHTS)
        with pytest.raises(InputError, match=said):
            load_weights_into(models, tmp_path)
    assert all(torch.equal(p, before[n]) for m in models for n, p in trained_parameters(m).items())
