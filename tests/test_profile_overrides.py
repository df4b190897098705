"""--set: precedence, plugin names and options, and faults that name the item."""

from __future__ import annotations

from pathlib import Path

import pytest

from amaqctl.errors import ProfileError, UsageError
from amaqctl.profile import PluginChoice, Profile, load_profile

TEXT = """\
amaqctl: 1
task: {name: text, options: {train: {path: a.jsonl, limit: 5}, column: t}}
lora: {r: 4}
quantizers:
  activation: {name: amaq, options: {start_bits: 6, target_bits: 3}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "p.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def with_set(path: Path, *items: str) -> Profile:
    return load_profile(path, items).profile


def messages(path: Path, *items: str) -> list[tuple[str, str]]:
    with pytest.raises(ProfileError) as caught:
        load_profile(path, items)
    return [(p.file, p.message) for p in caught.value.problems]


def test_an_override_beats_the_file_and_a_later_one_the_earlier(path: Path) -> None:
    assert with_set(path).lora.r == 4
    assert with_set(path, "lora.r=8").lora.r == 8
    assert with_set(path, "lora.r=8", "lora.r=16").lora.r == 16
    assert with_set(path, "lora.r=16", "lora={alpha: 2}").lora.model_dump() == {
        "r": 8,  # the default: a mapping replaces the whole section
        "alpha": 2,
        "dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
    }


def test_an_override_repairs_a_wrong_value_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(TEXT.replace("{r: 4}", "{r: x}"), encoding="utf-8")
    assert with_set(file, "lora.r=2").lora.r == 2
    file.write_text(TEXT.replace("{r: 4}", ""), encoding="utf-8")
    assert with_set(file, "lora.r=2").lora.r == 2


def test_the_value_is_yaml_and_may_hold_an_equals_sign(path: Path) -> None:
    assert with_set(path, "description='a=b: c'").description == "a=b: c"
    assert with_set(path, "description=x=1=2").description == "x=1=2"
    assert with_set(path, "split.cuts=[1,3]").split.cuts == [1, 3]
    assert with_set(path, "optimizer.lr=2e-4").optimizer.lr == 2e-4


AMAQ = {"start_bits": 6, "target_bits": 3}


@pytest.mark.parametrize(
    ("items", "name", "options"),
    [
        (["quantizers.activation.options.target_bits=2"], "amaq", {**AMAQ, "target_bits": 2}),
        (["quantizers.activation.name=amaq"], "amaq", AMAQ),
        (["quantizers.activation.name=none"], "none", {}),
        (["quantizers.activation={name: none}"], "none", {}),
        (["quantizers.activation={name: fixed, options: {bits: 2}}"], "fixed", {"bits": 2}),
        (["quantizers.activation={name: amaq}"], "amaq", {}),
        (["quantizers={activation: {name: none}}"], "none", {}),
        (
            ["quantizers.activation.name=fixed", "quantizers.activation.options.bits=3"],
            "fixed",
            {"bits": 3},
        ),
        (
            ["quantizers.activation.options.bits=3", "quantizers.activation.name=fixed"],
            "fixed",
            {"bits": 3},
        ),
        (
            ["quantizers.activation.options.bits=3", "quantizers.activation={name: none}"],
            "none",
            {},
        ),
        (["quantizers.activation.options={bits: 3}"], "amaq", {"bits": 3}),
    ],
)
def test_a_new_name_drops_the_old_options(
    path: Path, items: list[str], name: str, options: dict[str, int]
) -> None:
    expected = PluginChoice(name=name, options=options)
    assert with_set(path, *items).quantizers.activation == expected


def test_a_plugin_that_the_file_leaves_out_is_overridden_from_its_default(path: Path) -> None:
    gradient = with_set(path, "quantizers.gradient.options.bits=8").quantizers.gradient
    assert gradient == PluginChoice(name="group", options={"bits": 8, "group_size": 64})
    gradient = with_set(path, "quantizers.gradient.name=none").quantizers.gradient
    assert gradient == PluginChoice(name="none")
    assert with_set(path, "transport.options.port=5").transport == PluginChoice(
        name="loopback", options={"port": 5}
    )


def test_task_options_nest(path: Path) -> None:
    task = with_set(path, "task.options.train.path=b.jsonl", "task.options.new.deep=1").task
    assert task.options == {
        "train": {"path": "b.jsonl", "limit": 5},
        "column": "t",
        "new": {"deep": 1},
    }
    task = with_set(path, "task.options.train.path=b.jsonl", "task.name=word-problems").task
    assert task == PluginChoice(name="word-problems", options={"train": {"path": "b.jsonl"}})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("lora.alhpa=3", "lora.alhpa: unknown key, did you mean 'alpha'?"),
        ("tran.seed=3", "tran: unknown key, did you mean 'train'?"),
        ("seed=3", "seed: unknown key, did you mean 'train.seed'?"),
        ("quantizers.activations.name=x",
         "quantizers.activations: unknown key, did you mean 'activation'?"),
        ("quantizers.activation.bits=3",
         "quantizers.activation.bits: unknown key, known here: name, options"),
        ("train.batch_size.x=3", "train.batch_size.x: train.batch_size holds a value, not keys"),
        ("lora.=3", "lora.'': unknown key, known here: r, alpha, dropout, target_modules"),
        ("task.options.=3", "task.options.'': an option without a name"),
        ("task.options.column.x=3", "task.options.column: mapping needed, holds 't'"),
        ("lora={alhpa: 3}", "lora.alhpa: unknown key, did you mean 'alpha'?"),
        ("lora={r: 1, r: 2}", "key 'r' is given twice"),
        ("model.id=*x", "model.id: alias *x is not allowed in a profile"),
        ("lora.r=1 --- 2", "lora.r: whole number >= 1 needed, got '1 --- 2'"),
    ],
)  # fmt: skip
def test_faults_name_the_item(path: Path, item: str, message: str) -> None:
    assert messages(path, item) == [(f"--set {item}", message)]


def test_syntax_faults_name_the_item(path: Path) -> None:
    [(file, message)] = messages(path, "split.cuts=[1, 3")
    assert file == "--set split.cuts=[1, 3"
    assert message.startswith("not valid YAML: ")


def test_faults_of_items_and_file_come_together(path: Path) -> None:
    path.write_text(TEXT + "eval: {evry: 3}\n", encoding="utf-8")
    assert messages(path, "lora.r=0", "foo=1")[:2] == [
        (
            "--set foo=1",
            "foo: unknown key, known here: amaqctl, description, model, split, lora, quantizers, "
            "task, optimizer, train, eval, checkpoint, transport, clients, output",
        ),
        ("--set lora.r=0", "lora.r: whole number >= 1 needed, got 0"),
    ]
    assert messages(path, "lora.r=0", "foo=1")[2:] == [
        (str(path), "eval.evry: unknown key, did you mean 'every'?")
    ]


def test_an_item_without_equals_sign_is_a_usage_error(path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_profile(path, ["lora.r"])
    assert caught.value.exit_code == 2
    assert caught.value.where == "--set lora.r"
    assert caught.value.error_id == "USAGE-SET"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (f"task.options{'.a' * 20_000}=1", "a key of more than 20 parts"),
        (f"split.cuts=[{'1, ' * 30_000}]", "is longer than 65,536 characters"),
        (f"{'a' * 9_000}=1", f"{'a' * 59}…: unknown key"),
    ],
)
def test_very_long_items_are_refused_in_a_short_line(path: Path, item: str, message: str) -> None:
    [(shown, said)] = messages(path, item)
    assert shown == f"--set {item[:199]}…"
    assert said.startswith(message)
    assert len(said) < 300
