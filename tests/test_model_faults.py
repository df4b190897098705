"""What can be wrong with a model's configuration, tokenizer and files: exit 4 with the folder."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import typer
from model_folder import copy_of, edit_json, write_model_folder, write_profile
from tokenizers import AddedToken
from transformers import AutoTokenizer
from typer.testing import CliRunner

from amaqctl.cli.console.session import command
from amaqctl.cli.main import app
from amaqctl.errors import InputError, ResourceError
from amaqctl.model.configuration import load_config
from amaqctl.model.cut import stage_ranges
from amaqctl.model.loading import load_stage
from amaqctl.model.reading import reading
from amaqctl.model.source import ModelSource, resolve_source
from amaqctl.model.tokenizer import load_tokenizer, pad_token_id


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("base") / "m")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return copy_of(base, tmp_path / "m")


def load_all(source: ModelSource) -> None:
    """As building a profile does."""
    config = load_config(source)
    load_tokenizer(source)
    for part in stage_ranges(config.num_hidden_layers, [2]):
        load_stage(source, part, torch.float32)


def refusal(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_all(resolve_source(str(folder)))
    error = caught.value
    assert str(error.where).startswith(str(folder))
    assert error.hint
    assert "\n" not in error.message
    return error


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "its weights are quantized (bitsandbytes)",
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantized (awq)"),
        ({"quantization_config": {"bits": 4}}, "quantized (quantization_config)"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation 'flash_attention_2'"),
        ({"attn_implementation": "kernels-community/x"}, "'kernels-community/x'"),
        ({"_attn_implementation": "flex_attention"}, "'flex_attention'"),
        ({"num_attention_heads": 5}, "attention heads (5)"),
        ({"num_key_value_heads": 3}, "shape"),
        ({"num_hidden_layers": "four"}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"num_hidden_layers": 10**9}, "1000000000 blocks"),
        ({"vocab_size": -1}, "vocab_size -1"),
        ({"dtype": "float33"}, "dtype 'float33', which is no type of torch"),
        ({"torch_dtype": 16}, "torch_dtype 16"),
        ({"hidden_act": "bogus"}, "unknown activation, 'bogus'"),
        ({"attention_dropout": 2.0}, "attention_dropout 2.0"),
        (
            {"rope_parameters": {"rope_type": "bogus", "rope_theta": 1e4}},
            "names an unknown rope_type, 'bogus'",
        ),
        ({"num_key_value_heads": 0}, "num_key_value_heads 0, not a number above 0"),
        ({"intermediate_size": -4}, "intermediate_size -4, not a number above 0"),
        ({"head_dim": -3}, "head_dim -3, not a number above 0"),
        ({"pad_token_id": 99999}, "pad_token_id 99999, of 258 tokens"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings"),
        ({"model_type": "no-such-family"}, "model family 'no-such-family' is not supported"),
        ({"model_type": ["llama"]}, "is not supported"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
    ],
)
def test_a_configuration_that_gives_no_model(folder: Path, changes, told: str) -> None:
    edit_json(folder / "config.json", **changes)
    assert told in refusal(folder).message


def test_null_layers(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, "num_hidden_layers": None}))
    assert "num_hidden_layers" in refusal(folder).message


def test_an_activation_nearly_right_is_guessed(folder: Path) -> None:
    edit_json(folder / "config.json", hidden_act="sillu")
    assert (refusal(folder).hint or "").startswith("did you mean 'silu'? known: ")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[" * 200_000, "{", "[1]", "\x00", '{"a": NaN'])
def test_files_that_are_no_such_json(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    refusal(folder)


def test_a_tokenizer_of_an_unknown_kind(folder: Path) -> None:
    edit_json(folder / "tokenizer.json", pre_tokenizer={"type": "Bogus"})
    error = refusal(folder)
    assert error.message.startswith("the model's tokenizer cannot be read: ")
    assert "newer release of tokenizers" in (error.hint or "")


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert refusal(folder).message.endswith(
        "there is no tokenizer.json, and no other file of a vocabulary"
    )


def test_a_longest_text_that_is_no_number(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", model_max_length="a")
    assert refusal(folder).message.endswith("tokenizer_config.json gives model_max_length 'a'")


def test_what_fails_while_a_model_is_made_is_told_of_its_configuration(folder: Path) -> None:
    edit_json(folder / "config.json", rope_parameters={"rope_type": "yarn", "factor": "x"})
    assert refusal(folder).message.startswith("the model's configuration cannot be read: ")


def test_an_empty_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert refusal(folder).message.endswith("tokenizer.json has no vocabulary (model.vocab)")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**40)


@pytest.mark.parametrize("spoil", [_fifo, _device, _directory, _huge])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_only_regular_files_of_a_fitting_size_are_read(folder: Path, name: str, spoil) -> None:
    spoil(folder / name)
    error = refusal(folder)
    if spoil is not _huge:
        assert (error.message, error.where) == ("is no regular file", str(folder / name))
    elif name != "model.safetensors":
        assert "MiB, and at most" in error.message


def test_a_folder_with_an_adapter_only_names_the_base(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    error = refusal(tmp_path)
    assert error.message == "the folder holds an adapter and no model"
    assert error.hint == "give its base as model.id: org/base"


class Panic(BaseException):
    """As a library in Rust raises one."""


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (KeyError("added_tokens"), "KeyError: 'added_tokens'"),
        (Panic("called `Option::unwrap()` on a `None` value"), "called `Option::unwrap()`"),
        (SystemExit(3), "SystemExit: 3"),
        (ImportError(), "ImportError"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (ValueError("Errors:\n  the second line"), "Errors: the second line"),
    ],
)
def test_whatever_a_library_raises_speaks_of_the_folder(raised: BaseException, told: str) -> None:
    source = ModelSource("org/name", "org/name", None, True, "org/name")
    with pytest.raises(InputError) as caught, reading(source, "tokenizer"):
        raise raised
    assert caught.value.message.startswith(f"the model's tokenizer cannot be read: {told}")
    assert caught.value.where == "org/name"


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        OSError(28, "No space left on device"),
    ],
)
def test_out_of_memory_or_disk_is_no_fault_of_the_folder(raised: BaseException) -> None:
    source = ModelSource("org/name", "org/name", None, True, "org/name")
    with pytest.raises(ResourceError), reading(source, "weights"):
        raise raised


def test_an_interrupt_stays_one() -> None:
    source = ModelSource("org/name", "org/name", None, True, "org/name")
    with pytest.raises(KeyboardInterrupt), reading(source, "weights"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("model_id", "told"),
    [
        ("mm", "no such model folder, and no hub id of the form org/name"),
        ("models/mm", "no such model folder in models"),
        ("models/m/config.json", "is a file; a model is a folder"),
        ("models/mm/", "no such model folder"),
        ("~/no-such-model", "no such model folder"),
    ],
)
def test_a_mistyped_path_is_told_without_the_network(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_id: str, told: str
) -> None:
    copy_of(base, tmp_path / "models" / "m")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)
    with pytest.raises(InputError) as caught:
        resolve_source(model_id)
    assert caught.value.message == told
    assert caught.value.where == model_id
    if model_id == "models/mm":
        assert (caught.value.hint or "").startswith("did you mean 'models/m'? ")


def test_a_hub_that_cannot_be_reached_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def no_network(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    source = resolve_source("amaqctl-tests/not-a-model")
    with pytest.raises(InputError, match="no such folder here, and no answer from the hub"):
        load_config(source)
    assert len(asked) <= 2  # both of one request


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def tokenizer_of(folder: Path):
    return AutoTokenizer.from_pretrained(str(folder))


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_a_pad_token_that_the_embedding_lacks_does_no_harm(folder: Path, tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "p.yaml", folder, tmp_path / "d.jsonl")
    assert run("train", profile, "--out", tmp_path / "a", "-q").exit_code == 0
    tokenizer = tokenizer_of(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    loaded = load_tokenizer(resolve_source(str(folder)))
    assert loaded.pad_token_id == 258
    assert pad_token_id(loaded, 258) == loaded.eos_token_id
    assert pad_token_id(loaded, 259) == 258
    assert run("train", profile, "--out", tmp_path / "b", "-q").exit_code == 0
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()


def test_a_token_that_data_use_and_the_embedding_lacks(folder: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(folder)
    tokenizer.add_tokens([AddedToken("Q 29"), AddedToken("unused")])
    tokenizer.save_pretrained(folder)
    profile = write_profile(tmp_path / "p.yaml", folder, tmp_path / "d.jsonl")
    result = run("train", profile, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 4
    error = json.loads(result.stdout)["error"]
    assert error["message"] == (
        "the data use the token 'Q 29' (id 258), and the model's embedding has 258 rows"
    )
    assert error["where"] == str(folder)
    assert not (tmp_path / "run").exists()


TASKS = {
    "prompt-completion": "{name: prompt-completion, options: {train: d.jsonl, validation: 0.2}}",
    "generation": "{name: prompt-completion, options: {train: d.jsonl, validation: 0.2, "
    "generate: {max_new_tokens: 3}}}",
    "classification": "{name: classification, options: {train: d.jsonl, validation: 0.2, "
    "text: prompt, label: completion, labels: [no, yes], separator: ''}}",
    "text": "{name: text, options: {train: t.txt, validation: 0.2}}",
    "python-docs": "{name: python-docs}",
    "word-problems": "{name: word-problems}",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_tokenizer_without_special_tokens(
    folder: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains, or is refused by name; it is never a bug of ours."""
    monkeypatch.chdir(tmp_path)
    edit_json(folder / "tokenizer_config.json", eos_token=None, bos_token=None)
    rows = [{"prompt": f"Q {i}?", "completion": ["no", "yes"][i % 2]} for i in range(30)]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("t.txt").write_text("\n\n".join(f"paragraph {i} of a text" for i in range(60)))
    result = run(
        "train", write_profile(tmp_path / "p.yaml", folder, tmp_path / "d.jsonl"),
        "--set", f"task={TASKS[task]}", "--out", "run", "-q",
    )  # fmt: skip
    assert result.exit_code in (0, 4), result.stderr
    if result.exit_code:
        assert "the tokenizer has no end-of-sequence token" in result.stderr
        assert not Path("run").exists()


def test_an_adapter_in_the_folder_is_named_and_not_trained(folder: Path, tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "p.yaml", folder, tmp_path / "d.jsonl")
    assert run("train", profile, "--out", tmp_path / "a", "-q").exit_code == 0
    for path in (tmp_path / "a" / "adapter").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    result = run("train", profile, "--out", tmp_path / "b", "--json")
    assert result.exit_code == 0, result.stderr
    (warning,) = json.loads(result.stdout)["warnings"]
    assert warning == (
        f"{folder} also holds an adapter (adapter_config.json), which is not used: the base alone "
        "is loaded, and a run begins with a fresh adapter"
    )
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()
    for name in ("eval", "train"):
        more = ["--dry-run"] if name == "train" else []
        told = run(name, profile if more else tmp_path / "b", *more, "--json")
        assert warning in json.loads(told.stdout)["warnings"]


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ],
)
def test_out_of_memory_anywhere_is_no_bug_of_ours(raised: BaseException) -> None:
    with (
        pytest.raises(typer.Exit) as caught,
        command("amaqctl.train/1", json=False, quiet=True, traceback=False),
    ):
        raise raised
    assert caught.value.exit_code == 7
