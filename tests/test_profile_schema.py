"""Profile schema: defaults, leaves, bounds, and that nothing heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from amaqctl.errors import ProfileError
from amaqctl.profile import PluginChoice, Profile, load_profile, profile_schema
from amaqctl.profile.schema import Section, section_at

MINIMAL = "amaqctl: 1\ntask: {name: text}\n"

ANOTHER_VALUE: dict[str, tuple[str, object]] = {
    "amaqctl": ("1", 1),
    "description": ("a=b", "a=b"),
    "model.id": ("tiny", "tiny"),
    "model.revision": ("no", "no"),
    "model.dtype": ("bfloat16", "bfloat16"),
    "model.base_bits": ("4", 4),
    "model.local_files_only": ("true", True),
    "split.cuts": ("[1, 3]", [1, 3]),
    "lora.r": ("4", 4),
    "lora.alpha": ("32", 32),
    "lora.dropout": ("0.25", 0.25),
    "lora.target_modules": ("all-linear", "all-linear"),
    "quantizers.activation.name": ("fixed", "fixed"),
    "quantizers.activation.options": ("{bits: 3}", {"bits": 3}),
    "quantizers.gradient.name": ("none", "none"),
    "quantizers.gradient.options": ("{bits: 8}", {"bits": 8}),
    "task.name": ("python-docs", "python-docs"),
    "task.options": ("{limit: 5}", {"limit": 5}),
    "optimizer.lr": ("1e-4", 1e-4),
    "optimizer.schedule": ("linear", "linear"),
    "optimizer.warmup_steps": ("5", 5),
    "optimizer.quantizer_lr": ("0", 0.0),
    "optimizer.weight_decay": ("1e-2", 0.01),
    "train.max_steps": ("3", 3),
    "train.batch_size": ("8", 8),
    "train.micro_batches": ("2", 2),
    "train.max_length": ("64", 64),
    "train.max_grad_norm": ("null", None),
    "train.seed": ("0", 0),
    "train.deterministic": ("false", False),
    "train.gradient_checkpointing": ("true", True),
    "eval.every": ("7", 7),
    "eval.max_examples": ("9", 9),
    "checkpoint.every": ("6", 6),
    "checkpoint.keep_last": ("1", 1),
    "clients.average_every": ("7", 7),
    "clients.turns": ("true", True),
    "clients.wait_seconds": ("30", 30.0),
    "transport.name": ("grpc", "grpc"),
    "transport.options": ("{port: 1}", {"port": 1}),
    "output.root": ("elsewhere", "elsewhere"),
}


def leaf_paths(section: type[Section] = Profile, prefix: tuple[str, ...] = ()) -> Iterator[str]:
    for key in section.model_fields:
        inner = section_at((*prefix, key))
        if inner is None:
            yield ".".join((*prefix, key))
        else:
            yield from leaf_paths(inner, (*prefix, key))


def value_at(profile: Profile, path: str) -> object:
    value: object = profile
    for part in path.split("."):
        value = getattr(value, part)
    return value


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def test_the_table_of_leaves_is_complete() -> None:
    assert sorted(leaf_paths()) == sorted(ANOTHER_VALUE)


@pytest.mark.parametrize("path", sorted(leaf_paths()))
def test_every_leaf_can_be_set(minimal: Path, path: str) -> None:
    text, expected = ANOTHER_VALUE[path]
    before = load_profile(minimal).profile
    after = load_profile(minimal, [f"{path}={text}"]).profile
    assert value_at(after, path) == expected
    assert type(value_at(after, path)) is type(expected)
    unchanged = set(leaf_paths()) - {path}
    if path.endswith(".name"):  # a new name drops the options of the old one
        unchanged.remove(path.replace(".name", ".options"))
    for other in unchanged:
        assert value_at(after, other) == value_at(before, other)


def test_defaults(minimal: Path) -> None:
    profile = load_profile(minimal).profile
    assert profile.model_dump() == {
        "amaqctl": 1,
        "description": None,
        "model": {
            "id": "smollm2-135m",
            "revision": None,
            "dtype": "float32",
            "base_bits": None,
            "local_files_only": False,
        },
        "split": {"cuts": [5]},
        "lora": {"r": 8, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
        "quantizers": {
            "activation": {"name": "amaq", "options": {"target_bits": 4}},
            "gradient": {"name": "group", "options": {"bits": 4, "group_size": 64}},
        },
        "task": {"name": "text", "options": {}},
        "optimizer": {
            "lr": 2e-4,
            "schedule": "constant",
            "warmup_steps": 0,
            "quantizer_lr": 0.1,
            "weight_decay": 0.0,
        },
        "train": {
            "max_steps": 200,
            "batch_size": 4,
            "micro_batches": 1,
            "max_length": 128,
            "max_grad_norm": 1.0,
            "seed": 17,
            "deterministic": True,
            "gradient_checkpointing": False,
        },
        "eval": {"every": 50, "max_examples": 64},
        "checkpoint": {"every": 50, "keep_last": 2},
        "transport": {"name": "loopback", "options": {}},
        "clients": {"average_every": 10, "turns": False, "wait_seconds": 120.0},
        "output": {"root": "runs"},
    }


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("amaqctl=2", "amaqctl: schema version 1 needed, got 2"),
        ("amaqctl=true", "amaqctl: schema version 1 needed, got true"),
        ("amaqctl=1.0", "amaqctl: schema version 1 needed, got 1.0"),
        ("train.batch_size=-x", "train.batch_size: whole number >= 1 needed, got '-x'"),
        ("train.batch_size=true", "train.batch_size: whole number >= 1 needed, got true"),
        ("train.batch_size='4'", "train.batch_size: whole number >= 1 needed, got '4'"),
        ("train.batch_size=4.0", "train.batch_size: whole number >= 1 needed, got 4.0"),
        ("train.micro_batches=3", "train.micro_batches: must divide train.batch_size 4, got 3"),
        ("train.seed=-1", "train.seed: whole number from 0 to 4294967295 needed, got -1"),
        ("train.deterministic=no", "train.deterministic: true or false needed, got 'no'"),
        ("train.deterministic=1", "train.deterministic: true or false needed, got 1"),
        (
            "train.max_grad_norm=0",
            "train.max_grad_norm: number > 0, or null to switch clipping off, needed, got 0",
        ),
        ("optimizer.lr=0", "optimizer.lr: number > 0 and <= 1,000,000 needed, got 0"),
        (
            "optimizer.schedule=cosine",
            "optimizer.schedule: constant or linear needed, got 'cosine'",
        ),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps: whole number >= 0 needed, got -1"),
        ("optimizer.lr=true", "optimizer.lr: number > 0 and <= 1,000,000 needed, got true"),
        ("optimizer.lr='1e-4'", "optimizer.lr: number > 0 and <= 1,000,000 needed, got '1e-4'"),
        ("optimizer.lr=.nan", "optimizer.lr: finite number needed, got .nan"),
        ("optimizer.lr=-.inf", "optimizer.lr: finite number needed, got -.inf"),
        (
            "optimizer.lr=1e999",
            "optimizer.lr: the number is too large; put it in quotes if it is text",
        ),
        ("lora.dropout=1", "lora.dropout: number >= 0 and below 1 needed, got 1"),
        ("model.id=", "model.id: text needed, got null"),
        ("model.id=''", "model.id: text needed, got ''"),
        ("model.revision=606", "model.revision: text or null needed, got 606 (put it in quotes)"),
        ("model.dtype=fp8", "model.dtype: float32, bfloat16 or float16 needed, got 'fp8'"),
        ("model.base_bits=16", "model.base_bits: 8, 4 or null needed, got 16"),
        ("model.base_bits=true", "model.base_bits: 8, 4 or null needed, got true"),
        ("task.options=[1]", "task.options: mapping needed, got [1]"),
        ("task={options: {}}", "task.name: required key is missing"),
        (
            "task.options.a=[.inf]",
            "task.options.a[0]: finite number needed, got .inf",
        ),
        (
            "train.seed=18446744073709551616",
            "train.seed: the number does not fit 64 bits; put it in quotes if it is text",
        ),
    ],
)
def test_wrong_values_are_answered_with_what_is_needed(
    minimal: Path, item: str, message: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(minimal, [item])
    assert [(p.file, p.message) for p in caught.value.problems] == [(f"--set {item}", message)]


@pytest.mark.parametrize("cuts", ["[]", "[0]", "[5, 5]", "[5, 3]", "[true]", "5", "some", "[a]"])
def test_cuts_are_all_or_strictly_rising(minimal: Path, cuts: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(minimal, [f"split.cuts={cuts}"])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].message.startswith(
        "split.cuts: all, or a list of strictly rising whole numbers >= 1 such as [4, 8], needed"
    )


def test_cuts_may_be_all(minimal: Path) -> None:
    assert load_profile(minimal, ["split.cuts=all"]).profile.split.cuts == "all"


def test_whole_numbers_pass_as_floats(minimal: Path) -> None:
    profile = load_profile(minimal, ["optimizer.lr=1", "train.max_grad_norm=2"]).profile
    assert (profile.optimizer.lr, type(profile.optimizer.lr)) == (1.0, float)
    assert (profile.train.max_grad_norm, type(profile.train.max_grad_norm)) == (2.0, float)


def test_sections_are_frozen(minimal: Path) -> None:
    profile = load_profile(minimal).profile
    with pytest.raises(ValidationError, match="frozen"):
        profile.train.seed = 3


def test_every_key_is_described() -> None:
    for name, section in {"Profile": profile_schema(), **profile_schema()["$defs"]}.items():
        assert section["additionalProperties"] is False, name
    sections: list[type[Section]] = [Profile, *Section.__subclasses__()]
    for section_type in sections:
        for key, field in section_type.model_fields.items():
            assert field.description, f"{section_type.__name__}.{key}"
            assert field.description.endswith("."), f"{section_type.__name__}.{key}"


def test_json_schema_knows_what_is_required() -> None:
    schema = profile_schema()
    assert schema["required"] == ["amaqctl", "task"]
    assert schema["properties"]["amaqctl"]["const"] == 1
    assert schema["$defs"]["PluginChoice"]["required"] == ["name"]
    assert schema["$defs"]["TrainSection"]["properties"]["batch_size"]["minimum"] == 1


def test_plugin_options_are_not_shared_between_profiles() -> None:
    first, second = PluginChoice(name="a"), PluginChoice(name="a")
    first.options["x"] = 1
    assert second.options == {}


def test_torch_and_other_rooms_are_not_imported() -> None:
    code = (
        "import sys\n"
        "from amaqctl.profile import load_profile\n"
        "load_profile('quickstart').resolved_yaml()\n"
        "rooms = {m.split('.')[1] for m in sys.modules if m.startswith('amaqctl.')}\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)\n"
        "print(sorted(rooms), sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['errors', 'nearest', 'profile', 'storage'] []\n"


@pytest.mark.parametrize(
    ("item", "needed"),
    [
        ("optimizer.lr=1e300", "number > 0 and <= 1,000,000 needed"),
        ("optimizer.quantizer_lr=1e39", "number >= 0 and <= 1,000,000 needed"),
        ("optimizer.weight_decay=1e9", "number >= 0 and <= 1,000,000 needed"),
        ("lora.alpha=1000001", "whole number from 1 to 1,000,000 needed"),
    ],
)
def test_what_no_float32_can_hold_is_refused(item: str, needed: str) -> None:
    with pytest.raises(ProfileError, match=needed):
        load_profile("quickstart", [item])
