"""Checkpoints of a small engine: what is in one, its faults, and what loading brings back."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_parts import LORA, CountingTransport, engine_of, random_task
from model_families import CONFIGS, save_random_model
from safetensors.torch import load_file

from amaqctl.engine import checkpoint as saved
from amaqctl.engine import checkpoint_folder
from amaqctl.engine.checkpoint import CheckpointContents
from amaqctl.engine.engine import Engine
from amaqctl.engine.run_documents import TrainerDocument
from amaqctl.errors import InputError
from amaqctl.model.lora import lora_parameters
from amaqctl.model.source import ModelSource
from amaqctl.tasks.batch import collate

FILES = [
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "quantizer.safetensors",
    "trainer.json",
    "trainer.safetensors",
]
STATE: dict[str, Any] = {
    "evaluations": {"0": {"loss": 4.0}},
    "traffic": {},
    "evaluation_traffic": {},
    "last_traffic": {},
    "identity": {"run": "r"},
}
STEP = 3


@dataclass
class Trained:
    """An engine after some steps, and its checkpoint, which tests copy."""

    source: ModelSource
    engine: Engine
    contents: CheckpointContents
    folder: Path


def engine(source: ModelSource, cuts: list[int]) -> Engine:
    pairs = (("amaq", {"target_bits": 3.0}), ("group", {"bits": 6, "group_size": 8}))
    return engine_of(source, cuts, transport=CountingTransport(), quantizers=pairs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("checkpoint")
    source = save_random_model(CONFIGS["llama"], folder / "llama")
    made = engine(source, [2])
    for step in range(2):
        made.train_step(collate(random_task().train[:4], 0, 16), step)
    contents = CheckpointContents(made.stages, source, LORA)
    path = saved.save_checkpoint(folder / "checkpoints", STEP, contents, STATE)
    return Trained(source, made, contents, path)


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / trained.folder.name))


def rewritten(path: Path, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_what_is_in_it(trained: Trained) -> None:
    assert trained.folder.name == "step-000003"
    files = sorted(p for p in trained.folder.rglob("*") if p.is_file())
    names = [path.relative_to(trained.folder).as_posix() for path in files]
    assert names == sorted([*FILES, "COMPLETE"])
    manifest = json.loads((trained.folder / "COMPLETE").read_text())
    assert list(manifest) == FILES
    for name, entry in manifest.items():
        data = (trained.folder / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document = json.loads((trained.folder / "trainer.json").read_text())
    messages = {"link0.activation": [2, 2], "link0.gradient": [2, 2]}
    assert document == {"step": STEP, "messages": messages, **STATE}
    for name in ("trainer.json", "COMPLETE"):
        text = (trained.folder / name).read_text()
        assert text == json.dumps(json.loads(text), indent=2) + "\n"


def test_the_state_of_both_ends_of_every_channel(trained: Trained) -> None:
    places = [f"link0.{r}.{e}" for r in ("activation", "gradient") for e in ("sender", "receiver")]
    modules = trained.contents.quantizers()
    assert list(modules) == places
    channel = trained.engine.stages[0].outgoing
    assert channel is not None
    assert modules["link0.activation.sender"] is channel.activations.quantizers.sender
    assert modules["link0.gradient.receiver"] is channel.gradients.quantizers.receiver
    flat = saved.quantizer_state(trained.contents)
    state = {f"{p}.{k}": t for p, module in modules.items() for k, t in module.state_dict().items()}
    assert flat.keys() == state.keys()
    assert any(key.startswith("link0.activation.sender.") for key in flat)
    for key, tensor in flat.items():
        assert torch.equal(tensor, state[key])
        assert tensor.data_ptr() != state[key].data_ptr() or not tensor.numel()
        assert not tensor.requires_grad
    on_disk = load_file(trained.folder / "quantizer.safetensors")
    assert all(torch.equal(on_disk[key], flat[key]) for key in flat)


def test_a_second_one_of_a_step_takes_the_place_of_the_first(
    trained: Trained, tmp_path: Path
) -> None:
    for number in (1, 2):
        state = {**STATE, "identity": {"number": number}}
        path = saved.save_checkpoint(tmp_path, 1_000_000, trained.contents, state)
    assert path == tmp_path / "step-1000000"
    assert saved.identity_of(path) == {"number": 2}
    assert checkpoint_folder.fault_of(path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["step-1000000"]


def test_not_a_number_is_not_written(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        saved.save_checkpoint(tmp_path, 1, trained.contents, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_compared(copy: Path, name: str) -> None:
    path = copy / name
    good = path.read_bytes()
    assert checkpoint_folder.fault_of(copy) is None
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good + b" ", good[:-1]):
        path.write_bytes(bad)
        assert checkpoint_folder.fault_of(copy) == f"{name} is not what was written"
    path.write_bytes(good)
    digest = hashlib.sha256(good).hexdigest()
    for lie in (
        *({"bytes": len(good) + more} for more in (-1, 1)),
        *({"sha256": other * 64} for other in "0f"),
    ):
        entry = {"bytes": len(good), "sha256": digest, **lie}
        rewritten(copy / "COMPLETE", lambda manifest, e=entry: manifest.update({name: e}))
        assert checkpoint_folder.fault_of(copy) == f"{name} is not what was written"
    rewritten(copy / "COMPLETE", lambda manifest: manifest.pop(name))
    assert checkpoint_folder.fault_of(copy) == f"COMPLETE does not list {name}"


def test_other_faults(copy: Path) -> None:
    rewritten(copy / "COMPLETE", lambda m: m.update({"notes.txt": m["trainer.json"]}))
    assert (
        checkpoint_folder.fault_of(copy)
        == "COMPLETE lists notes.txt, which is no file of a checkpoint"
    )
    rewritten(copy / "COMPLETE", lambda m: m.pop("notes.txt"))
    assert checkpoint_folder.fault_of(copy) is None
    (copy / "trainer.json").rename(copy / "elsewhere")
    assert checkpoint_folder.fault_of(copy) == "trainer.json is missing"
    (copy / "trainer.json").mkdir()
    fault = checkpoint_folder.fault_of(copy)
    assert fault is not None
    assert fault.startswith("trainer.json ")
    (copy / "trainer.json").rmdir()
    (copy / "elsewhere").rename(copy / "trainer.json")
    shutil.rmtree(copy / "adapter")
    (copy / "adapter").touch()
    assert checkpoint_folder.fault_of(copy) == "adapter_config.json cannot be read: Not a directory"
    (copy / "COMPLETE").write_text("[]")
    fault = checkpoint_folder.fault_of(copy)
    assert fault is not None
    assert fault.startswith("COMPLETE cannot be read: ")


def test_which_folders_are_checkpoints(copy: Path) -> None:
    (copy.parent / "step-1000000").mkdir()
    (copy.parent / "step-999999").mkdir()
    for name in ("step-", "step-x", "step-x7", "step-1x", "step-4 copy", "other", ".step-5"):
        (copy.parent / name).mkdir()
    (copy.parent / "step-000007").write_text("a file")
    found = checkpoint_folder.all_checkpoints(copy.parent)
    assert [path.name for path in found] == ["step-000003", "step-999999", "step-1000000"]
    assert [checkpoint_folder.step_of(path) for path in found] == [3, 999_999, 1_000_000]
    assert checkpoint_folder.good_checkpoints(copy.parent) == [copy]
    assert checkpoint_folder.all_checkpoints(copy.parent / "none") == []


def test_the_best_one() -> None:
    paths = [Path(f"step-{step:06d}") for step in (1, 2, 3, 4)]
    losses = {0: 0.1, 2: 3.0, 3: 2.0, 4: 2.0}
    assert saved.best_checkpoint(paths, losses) == paths[2]
    assert saved.best_checkpoint(paths[:2], losses) == paths[1]
    assert saved.best_checkpoint(paths[:1], losses) is None
    assert saved.best_checkpoint([], losses) is None


def test_which_run_made_it(copy: Path) -> None:
    assert saved.identity_of(copy) == {"run": "r"}
    rewritten(copy / "trainer.json", lambda document: document.pop("identity"))
    assert saved.identity_of(copy) == {}
    (copy / "trainer.json").write_text('{"identity": {"run": "r"}}'.ljust(8 * 2**20))
    assert saved.identity_of(copy) == {"run": "r"}
    (copy / "trainer.json").write_text('{"identity": {"run": "r"}}'.ljust(8 * 2**20 + 1))
    assert saved.identity_of(copy) == {}
    (copy / "trainer.json").write_text("{")
    assert saved.identity_of(copy) == {}


def test_weights_and_quantizers_come_back(trained: Trained) -> None:
    fresh = engine(trained.source, [2])
    contents = CheckpointContents(fresh.stages, trained.source, LORA)
    before = saved.quantizer_state(contents)
    saved.load_weights(trained.folder, contents)
    expected = saved.quantizer_state(trained.contents)
    found = saved.quantizer_state(contents)
    assert any(not torch.equal(before[key], expected[key]) for key in expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    for index, stage in trained.engine.stages.items():
        mine = lora_parameters(fresh.stages[index].model)
        for name, weight in lora_parameters(stage.model).items():
            assert torch.equal(mine[name], weight)


def test_the_state_of_another_quantizer_is_refused_with_its_place(trained: Trained) -> None:
    other = engine_of(
        trained.source,
        [2],
        transport=CountingTransport(),
        quantizers=(("amaq", {"target_bits": 3.0}), ("aq-sgd", {})),
    )
    contents = CheckpointContents(other.stages, trained.source, LORA)
    words = (
        r"quantizer of link0\.gradient\.sender: the state does not fit: (Missing|Unexpected) key"
    )
    with pytest.raises(InputError, match=words) as caught:
        saved.load_weights(trained.folder, contents)
    assert caught.value.where == str(trained.folder / "quantizer.safetensors")


def test_optimizers_and_numbers_of_messages_come_back(trained: Trained, copy: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["messages"]["link0.gradient"] = [5, 4]

    rewritten(copy / "trainer.json", change)
    fresh = engine(trained.source, [2])
    document = saved.load_training_state(copy, fresh.stages, TrainerDocument)
    assert document.step == STEP
    link = fresh.stages[0].outgoing
    assert link is not None
    assert (link.activations.num_sent, link.activations.num_received) == (2, 2)
    assert (link.gradients.num_sent, link.gradients.num_received) == (5, 4)
    for index, stage in trained.engine.stages.items():
        ours, theirs = fresh.stages[index].optimizer, stage.optimizer
        assert ours is not None
        assert theirs is not None
        mine, due = ours.state_dict()["state"], theirs.state_dict()["state"]
        assert mine.keys() == due.keys()
        assert all(torch.equal(mine[n]["exp_avg"], due[n]["exp_avg"]) for n in due)


def test_the_training_state_of_another_step_or_other_channels_changes_nothing(
    trained: Trained, copy: Path
) -> None:
    words = r": it is of step 3 with link0\.activation, link0\.gradient.*; due is step "
    moved = copy.rename(copy.with_name("step-000004"))
    cut_twice = engine(trained.source, [1, 2])
    more = Path(shutil.copytree(trained.folder, moved.parent / "more" / "step-000003"))

    def add_link(document: dict[str, Any]) -> None:
        document["messages"]["link1.gradient"] = [2, 2]

    rewritten(more / "trainer.json", add_link)
    for folder, fresh, due in (
        (moved, engine(trained.source, [2]), "4 with link0"),
        (more, engine(trained.source, [2]), r"3 with link0\.activation, link0\.gradient$"),
        (trained.folder, cut_twice, r"3 with link0\.activation, link0\.gradient, link1"),
    ):
        with pytest.raises(InputError, match=words + due) as caught:
            saved.load_training_state(folder, fresh.stages, TrainerDocument)
        assert caught.value.where == str(folder / "trainer.json")
        link = fresh.stages[0].outgoing
        assert link is not None
        assert (link.activations.num_sent, link.gradients.num_received) == (0, 0)
        optimizer = fresh.stages[0].optimizer
        assert optimizer is not None
        assert optimizer.state_dict()["state"] == {}
