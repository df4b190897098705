"""Whole runs of the tiny model, from a profile to a run folder and back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_parts import CountingTransport, logits_of
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from amaqctl.build import Built, build
from amaqctl.engine import checkpoint as saved
from amaqctl.engine import checkpoint_folder
from amaqctl.engine.run_documents import TrainerDocument
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import DivergedError, InputError
from amaqctl.model.lora import lora_parameters
from amaqctl.profile import load_profile
from amaqctl.runs import new_run
from amaqctl.tasks.batch import batch_at
from amaqctl.transports.transport import Address

TINY = [
    "model.id=tiny",
    "model.dtype=float32",
    "train.max_length=64",
    "train.max_steps=6",
    "eval.every=3",
    "eval.max_examples=4",
    "checkpoint.every=3",
]
QUANTIZERS = {
    "none": "{name: none}",
    "fixed": "{name: fixed, options: {bits: 4}}",
    "group": "{name: group, options: {bits: 4}}",
    "aq-sgd": "{name: aq-sgd, options: {bits: 4}}",
    "amaq": "{name: amaq, options: {target_bits: 3}}",
}

TRAINER_STATE: dict[str, Any] = {
    "evaluations": {"0": {"loss": 4.0}},
    "traffic": {},
    "evaluation_traffic": {},
    "last_traffic": {},
    "identity": {"run": "r"},
}


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.saves: list[tuple[int, Path]] = []
        self.first_step = -1

    def on_start(self, first_step: int, max_steps: int) -> None:
        self.first_step = first_step

    def on_step(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def on_evaluation(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def on_save(self, step: int, folder: Path) -> None:
        self.saves.append((step, folder))


def built(*overrides: str) -> Built:
    return build(load_profile("quickstart", [*TINY, *overrides]))


def train(out: Path, *overrides: str) -> tuple[Built, RunFolder, dict[str, Any]]:
    made = built(*overrides)
    run = new_run(made, out, None)
    return made, run, made.trainer(run, Silent()).train()


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what a clock, or the memory of the process, put into them."""
    clocks = {"time", "seconds", "peak_memory_mib"}
    return [{k: v for k, v in record.items() if k not in clocks} for record in records]


def of_kind(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [record for record in run.metrics() if record["kind"] == kind]


def tokens_of(made: Built) -> tuple[torch.Tensor, tuple[int, ...]]:
    pad = made.tokenizer.pad_token_id
    batch = batch_at(made.task.validation, 0, 4, 1, pad)
    return batch.input_ids_BT, batch.lengths


def clean_logits(made: Built) -> torch.Tensor:
    ids_BT, lengths = tokens_of(made)
    with made.engine.boundary("clean"):
        return logits_of(made.engine, ids_BT, step=6, lengths=lengths)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, RunFolder, dict[str, Any]]:
    return train(tmp_path_factory.mktemp("runs") / "done")


def test_what_a_run_leaves(done: tuple[Built, RunFolder, dict[str, Any]]) -> None:
    _, run, result = done
    files = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    checkpoint = {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "quantizer.safetensors",
        "trainer.safetensors",
        "trainer.json",
        "COMPLETE",
    }
    expected = {
        *("run.json", "profile.yaml", "environment.json", "metrics.jsonl"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        *("quantizer/quantizer.safetensors", "quantizer/options.json"),
        *("bits/step-000003.npz", "bits/step-000006.npz", "bits/final.npz"),
        *(f"checkpoints/step-{n:06d}/{name}" for n in (3, 6) for name in checkpoint),
    }
    assert files - {"log.txt"} == expected
    document = json.loads((run.path / "run.json").read_text())
    assert (document["schema"], document["status"]) == ("amaqctl.run/1", "done")
    assert (document["exit_code"], document["seed"]) == (0, 17)
    assert document["result"] == result
    assert load_profile(run.path / "profile.yaml").profile == done[0].loaded.profile


def test_metrics(done: tuple[Built, RunFolder, dict[str, Any]]) -> None:
    _, run, result = done
    kinds = [(record["kind"], record["step"]) for record in run.metrics()]
    assert kinds == [
        ("eval", 0),
        *(("train", 1), ("train", 2), ("train", 3), ("eval", 3), ("save", 3)),
        *(("train", 4), ("train", 5), ("train", 6), ("eval", 6), ("save", 6)),
        ("end", 6),
    ]
    wanted = {
        *("kind", "step", "time", "loss", "lr", "grad_norm", "seconds", "tokens"),
        *("wire/total_bytes", "wire/0/activation_bytes", "wire/0/gradient_bytes"),
        *("wire/0/activation_bits_a_value", "wire/0/gradient_bits_a_value"),
        *(f"bits/0/{r}_{s}" for r in ("activation", "gradient") for s in ("mean", "min", "max")),
    }
    for record in of_kind(run, "train"):
        assert set(record) == wanted
        both = record["wire/0/activation_bytes"] + record["wire/0/gradient_bytes"]
        assert record["wire/total_bytes"] == both
        assert record["bits/0/gradient_mean"] == 4
        assert record["bits/0/activation_mean"] == 4  # at the budget from the first step
    first, *_, last = of_kind(run, "eval")
    assert (result["loss_before"], result["loss_after"]) == (first["loss"], last["loss"])
    assert last["perplexity"] == pytest.approx(float(np.exp(last["loss"])))
    assert {"boundary", "loss", "perplexity"} < set(last)


def test_bytes_in_the_metrics_are_bytes_that_were_carried(tmp_path: Path) -> None:
    made = built(
        "train.micro_batches=2", "split.cuts=[2,5]", "quantizers.activation={name: aq-sgd}"
    )
    transport = CountingTransport()
    for stage in made.engine.stages.values():
        if stage.outgoing is not None:
            stage.outgoing.activations._transport = transport
            stage.outgoing.gradients._transport = transport
    run = new_run(made, tmp_path / "run", None)
    result = made.trainer(run, Silent()).train()
    metrics = of_kind(run, "train")
    counted = sum(len(data) for _, data in transport.sent)
    assert counted == result["wire_bytes"] + result["evaluation_bytes"]
    assert result["wire_bytes"] == sum(r["wire/total_bytes"] for r in metrics)
    assert len(transport.sent) == 6 * 2 * 4 + 3 * 2  # and an evaluation is one batch, thrice
    for link in (0, 1):
        carried = transport.bytes_by_address()[Address(link, "gradient")]
        assert sum(r[f"wire/{link}/gradient_bytes"] for r in metrics) == carried
    assert result["gradient_bits_over_run"] == pytest.approx(
        8
        * sum(r[f"wire/{n}/gradient_bytes"] for r in metrics for n in (0, 1))
        / (result["wire_values"] / 2)
    )


def test_saved_widths(done: tuple[Built, RunFolder, dict[str, Any]]) -> None:
    made, run, _ = done
    with np.load(run.path / "bits" / "final.npz") as arrays:
        found = {name: arrays[name] for name in arrays.files}
    measured = ["link0.activation.gradient_energy_K", "link0.activation.range_K"]
    assert sorted(found) == [
        *("link0.activation.channel", *measured),
        *("link0.gradient.tensor", "report"),
    ]
    assert found["link0.gradient.tensor"].tolist() == [4] * 32
    link = made.engine.stages[0].outgoing
    assert link is not None
    assert link.activations.last_allocation is not None
    widths = link.activations.last_allocation.widths_C.tolist()
    assert found["link0.activation.channel"].tolist() == widths
    assert sum(widths) == 4 * 32


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of stock peft, in the reference only
def test_the_adapter_is_stock_peft(done: tuple[Built, RunFolder, dict[str, Any]]) -> None:
    made, run, _ = done
    whole = AutoModelForCausalLM.from_pretrained(made.source.folder_or_hub_id)
    model = PeftModel.from_pretrained(whole, run.path / "adapter").eval()
    ids_BT, lengths = tokens_of(made)
    mask_BT = (torch.arange(ids_BT.shape[1]) < torch.tensor(lengths).unsqueeze(1)).long()
    with torch.no_grad():
        expected = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    assert torch.equal(clean_logits(made)[mask_BT.bool()], expected[mask_BT.bool()])


def test_a_checkpoint_brings_everything_back(
    done: tuple[Built, RunFolder, dict[str, Any]],
) -> None:
    made, run, _ = done
    folder = run.path / "checkpoints" / "step-000006"
    fresh = built()
    assert not torch.equal(clean_logits(fresh), clean_logits(made))
    saved.load_weights(folder, fresh.contents)
    assert torch.equal(clean_logits(fresh), clean_logits(made))
    ours, theirs = saved.quantizer_state(fresh.contents), saved.quantizer_state(made.contents)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    final = load_file(run.path / "quantizer" / "quantizer.safetensors")
    assert final.keys() == theirs.keys()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_going_on_from_a_checkpoint_is_going_on(tmp_path: Path, name: str) -> None:
    """Weights, gates, memories and optimizer: four more steps to the very same losses.

    Sixteen examples make four batches: samples come again, as the memories of aq-sgd need.
    """
    overrides = [f"quantizers.activation={QUANTIZERS[name]}", *few_examples(tmp_path)]
    straight, early = built(*overrides), built(*overrides)
    for step in range(6):
        step_of(straight, step)
    for step in range(6):
        step_of(early, step)
    path = saved.save_checkpoint(tmp_path / "checkpoints", 6, early.contents, TRAINER_STATE)
    resumed = built(*overrides)
    saved.load_weights(path, resumed.contents)
    document = saved.load_training_state(path, resumed.engine.stages, TrainerDocument)
    assert document.step == 6
    for step in range(6, 10):
        ours, theirs = step_of(resumed, step), step_of(straight, step)
        assert ours.loss == theirs.loss
        assert ours.grad_norm == theirs.grad_norm
        assert ours.traffic.total_bytes == theirs.traffic.total_bytes
    a, b = saved.quantizer_state(resumed.contents), saved.quantizer_state(straight.contents)
    assert all(torch.equal(a[key], b[key]) for key in b)
    for index, stage in straight.engine.stages.items():
        mine = lora_parameters(resumed.engine.stages[index].model)
        assert all(torch.equal(mine[n], p) for n, p in lora_parameters(stage.model).items())


def test_a_resumed_run_measures_what_a_straight_one_does(
    done: tuple[Built, RunFolder, dict[str, Any]], tmp_path: Path
) -> None:
    _, straight, result = done
    again = built()
    run = new_run(again, tmp_path / "run", None)
    reporter = Silent()
    resumed = again.trainer(run, reporter).train(straight.path / "checkpoints" / "step-000003")
    assert reporter.first_step == 3
    first, *rest = run.metrics()
    assert (first["kind"], first["step"]) == ("resume", 3)
    later = straight.metrics()[-len(rest) :]
    assert timeless(rest) == timeless(later)
    assert timeless([resumed]) == timeless([result])
    for name in ("adapter/adapter_model.safetensors", "quantizer/quantizer.safetensors"):
        assert (run.path / name).read_bytes() == (straight.path / name).read_bytes()


def few_examples(folder: Path) -> list[str]:
    rows = folder / "rows.jsonl"
    lines = [
        json.dumps(
            {"question": f"What is {n} and {n + 1}?", "answer": str(2 * n + 1) * (1 + n % 3)}
        )
        for n in range(16)
    ]
    rows.write_text("\n".join(lines) + "\n")
    options = f"{{train: {rows}, validation: {rows}, prompt: question, completion: answer}}"
    return [f"task={{name: prompt-completion, options: {options}}}"]


def step_of(made: Built, step: int) -> Any:
    train_section = made.loaded.profile.train
    batch = batch_at(
        made.task.train,
        step,
        train_section.batch_size,
        train_section.seed,
        made.tokenizer.pad_token_id,
    )
    return made.engine.train_step(batch, step)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_trains_and_one_seed_is_one_run(tmp_path: Path, name: str) -> None:
    overrides = [f"quantizers.activation={QUANTIZERS[name]}", *few_examples(tmp_path)]
    first, again, other = (
        train(tmp_path / str(n), *overrides, f"train.seed={seed}")[1].metrics()
        for n, seed in enumerate((17, 17, 18))
    )
    assert all(np.isfinite(r["loss"]) for r in first if r["kind"] == "train")
    assert timeless(first) == timeless(again)
    losses = [[r["loss"] for r in run if r["kind"] == "train"] for run in (first, other)]
    assert len(losses[0]) == 6
    assert all(a != b for a, b in zip(*losses, strict=True))


def test_dropout_is_a_function_of_the_seed_and_the_step() -> None:
    overrides = ("lora.dropout=0.4", "train.micro_batches=2")
    one, two, other = built(*overrides), built(*overrides), built(*overrides, "train.seed=3")
    torch.manual_seed(1)
    first = step_of(one, 0).loss
    torch.rand(99)  # what happened to the process's own generator has no say
    assert step_of(two, 0).loss == first
    assert step_of(other, 0).loss != first
    assert step_of(two, 1).grad_norm == step_of(one, 1).grad_norm
    state = torch.random.get_rng_state()
    step_of(one, 2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropout_of_the_model_itself_is_seeded_too(tmp_path: Path) -> None:
    """GPT-2 and OPT drop activations of their own, by default, in training."""
    made = built()
    made.tokenizer.save_pretrained(tmp_path)
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=len(made.tokenizer), n_embd=16, n_layer=3, n_head=2, n_positions=64,
        resid_pdrop=0.3, bos_token_id=None, eos_token_id=256, pad_token_id=257,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    overrides = (f"model.id={tmp_path}", "split.cuts=[1]", "lora.target_modules=all-linear")
    losses = []
    for _ in range(2):
        gpt2 = built(*overrides)
        torch.rand(7)
        losses.append([step_of(gpt2, step).loss for step in range(2)])
    assert losses[0] == losses[1]


def test_amaq_learns(tmp_path: Path) -> None:
    _, run, result = train(
        tmp_path / "run", "train.max_steps=60", "optimizer.lr=1e-2", "eval.every=60",
        "checkpoint.every=60",
    )  # fmt: skip
    losses = [record["loss"] for record in of_kind(run, "train")]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
    assert result["loss_after"] < result["loss_before"] - 0.5


def test_the_newest_and_the_best_checkpoint_stay(tmp_path: Path) -> None:
    made = built(
        "train.max_steps=5", "eval.every=1", "checkpoint.every=1", "checkpoint.keep_last=2"
    )
    losses = iter([9.0, 5.0, 2.0, 4.0, 3.5, 3.0])
    made.evaluator.evaluate = lambda step, boundary: {"loss": next(losses)}  # type: ignore[method-assign]
    run = new_run(made, tmp_path / "run", None)
    reporter = Silent()
    made.trainer(run, reporter).train()
    assert [step for step, _ in reporter.saves] == [1, 2, 3, 4, 5]
    kept = checkpoint_folder.good_checkpoints(run.path / "checkpoints")
    assert [path.name for path in kept] == ["step-000002", "step-000004", "step-000005"]
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == [p.name for p in kept]


def copy_of(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to / folder.name))


@pytest.fixture
def checkpoint(done: tuple[Built, RunFolder, dict[str, Any]], tmp_path: Path) -> Path:
    return copy_of(done[1].path / "checkpoints" / "step-000006", tmp_path)


FILES = [
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "quantizer.safetensors",
    "trainer.safetensors",
    "trainer.json",
]


def test_a_good_checkpoint_has_no_fault(checkpoint: Path) -> None:
    assert checkpoint_folder.fault_of(checkpoint) is None
    assert checkpoint_folder.good_checkpoints(checkpoint.parent) == [checkpoint]
    manifest = json.loads((checkpoint / "COMPLETE").read_text())
    assert sorted(manifest) == sorted(FILES)
    sizes = {name: entry["bytes"] for name, entry in manifest.items()}
    assert sizes == {name: (checkpoint / name).stat().st_size for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_faults_of_a_checkpoint(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (bytes(flipped), good[:-1], good + b"\n", b""):
        path.write_bytes(bad)
        assert checkpoint_folder.fault_of(checkpoint) == f"{name} is not what was written"
        assert checkpoint_folder.good_checkpoints(checkpoint.parent) == []
    path.unlink()
    assert checkpoint_folder.fault_of(checkpoint) == f"{path.name} is missing"
    path.write_bytes(good)
    assert checkpoint_folder.fault_of(checkpoint) is None


def test_a_checkpoint_without_a_readable_manifest(checkpoint: Path) -> None:
    manifest = checkpoint / "COMPLETE"
    text = manifest.read_text()
    for bad in (text[:-5], "", "[]", "{}", '{"trainer.json": 3}'):
        manifest.write_text(bad)
        assert str(checkpoint_folder.fault_of(checkpoint)).startswith("COMPLETE ")
    manifest.unlink()
    assert checkpoint_folder.fault_of(checkpoint) == "COMPLETE is missing"


def test_a_folder_of_another_name_is_no_checkpoint(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.with_name("step-000006-copy"))
    assert checkpoint_folder.good_checkpoints(checkpoint.parent) == []


def test_checkpoints_come_in_order_of_their_steps(checkpoint: Path) -> None:
    late = checkpoint.with_name("step-1000000")
    copy_of(checkpoint, checkpoint.parent / "other").rename(late)
    early = checkpoint.rename(checkpoint.with_name("step-999999"))
    assert checkpoint_folder.good_checkpoints(checkpoint.parent) == [early, late]


def test_states_that_do_not_fit_are_input_errors(checkpoint: Path) -> None:
    other = built("lora.r=4")
    with pytest.raises(InputError, match="shape"):
        saved.load_weights(checkpoint, other.contents)
    other = built("quantizers.activation={name: aq-sgd}")
    with pytest.raises(InputError, match=r"link0.activation.sender"):
        saved.load_weights(checkpoint, other.contents)
    other = built("lora.r=4")
    with pytest.raises(InputError, match="optimizer"):
        saved.load_training_state(checkpoint, other.engine.stages, TrainerDocument)
    (checkpoint / "trainer.json").write_text("{}")
    with pytest.raises(InputError, match="Field required"):
        saved.load_training_state(checkpoint, other.engine.stages, TrainerDocument)


@contextmanager
def killed_at(number: int, folder: Path) -> Iterator[int]:
    """A real training process that gets a signal while it trains; gives its exit code."""
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
from amaqctl.errors import Interrupted
from test_engine_training import Silent, built
from amaqctl.runs import new_run
made = built("train.max_steps=100000", "eval.every=100000", "checkpoint.every=100000")
class Loud(Silent):
    def on_step(self, record):
        print(record["step"], flush=True)
try:
    made.trainer(new_run(made, Path({str(folder)!r}), None), Loud()).train()
except Interrupted as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "3":
                os.kill(process.pid, number)
                break
        rest, errors = process.communicate(timeout=60)
        assert "everything is saved" in rest, errors
        yield process.returncode


def test_a_signal_saves_first(tmp_path: Path) -> None:
    with killed_at(signal.SIGTERM, tmp_path / "run") as code:
        assert code == 143
    run = RunFolder(tmp_path / "run")
    assert (run.run["status"], run.run["exit_code"]) == ("interrupted", 143)
    (path,) = checkpoint_folder.good_checkpoints(run.path / "checkpoints")
    step = int(path.name.removeprefix("step-"))
    assert step >= 3
    assert [r["step"] for r in of_kind(run, "train")] == list(range(1, step + 1))
    assert run.metrics()[-1]["kind"] == "save"
    resumed = built()
    saved.load_weights(path, resumed.contents)
    assert saved.load_training_state(path, resumed.engine.stages, TrainerDocument).step == step


def test_an_occupied_folder_is_refused(tmp_path: Path) -> None:
    made = built()
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError) as caught:
        new_run(made, tmp_path, None)
    assert caught.value.error_id == "INPUT-RUN-EXISTS"
    assert caught.value.exit_code == 4
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError):
        new_run(made, tmp_path / "mine.txt", None)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert new_run(made, tmp_path / "empty", None).path == tmp_path / "empty"


def test_a_run_that_diverges(tmp_path: Path) -> None:
    made = built("optimizer.lr=1e6", "model.dtype=float16", "checkpoint.every=1", "eval.every=100")
    run = new_run(made, tmp_path / "run", None)
    reporter = Silent()
    with pytest.raises(DivergedError) as caught:
        made.trainer(run, reporter).train()
    assert caught.value.exit_code == 6
    assert caught.value.where
    assert "step 1" in caught.value.where
    document = json.loads((run.path / "run.json").read_text())
    assert (document["status"], document["exit_code"]) == ("diverged", 6)
    (path,) = checkpoint_folder.good_checkpoints(run.path / "checkpoints")
    assert [(1, path)] == reporter.saves
    assert [r["kind"] for r in run.metrics()] == ["eval", "train", "save"]
    assert not (run.path / "adapter").exists()
    assert "ended: " in (run.path / "log.txt").read_text()


def test_the_gradient_clip() -> None:
    """The norm is reported before the clip, and what the optimizers get has the limit's norm."""
    free, clipped = built("train.max_grad_norm=null"), built("train.max_grad_norm=0.01")
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for index, made in enumerate((free, clipped)):
        for stage in made.engine.stages.values():
            assert stage.optimizer is not None
            weights = list(lora_parameters(stage.model).values())

            def watch(*_: Any, weights: Any = weights, found: Any = seen[index]) -> None:
                found.extend(p.grad.flatten().clone() for p in weights if p.grad is not None)

            stage.optimizer.register_step_pre_hook(watch)
    norm = step_of(free, 0).grad_norm
    assert step_of(clipped, 0).grad_norm == norm
    full, small = (torch.cat(gradients) for gradients in seen.values())
    assert float(full.norm()) == pytest.approx(norm, rel=1e-5)
    assert norm > 0.01
    assert float(small.norm()) == pytest.approx(0.01, rel=1e-4)
    assert torch.allclose(small * (norm / 0.01), full, rtol=1e-3)
