"""`model.base_bits`: LoRA over a base in 8 or 4 bits, as transformers loads it, at any cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import CONFIGS, save_random_model
from party_processes import ended, outcome, prepare, start
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from typer.testing import CliRunner

from amaqctl import build
from amaqctl.cli.main import app
from amaqctl.errors import InputError, ProfileError
from amaqctl.forecast.holdings import holdings
from amaqctl.model import low_bit
from amaqctl.model.cut import StageRange
from amaqctl.model.loading import load_stage
from amaqctl.model.lora import attach_lora, lora_parameters
from amaqctl.model.lora_settings import LoraSettings
from amaqctl.model.low_bit import LowBitLinear, check_low_bit, uncounted
from amaqctl.model.quiet import no_progress_bar
from amaqctl.model.source import ModelSource, resolve_source
from amaqctl.profile import load_profile
from amaqctl.tasks.batch import batch_at

pytest.importorskip("bitsandbytes", reason="the extra amaqctl[low-bit] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

PROFILE = """\
amaqctl: 1
model: {id: tiny, dtype: float32, base_bits: 4}
split: {cuts: [3]}
lora: {r: 4, dropout: 0.1, target_modules: all-linear}
quantizers: {activation: {name: none}, gradient: {name: none}}
task: {name: text, options: {train: d.txt, validation: 0.2}}
train: {max_steps: 6, batch_size: 4, micro_batches: 2, max_length: 32}
optimizer: {lr: 0.003}
eval: {every: 3, max_examples: 4}
checkpoint: {every: 3}
"""
NUM_STEPS = 3
IDS_BT = torch.arange(24).view(2, 12)
LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules="all-linear")
STOCK = {
    8: {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    4: {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32,
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("low-bit")
    (folder / "p.yaml").write_text(PROFILE)
    lines = (f"Line {n} of {n % 7} things, and what comes of {n * n}.\n" for n in range(300))
    (folder / "d.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_random_model(config, folder / name) for name, config in CONFIGS.items()}


def built(place: Path, *overrides: str) -> build.Built:
    data = f"task.options.train={place / 'd.txt'}"
    return build.build(load_profile(str(place / "p.yaml"), [data, *overrides]))


def whole(source: ModelSource, bits: int | None, dtype: torch.dtype = torch.float32) -> Any:
    return load_stage(source, StageRange(0, 4, 4), dtype, bits)


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def steps(made: build.Built) -> list[tuple[float, float]]:
    """Loss and norm of the first steps."""
    found = []
    for step in range(NUM_STEPS):
        batch = batch_at(made.task.train, step, 4, 17, made.pad_token_id)
        result = made.engine.train_step(batch, step)
        found.append((result.loss, result.grad_norm))
    return found


def low_bit_layers(model: torch.nn.Module) -> dict[str, LowBitLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, LowBitLinear)}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_base_is_the_one_that_transformers_loads(
    sources: dict[str, ModelSource], family: str, bits: int
) -> None:
    with no_progress_bar():
        stock = AutoModelForCausalLM.from_pretrained(
            sources[family].folder_or_hub_id,
            dtype=torch.float32,
            quantization_config=BitsAndBytesConfig(
                **STOCK[bits], llm_int8_skip_modules=["lm_head", "project_in", "project_out"]
            ),
        )
    stock.train()  # in evaluation bitsandbytes rounds what comes in, too
    stage = whole(sources[family], bits)
    expected_BTV = stock(IDS_BT, use_cache=False).logits
    assert torch.equal(stage(input_ids_BT=IDS_BT), expected_BTV)
    stage.train()
    assert torch.equal(stage(input_ids_BT=IDS_BT), expected_BTV)
    full_BTV = whole(sources[family], None)(input_ids_BT=IDS_BT)
    error = float(((expected_BTV - full_BTV).norm() / full_BTV.norm()).detach())
    assert (0.0005 < error < 0.05) if bits == 8 else (0.02 < error < 0.5)


@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_are_those_of_the_weights_that_the_codes_stand_for(bits: int) -> None:
    torch.manual_seed(1)
    weight_OI, bias_O, x = torch.randn(24, 32), torch.randn(24), torch.randn(5, 32)
    layer = LowBitLinear((24, 32), bias_O, bits, torch.float32)
    layer.hold(weight_OI)
    plain = torch.nn.Linear(32, 24)
    plain.weight.data, plain.bias.data = layer.weight_OI(), bias_O
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    made, wanted = layer(ours), plain(theirs)
    assert torch.equal(made, wanted)
    made.square().sum().backward()
    wanted.square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    worst = float((layer.weight_OI() - weight_OI).abs().max() / weight_OI.abs().max())
    assert worst < (0.005 if bits == 8 else 0.16)
    assert not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize("bits, shape", [(8, (3, 7)), (4, (3, 7)), (4, (1, 64)), (4, (33, 65))])
def test_odd_shapes(bits: int, shape: tuple[int, int]) -> None:
    weight_OI = torch.linspace(-1, 1, shape[0] * shape[1]).view(shape)
    layer = LowBitLinear(shape, None, bits, torch.float32)
    layer.hold(weight_OI)
    assert layer.weight_OI().shape == shape
    assert float((layer.weight_OI() - weight_OI).abs().max()) < (0.006 if bits == 8 else 0.16)


def test_what_is_in_few_bits_and_what_is_not(sources: dict[str, ModelSource]) -> None:
    source = sources["llama"]
    middle = load_stage(source, StageRange(1, 3, 4), torch.bfloat16, 4)
    names = list(low_bit_layers(middle.model))
    assert len(names) == 2 * 7
    assert {name.split(".")[2] for name in names} == {"1", "2"}
    others = {p.dtype for n, p in middle.model.named_parameters() if n[:-7] not in names}
    assert others == {torch.bfloat16}
    last = load_stage(source, StageRange(3, 4, 4), torch.float32, 4)
    assert type(last.model.lm_head) is torch.nn.Linear
    assert last.model.lm_head.weight.dtype == torch.float32
    whole_model = whole(source, 4).model
    for stage, index in ((middle, 1), (last, 3)):
        name = f"model.layers.{index}.mlp.up_proj"
        assert torch.equal(
            low_bit_layers(stage.model)[name].weight,
            low_bit_layers(whole(source, 4, stage.model.dtype).model)[name].weight,
        )
    full = sum(p.numel() for p in whole(source, None).model.parameters())
    more, _ = uncounted(whole_model)
    assert sum(p.numel() for p in whole_model.parameters()) + more == full


def test_gpt2_has_an_adapter_of_the_stock_kind(sources: dict[str, ModelSource]) -> None:
    shapes, settings = [], []
    for bits in (None, 4):
        stage = whole(sources["gpt2"], bits)
        attach_lora(stage, LORA, seed=3)
        assert stage.lora is not None
        settings.append(stage.lora)
        shapes.append({name: tuple(p.shape) for name, p in lora_parameters(stage).items()})
    assert settings[0] == settings[1]
    assert settings[0].fan_in_fan_out
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 4 * 4 * 2


@pytest.mark.parametrize("bits", ["8", "4"])
def test_where_it_is_cut_makes_no_difference(place: Path, bits: str) -> None:
    found = []
    for cuts in ("[1]", "[2]", "[2, 6]", "all"):
        made = built(place, f"model.base_bits={bits}", f"split.cuts={cuts}")
        results = steps(made)
        weights = {
            name: weight.detach().clone()
            for stage in made.engine.stages.values()
            for name, weight in lora_parameters(stage.model).items()
        }
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        found.append((results, weights))
    first_results, first_weights = found[0]
    assert len(set(first_results)) == NUM_STEPS
    assert all(bool(w.any()) for n, w in first_weights.items() if "lora_B" in n)
    for results, weights in found[1:]:
        assert results == first_results
        assert weights.keys() == first_weights.keys()
        assert all(torch.equal(weights[name], first_weights[name]) for name in weights)


def test_recomputed_activations_change_nothing(place: Path) -> None:
    kept, again = (built(place, f"train.gradient_checkpointing={f}") for f in ("false", "true"))
    assert steps(kept) == steps(again)


def test_a_party_holds_less(place: Path) -> None:
    held = {
        bits: [(one.parameters, one.bytes, one.trainable) for one in holdings(built(place, bits))]
        for bits in ("model.base_bits=null", "model.base_bits=8", "model.base_bits=4")
    }
    full, eight, four = held.values()
    for index in range(2):
        assert full[index][0] == eight[index][0] == four[index][0]
        assert full[index][2] == eight[index][2] == four[index][2]
        assert full[index][1] > eight[index][1] > four[index][1]
    # Seven linear layers a block: 32 x 32 twice, 16 x 32 twice, 64 x 32 three times; three blocks.
    weights = 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
    saved = full[0][1] - eight[0][1]
    assert saved == 3 * weights - 4 * 3 * (32 + 16 + 16 + 32 + 64 + 64 + 32)


def test_a_stopped_run_goes_on_to_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    quantized = ["--set", "quantizers={activation: {name: amaq}, gradient: {name: group}}"]
    for asked in (
        ["train", "p.yaml", *quantized, "--dry-run"],
        ["train", "p.yaml", *quantized, "--out", "straight"],
        ["train", "p.yaml", *quantized, "--max-steps", "3", "--out", "stopped"],
        ["train", "--resume", "stopped", "--max-steps", "6"],
        ["eval", "straight", "--boundary", "both"],
        ["inspect-bits", "straight"],
    ):
        done = run(*asked)
        assert done.exit_code == 0, done.output
        assert ("tiny, float32 (base 4 bits), 8 blocks" in done.output) == ("--dry-run" in asked)
    straight, stopped = outcome(place / "straight"), outcome(place / "stopped")
    assert straight.pop("metrics") != {}
    stopped.pop("metrics")
    assert straight == stopped
    edited = (place / "stopped" / "profile.yaml").read_text()
    assert "base_bits: 4" in edited
    (place / "stopped" / "profile.yaml").write_text(edited.replace("base_bits: 4", "base_bits: 8"))
    done = run("train", "--resume", "stopped", "--max-steps", "8")
    assert done.exit_code == 9
    assert "profile.model.base_bits: 4 then, 8 now" in done.stderr


def test_what_is_exported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert run("train", "p.yaml", "--max-steps", "3", "--out", "short").exit_code == 0
    done = run("export", "short", "--to", "adapter", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["data"]["base_bits"] == 4
    assert "warning" not in done.stderr
    page = (place / "adapter" / "README.md").read_text()
    assert 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True' in page
    with no_progress_bar():
        base = AutoModelForCausalLM.from_pretrained(
            resolve_source("tiny").folder_or_hub_id,
            dtype=torch.float32,
            quantization_config=BitsAndBytesConfig(**STOCK[4]),
        )
    stock = PeftModel.from_pretrained(base, str(place / "adapter"))
    stock.base_model.train()
    for module in stock.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    ours = built(place, "lora.dropout=0.0", "split.cuts=[3]").engine
    trained = load_file(place / "short" / "adapter" / "adapter_model.safetensors")
    hidden: torch.Tensor | None = None
    for stage in ours.stages.values():
        for name, weight in lora_parameters(stage.model).items():
            weight.data = trained[name]
        stage.model.eval()
        given = {"input_ids_BT": IDS_BT} if hidden is None else {"hidden_BTC": hidden}
        hidden = stage.model(**given)
    assert torch.equal(hidden, stock(IDS_BT, use_cache=False).logits)

    done = run("export", "short", "--merge", "--to", "merged")
    assert done.exit_code == 0, done.output
    said = "a base in 4 bits and is merged into the base in full"
    assert said in " ".join(done.stderr.split())
    assert said in (place / "merged" / "README.md").read_text()
    name = "model.layers.0.self_attn.k_proj"
    factors = [trained[f"base_model.model.{name}.lora_{side}.weight"] for side in "BA"]
    full = load_file(Path(resolve_source("tiny").folder_or_hub_id) / "model.safetensors")
    merged = load_file(place / "merged" / "model.safetensors")
    expected = full[f"{name}.weight"] + 4 * factors[0] @ factors[1]
    torch.testing.assert_close(merged[f"{name}.weight"], expected)


def test_an_adapter_is_needed(place: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(str(place / "p.yaml"), ["lora=null"])
    assert caught.value.message == (
        "lora: must not be null with model.base_bits 4: weights in 4 bits cannot be trained; "
        "keep the adapter, or set model.base_bits to null"
    )
    assert load_profile(str(place / "p.yaml"), ["lora=null", "model.base_bits=null"])


def test_without_the_package_nothing_is_made(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.chdir(place)
    for more in (["--out", str(tmp_path / "run")], ["--dry-run"]):
        done = run("train", "p.yaml", *more)
        assert done.exit_code == 4
        error, hint = done.stderr.strip().splitlines()
        assert error == (
            "error: model.base_bits: needs bitsandbytes, which cannot be imported "
            "(No module named 'bitsandbytes')"
        )
        assert hint == (
            "hint: pip install bitsandbytes (the extra amaqctl[low-bit]), "
            "or set model.base_bits to null"
        )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="needs bitsandbytes"):
        check_low_bit(4, torch.float32, torch.device("cpu"))


def test_a_machine_that_cannot_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for bits in (8, 4):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            check_low_bit(bits, dtype, cpu)
    with pytest.raises(InputError, match=r"in 4 bits on this machine \(meta\)") as caught:
        check_low_bit(4, torch.float32, torch.device("meta"))
    assert (caught.value.exit_code, caught.value.error_id) == (4, "INPUT-LOW-BIT")
    assert "\n" not in str(caught.value)
    right = low_bit._of_nf4
    monkeypatch.setattr(low_bit, "_of_nf4", lambda layer: -right(layer))
    with pytest.raises(InputError, match="a weight of 1 is wrong by 2"):
        check_low_bit(4, torch.float32, cpu)


@pytest.mark.parametrize("bits, value", [(4, torch.inf), (4, torch.nan), (8, 1e5)])
def test_a_weight_that_has_no_scale(tmp_path: Path, bits: int, value: float) -> None:
    source = save_random_model(CONFIGS["llama"], tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    weights[name][3, 4] = value
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"{name} holds values that are not finite or too large"):
        whole(source, bits)
    assert load_stage(source, StageRange(0, 2, 4), torch.float32, bits).hidden_size == 32


def test_parties_train_what_one_process_does_and_differ_in_words(tmp_path: Path) -> None:
    prepare(tmp_path)
    bits = ["--set", "model.base_bits=4", "--set", "train.max_steps=2"]
    alone = ["train", "p.yaml", *bits, "--set", "transport={name: loopback}", "--out", "alone"]
    assert [code for code, _, _ in ended(start(tmp_path, [alone]))] == [0]
    others = {"client": bits, "server": ["--set", "model.base_bits=8", *bits[2:]]}
    processes = {}
    for name, other in others.items():
        asked = (("run", bits), ("no", other))
        commands = [
            ["train", "p.yaml", *settings, "--party", f"{name}.yaml", "--out", kind]
            for kind, settings in asked
        ]
        processes[name] = start(tmp_path, commands)
    told = {name: ended(process) for name, process in processes.items()}
    assert [done[0][0] for done in told.values()] == [0, 0], told
    found, expected = (
        outcome(*(tmp_path / run for run in runs))
        for runs in (("run/client", "run/server"), ("alone",))
    )
    assert found["adapter"] == expected["adapter"]
    assert found["states"] == expected["states"]
    assert told["client"][1][0] == 4
    assert "the parties differ in model.base_bits: 4 at client, 8 at server" in told["client"][1][2]
    assert not (tmp_path / "no").exists()
