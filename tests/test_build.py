"""From a profile to everything that runs it, and every way in which that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from amaqctl.build import build, resolve_parts
from amaqctl.engine.link import Link
from amaqctl.errors import InputError, PluginError, ProfileError
from amaqctl.model.lora import lora_parameters
from amaqctl.profile import load_profile, shipped_names
from amaqctl.tasks.batch import batch_at
from amaqctl.transports.transport import Address

TINY = ["model.id=tiny", "train.max_length=96", "eval.max_examples=2"]

GOOD = """\
amaqctl: 1
model: {id: tiny}
split:
  cuts: [2]
quantizers:
  activation:
    name: amaq
    options:
      target_bits: 4
  gradient:
    name: group
    options: {bits: 6}
task:
  name: word-problems
  options: {num_train: 20, num_validation: 4}
train: {max_length: 96, batch_size: 2}
transport:
  name: loopback
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = GOOD
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, *changes: tuple[str, str]) -> list[str]:
    """What is said about a changed profile, with the folder cut off."""
    with pytest.raises(ProfileError) as caught:
        build(load_profile(written(folder, *changes)))
    assert caught.value.exit_code == 3
    return [str(p).removeprefix(f"{folder}/") for p in caught.value.problems]


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_profile_builds_and_steps_on_the_tiny_model(name: str) -> None:
    made = build(load_profile(name, TINY))
    profile = made.loaded.profile
    batch = batch_at(made.task.train, 0, profile.train.batch_size, 1, made.tokenizer.pad_token_id)
    result = made.engine.train_step(batch, 0)
    assert 0 < result.loss < 20
    num_links = len(made.engine.stages) - 1
    assert {address for address, _ in result.traffic} == {
        Address(link, role) for link in range(num_links) for role in ("activation", "gradient")
    }
    assert made.facts()["model"] == {"id": "tiny", "revision": None}
    assert made.facts()["data"]["fingerprint"] == made.task.fingerprint()
    json.dumps(made.facts())


def test_the_parts_are_connected(tmp_path: Path) -> None:
    made = build(load_profile(written(tmp_path, ("cuts: [2]", "cuts: [2, 5]"))))
    stages = [made.engine.stages[index] for index in range(3)]
    assert stages[0].incoming is None
    assert stages[2].outgoing is None
    assert stages[0].outgoing is stages[1].incoming
    assert stages[1].outgoing is stages[2].incoming
    for index, stage in enumerate(stages[:2]):
        link = stage.outgoing
        assert isinstance(link, Link)
        assert link.activations.address == Address(index, "activation")
        assert link.gradients.address == Address(index, "gradient")
        names = [link.activations.quantizers.name, link.gradients.quantizers.name]
        assert names == ["amaq", "group"]
        for channel in (link.activations, link.gradients):
            pair = channel.quantizers
            assert pair.sender is not pair.receiver
            assert pair.sender.config == pair.receiver.config
            assert (pair.sender.site.num_channels, pair.sender.site.max_positions) == (32, 96)
        assert link.activations.quantizers.sender is not stages[1 - index].outgoing


def test_who_learns_at_which_rate(tmp_path: Path) -> None:
    path = written(tmp_path)
    options = ["optimizer.lr=0.5", "optimizer.quantizer_lr=0.25", "optimizer.weight_decay=0.125"]
    options.append("quantizers.activation={name: amaq, options: {allocation: learned}}")
    made = build(load_profile(path, options))
    first, last = (made.engine.stages[index] for index in (0, 1))
    assert first.optimizer is not None
    assert last.optimizer is not None
    rates = [
        [(g["lr"], g["weight_decay"], len(g["params"])) for g in s.optimizer.param_groups]
        for s in (first, last)
    ]
    num_first, num_last = (len(lora_parameters(s.model)) for s in (first, last))
    # Gates learn at the sender alone, without decay.
    assert rates == [[(0.5, 0.125, num_first), (0.25, 0.0, 1)], [(0.5, 0.125, num_last)]]
    trained = {id(p) for s in (first, last) for g in s.optimizer.param_groups for p in g["params"]}
    for stage in (first, last):
        for parameter in stage.model.parameters():
            assert parameter.requires_grad == (id(parameter) in trained)


@pytest.mark.parametrize(
    "right, wrong, words",
    [
        ("amaq", "amq", "7:5: quantizers.activation.name: unknown quantizer 'amq'"),
        ("group", "groop", "11:5: quantizers.gradient.name: unknown quantizer 'groop'"),
        ("word-problems", "word-problem", "14:3: task.name: unknown task 'word-problem'"),
        ("loopback", "loop-back", "18:3: transport.name: unknown transport 'loop-back'"),
    ],
)
def test_a_name_that_nobody_offers(tmp_path: Path, right: str, wrong: str, words: str) -> None:
    path = written(tmp_path, (f"name: {right}", f"name: {wrong}"))
    with pytest.raises(PluginError) as caught:
        resolve_parts(load_profile(path))
    assert str(caught.value) == f"{path}:{words}"
    assert (caught.value.hint or "").startswith(f"did you mean '{right}'? installed: ")
    assert (caught.value.error_id, caught.value.exit_code) == ("PLUGIN-UNKNOWN", 5)


def test_an_unknown_name_does_not_hide_other_faults(tmp_path: Path) -> None:
    changes = ["quantizers.activation.name=fixt", "quantizers.gradient.options.bits=9"]
    with pytest.raises(ProfileError) as caught:
        build(load_profile("quickstart", changes))
    lines = [str(problem) for problem in caught.value.problems]
    assert any("unknown quantizer 'fixt' (did you mean 'fixed'?" in line for line in lines)
    assert any("quantizers.gradient.options.bits" in line for line in lines)


def test_an_unknown_option_at_its_place(tmp_path: Path) -> None:
    assert problems(tmp_path, ("target_bits: 4", "target_bit: 4")) == [
        "mine.yaml:9:7: quantizers.activation.options.target_bit: "
        "unknown option of amaq, did you mean 'target_bits'?"
    ]


def test_faults_of_all_sections_come_together(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        ("target_bits: 4", "target_bit: 4"),
        ("{bits: 6}", "{bits: 60, size: 3}"),
        ("num_train: 20", "num_trains: 20"),
        ("name: loopback", "name: loopback\n  options: {port: 1}"),
    )
    assert [text.split(": ")[1] for text in found] == [
        "quantizers.activation.options.target_bit",
        "quantizers.gradient.options.bits",
        "quantizers.gradient.options.size",
        "task.options.num_trains",
        "transport.options.port",
    ]
    assert [text.split(":")[1] for text in found] == ["9", "12", "12", "15", "19"]


def test_an_option_that_contradicts_another(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, ("target_bits: 4", "target_bits: 4\n      beta: 1.0"))
    assert found.startswith("mine.yaml:8:5: quantizers.activation.options: ")
    assert "beta" in found


@pytest.mark.parametrize("cuts", ["[8]", "[2, 9]"])
def test_a_cut_behind_the_last_block(tmp_path: Path, cuts: str) -> None:
    (found,) = problems(tmp_path, ("cuts: [2]", f"cuts: {cuts}"))
    worst = cuts.strip("[]").split(", ")[-1]
    assert found == f"mine.yaml:4:3: split.cuts: cut {worst} lies outside the model's 8 blocks"


def test_a_quantizer_that_learns_cannot_send_gradients(tmp_path: Path) -> None:
    learned = "name: amaq\n    options: {allocation: learned}"
    changed = ("name: group\n    options: {bits: 6}", learned)
    (found,) = problems(tmp_path, changed)
    assert found == (
        "mine.yaml:11:5: quantizers.gradient.name: 'amaq' learns from the gradient it would "
        "quantize; nothing would train it"
    )


def test_more_positions_than_the_model_has(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, ("max_length: 96", "max_length: 2050"))
    assert found == (
        "mine.yaml:16:9: train.max_length: 2080 positions are needed, padding included, and "
        "the model has 2048; at most 2048 fits"
    )


def test_generation_may_go_past_the_longest_example(tmp_path: Path) -> None:
    """A long prompt with a short answer, a short prompt with a long one: gates for both."""
    rows = tmp_path / "rows.jsonl"
    pairs = [("x" * 57, "1"), ("y", "z" * 50), ("x" * 55, "12"), ("y" * 9, "3")]
    rows.write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in pairs))
    options = f"{{train: {rows}, validation: {rows}, prompt: q, completion: a}}"
    overrides = [
        f"task={{name: prompt-completion, options: {options}}}",
        "task.options.generate={max_new_tokens: 50}",
        "quantizers.activation.options.axis=position",
        "train.max_length=64",
    ]
    made = build(load_profile(written(tmp_path), overrides))
    link = made.engine.stages[0].outgoing
    assert link is not None
    prompt = max(example.prompt_length for example in made.task.validation)
    assert 64 < prompt + made.task.max_new_tokens <= 128
    assert link.activations.quantizers.sender.site.max_positions == 128
    metrics = made.evaluator.evaluate(0, "quantized")
    assert 0 <= metrics["exact_match"] <= 1


def test_lora_targets_that_the_model_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        build(load_profile(written(tmp_path), ["lora.target_modules=[q_prog]"]))
    assert "q_proj" in (caught.value.hint or "")


def test_deterministic_algorithms_are_as_the_profile_says(tmp_path: Path) -> None:
    path = written(tmp_path)
    build(load_profile(path))
    assert torch.are_deterministic_algorithms_enabled()
    build(load_profile(path, ["train.deterministic=false"]))
    assert not torch.are_deterministic_algorithms_enabled()


def test_fewer_examples_for_an_evaluation(tmp_path: Path) -> None:
    loaded = load_profile(written(tmp_path))
    assert len(build(loaded).evaluator.examples) == 4
    assert len(build(loaded, max_eval_examples=3).evaluator.examples) == 3
