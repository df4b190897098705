"""What a plugin does wrong is told by its name, through every door."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from trace_parts import steps_of, write_trace
from typer.testing import CliRunner

from amaqctl import registry
from amaqctl.cli.main import app
from amaqctl.health import examination

MODULE = """
import os, sys, torch
from pathlib import Path
from pydantic import Field
from amaqctl.quantizer import (BitReport, Layout, QuantizedTensor, Quantizer, QuantizerConfig,
                               SideLayout)

class Faulty(Quantizer):
    "Raw values, and one fault at a place that an option names."

    class Config(QuantizerConfig):
        at: str = Field("nowhere", description="where it fails")
        late: bool = Field(False, description="only in cached generation")

    def __init__(self, config, site):
        super().__init__(config, site)
        self.fail("init")

    def fail(self, at, context=None):
        broken = Path("broken").read_text() if os.path.exists("broken") else None
        if at not in (self.config.at, broken):
            return
        if self.config.late and (context is None or not context.first_position):
            return
        raise ZeroDivisionError("planned")

    def quantize(self, x, context):
        self.fail("quantize", context)
        at = self.config.at
        if at == "exit":
            sys.exit(3)
        if at == "none":
            return None
        if at == "text":
            return "a tensor"
        if at == "other-shape":
            return QuantizedTensor((1, *x.shape), x.dtype, None, {"raw": x})
        raw = x.contiguous()
        if at == "nan-side":
            raw = raw * torch.nan
        if at == "huge-side":
            raw = torch.zeros(2**24)
        if at == "undeclared":
            return QuantizedTensor(tuple(x.shape), x.dtype, None, {"raw": raw, "more": raw})
        return QuantizedTensor(tuple(x.shape), x.dtype, None, {"raw": raw})

    def dequantize(self, quantized, context):
        self.fail("dequantize", context)
        at, raw = self.config.at, quantized.side["raw"]
        if at == "decoded-nan":
            return raw * torch.nan
        if at == "decoded-none":
            return None
        if at == "decoded-shape":
            return raw.reshape(-1)
        if at == "refuses":
            from amaqctl.errors import QuantizationError
            raise QuantizationError("not mine")
        if at == "network":
            from amaqctl.errors import TransportError
            raise TransportError("the line is down")
        return raw

    def layout(self, shape, dtype, context, allocation):
        self.fail("layout", context)
        if self.config.at == "layout-kind":
            return {"raw": shape}
        if self.config.at == "huge-side":
            return None
        return Layout(None, {"raw": SideLayout(dtype, tuple(shape))})

    def surrogate(self, x, context):
        self.fail("surrogate", context)
        at = self.config.at
        if at == "surrogate-shape":
            return x[..., :1]
        if at == "surrogate-detached":
            return x.detach()
        if at == "surrogate-none":
            return None
        if at == "surrogate-nan":
            return x * torch.nan
        if at == "hook":
            watched = x.view_as(x)
            watched.register_hook(lambda grad: self.fail("hook", context))
            return watched
        return x

    def penalty(self, context):
        self.fail("penalty", context)
        return {"penalty-vector": torch.ones(3), "penalty-nan": torch.tensor(float("nan")),
                "penalty-text": "1"}.get(self.config.at)

    def param_groups(self):
        self.fail("param_groups")
        if self.config.at == "strange-group":
            return [{"params": [torch.nn.Parameter(torch.ones(1))]}]
        if self.config.at == "group-kind":
            return [torch.ones(1)]
        return []

    def state_dict(self, *args, **kwargs):
        self.fail("state_dict")
        state = super().state_dict(*args, **kwargs)
        if self.config.at == "state-kind":
            state["note"] = "text"
        return state

    def load_state_dict(self, *args, **kwargs):
        self.fail("load_state_dict")
        return super().load_state_dict(*args, **kwargs)

    def report(self):
        self.fail("report")
        return {
            "report-kind": {},
            "report-column": BitReport(column="two\\nlines"),
            "report-target": BitReport(target_bits=float("nan")),
            "report-range": BitReport(range_K=torch.full((3,), torch.nan)),
            "report-energy": BitReport(gradient_energy_K=[1.0]),
        }.get(self.config.at, BitReport())

def function(config, site):
    return Faulty(config, site)

class NoQuantizer:
    Config = Faulty.Config
"""

PROFILE = """
amaqctl: 1
model: {id: tiny, dtype: float32}
split: {cuts: [4]}
task: {name: word-problems}
train: {max_steps: 2, batch_size: 2, micro_batches: 2}
eval: {every: 2, max_examples: 2}
checkpoint: {every: 2}
"""

NAMED = "quantizer 'faulty' of faulty-plugin 1.2"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the profile, in which the plugin is installed."""
    site = tmp_path / "site"
    info = site / "faulty_plugin-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "faulty_plugin.py").write_text(textwrap.dedent(MODULE))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-plugin\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[amaqctl.quantizers]\nfaulty = faulty_plugin:Faulty\n"
        "function = faulty_plugin:function\nstranger = faulty_plugin:NoQuantizer\n"
    )
    (tmp_path / "p.yaml").write_text(PROFILE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    registry._all_offers.cache_clear()
    yield tmp_path
    registry._all_offers.cache_clear()


def run(*arguments: str) -> tuple[int, str]:
    """Exit code, and what was said on stderr; with --json the document names the same fault."""
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    return result.exit_code, result.stderr


def blamed(said: str) -> str:
    """The one error line."""
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in said
    assert "bug in amaqctl" not in said
    return line


def using(at: str, role: str = "activation", **options: object) -> list[str]:
    text = json.dumps({"name": "faulty", "options": {"at": at, **options}})
    return ["--set", f"quantizers.{role}={text}"]


@pytest.mark.parametrize(
    ("at", "method", "where"),
    [
        ("init", "failed in __init__: ZeroDivisionError: planned", "link 0 activation"),
        ("quantize", "failed in quantize: ZeroDivisionError: planned", "step 0"),
        ("exit", "failed in quantize: SystemExit: 3", "step 0"),
        ("none", "returned None, no QuantizedTensor (quantize)", "step 0"),
        ("text", "returned a str, no QuantizedTensor (quantize)", "step 0"),
        ("other-shape", "of shape (1, 2,", "step 0"),
        ("nan-side", "side tensor 'raw' holds NaN or infinity (quantize)", "step 0"),
        ("undeclared", "a side tensor 'more' where there are raw (quantize)", "step 0"),
        ("dequantize", "failed in dequantize: ZeroDivisionError: planned", "step 0"),
        ("decoded-none", "returned None, no tensor (dequantize)", "step 0"),
        ("decoded-shape", "(dequantize)", "step 0"),
        ("network", "failed in dequantize: TransportError: the line is down", "step 0"),
        ("layout", "failed in layout: ZeroDivisionError: planned", "step 0"),
        ("layout-kind", "returned a dict, no Layout (layout)", "step 0"),
        ("surrogate", "failed in surrogate: ZeroDivisionError: planned", "step 0"),
        ("surrogate-shape", "(surrogate)", "step 0"),
        ("surrogate-detached", "passes no gradient on to its input (surrogate)", "step 0"),
        ("surrogate-none", "returned None, no tensor (surrogate)", "step 0"),
        ("surrogate-nan", "made NaN or infinity (the backward pass of surrogate)", "step 0"),
        ("hook", "the backward pass of surrogate: ZeroDivisionError: planned", "step 0"),
        ("penalty", "failed in penalty: ZeroDivisionError: planned", "step 0"),
        ("penalty-vector", "no scalar tensor (penalty)", "step 0"),
        ("penalty-nan", "returned nan (penalty)", "step 0"),
        ("penalty-text", "returned a str, no scalar tensor (penalty)", "step 0"),
        ("param_groups", "failed in param_groups: ZeroDivisionError: planned", ""),
        ("strange-group", "a parameter that is none of its own", ""),
        ("group-kind", "failed in param_groups", ""),
        ("state_dict", "failed in state_dict: ZeroDivisionError: planned", ""),
        ("state-kind", "keeps a str as 'note', no tensor (state_dict)", ""),
        ("report", "failed in report: ZeroDivisionError: planned", ""),
        ("report-kind", "returned a dict, no BitReport (report)", ""),
        ("report-column", "no column of one short line (report)", ""),
        ("report-target", "no finite target_bits (report)", ""),
        ("report-range", "no range_K that is a finite vector (report)", ""),
        ("report-energy", "no gradient_energy_K that is a finite vector (report)", ""),
    ],
)
def test_a_fault_in_training_names_plugin_method_and_step(
    place: Path, at: str, method: str, where: str
) -> None:
    code, said = run("train", "p.yaml", *using(at), "--out", "out")
    line = blamed(said)
    assert code == 5, said
    assert NAMED in line
    assert method in line
    assert where in line


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("huge-side", "a side tensor 'raw' of 16777216 values"),
        ("refuses", "not mine"),
        ("decoded-nan", "decodes to NaN or infinity"),
    ],
)
def test_what_a_quantizer_makes_in_one_process_is_not_the_networks_fault(
    place: Path, at: str, words: str
) -> None:
    code, said = run("train", "p.yaml", *using(at), "--out", "out")
    assert code == 5, said
    assert words in blamed(said)
    assert "link 0 activation step 0" in blamed(said)


@pytest.mark.parametrize("role", ["activation", "gradient"])
def test_gradients_are_blamed_alike(place: Path, role: str) -> None:
    code, said = run("train", "p.yaml", *using("dequantize", role), "--out", "out")
    assert code == 5
    assert NAMED in blamed(said)
    assert f"link 0 {role} step 0" in blamed(said)


def test_a_fault_in_cached_generation(place: Path) -> None:
    code, said = run("train", "p.yaml", *using("quantize", late=True), "--out", "out")
    assert code == 5
    assert "failed in quantize" in blamed(said)


def test_a_fault_in_a_dry_run_and_in_replay(place: Path) -> None:
    code, said = run("train", "p.yaml", *using("surrogate"), "--dry-run")
    assert code == 5
    assert NAMED in blamed(said)
    write_trace(place / "a.trace", steps_of(2))
    result = CliRunner().invoke(
        app, ["compress-trace", "a.trace", "-q", "faulty:at=dequantize", "-q", "group"]
    )
    assert result.exit_code == 5
    assert NAMED in blamed(result.stderr)
    assert "group" in result.stdout
    assert "faulty:at=dequantize failed: " in result.stdout


def test_a_plugin_that_broke_since_is_blamed_through_every_door_that_needs_it(place: Path) -> None:
    code, said = run("train", "p.yaml", *using("nowhere", late=True), "--out", "out")
    assert code == 0, said
    evaluate = ["eval", "out", "--set", "quantizers.activation.options.late=false"]
    for broken, method in [
        ("init", "__init__"),
        ("load_state_dict", "load_state_dict"),
        ("quantize", "quantize"),
        ("layout", "layout"),
        ("dequantize", "dequantize"),
    ]:
        (place / "broken").write_text(broken)
        code, said = run(*evaluate)
        assert code == 5, (broken, said)
        assert NAMED in blamed(said)
        assert f"failed in {method}: ZeroDivisionError: planned" in blamed(said)
    code, said = run("eval", "out")  # with late: in cached generation only
    assert code == 5
    assert "failed in dequantize" in blamed(said)
    for command in (["export", "out", "--to", "a"], ["inspect-bits", "out"], ["runs", "out"]):
        code, said = run(*command)
        assert code == 0, (command, said)
    shown = CliRunner().invoke(app, ["inspect-bits", "out"]).stdout
    assert re.search(r"^cut\d+\.act  no codes, \d+\.\d\d bits a value$", shown, re.MULTILINE)


@pytest.mark.parametrize("broken", ["load_state_dict", "quantize"])
def test_a_resume_with_a_plugin_that_broke_since(place: Path, broken: str) -> None:
    code, said = run("train", "p.yaml", *using("nowhere"), "--out", "out")
    assert code == 0, said
    (place / "broken").write_text(broken)
    code, said = run("train", "--resume", "out", "--max-steps", "4")
    assert code == 5, said
    assert NAMED in blamed(said)
    assert f"failed in {broken}: ZeroDivisionError: planned" in blamed(said)


def test_doctor_blames_a_plugin_and_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "two_steps", list)
    result = CliRunner().invoke(app, ["doctor", "--strict", "--json"])
    assert result.exit_code == 8, result.stderr
    found = {f["name"]: f for f in json.loads(result.stdout)["data"]["findings"]}
    assert found["quantizers"]["state"] == "fault"
    for name in ("function", "stranger"):
        assert any(
            f"'{name}' of faulty-plugin 1.2 is no subclass of amaqctl.quantizer.Quantizer" in fault
            for fault in found["quantizers"]["data"]["faults"]
        )
    assert len(found["quantizers"]["data"]["faults"]) == 2
    assert (found["tasks"]["state"], found["transports"]["state"]) == ("ok", "ok")


@pytest.mark.parametrize("name", ["function", "stranger"])
def test_an_entry_point_that_is_no_quantizer(place: Path, name: str) -> None:
    for arguments in (
        ["train", "p.yaml", "--set", f"quantizers.activation={{name: {name}}}"],
        ["profile", "check", "p.yaml"],
        ["plugins", name],
        ["plugins", name, "--check"],
    ):
        if arguments[0] == "profile":
            (place / "p.yaml").write_text(
                PROFILE + f"quantizers: {{activation: {{name: {name}}}}}\n"
            )
        code, said = run(*arguments)
        assert code == 5, (arguments, said)
        assert "is no subclass of amaqctl.quantizer.Quantizer" in blamed(said)
        assert "faulty-plugin 1.2" in blamed(said)
