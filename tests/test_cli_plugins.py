"""`amaqctl plugins` with real distributions on the path: whole, broken, and two of one name."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaqctl import registry
from amaqctl.cli.main import app
from amaqctl.testing import CLAUSES, check_quantizer

QUANTIZER = '''
"""{name}"""
import torch
from pydantic import Field
from amaqctl.quantizer import Layout, QuantizedTensor, Quantizer, QuantizerConfig, SideLayout

class Mine(Quantizer):
    """Sends float32 values as they are."""

    class Config(QuantizerConfig):
        """Options."""
        level: int = Field(3, ge=1, le=9, description="how much")
        kind: str | None = Field(None, description="of what")

    def layout(self, shape, dtype, context, allocation):
        return Layout(None, {{"x": SideLayout(dtype, shape)}})

    def quantize(self, x, context):
        return QuantizedTensor(tuple(x.shape), x.dtype, None, {{"x": {sent}}})

    def dequantize(self, quantized, context):
        return quantized.side["x"].to(quantized.dtype)
'''


def install(folder: Path, distribution: str, name: str, code: str, target: str = "Mine") -> None:
    """A distribution as pip leaves it: a module and a dist-info folder."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
    (info / "METADATA").write_text(metadata)
    points = f"[amaqctl.quantizers]\n{name} = {module}:{target}\n"
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder on the path; what is installed into it is seen at once."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._all_offers.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for module in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[module]
    registry._all_offers.cache_clear()


def plugins(*arguments: str):
    return CliRunner().invoke(app, ["plugins", *arguments], catch_exceptions=False)


def listed(result) -> dict[str, dict]:
    document = json.loads(result.stdout)
    return {f"{q['name']} {q['from']}": q for q in document["data"]["quantizers"]}


def test_listing_names_state_origin_and_version_and_imports_nothing(site):
    install(site, "acme-broken", "crash", "raise SystemExit('imported')")
    found = listed(plugins("--json"))
    assert found["crash acme-broken"] == {
        "name": "crash",
        "state": "installed",
        "from": "acme-broken",
        "version": "1.2",
    }
    assert found["amaq built in"]["state"] == "installed"
    lines = plugins().stdout.splitlines()
    assert lines[0] == "name\tstate\tfrom\tversion"
    assert "crash\tinstalled\tacme-broken\t1.2" in lines


@pytest.mark.parametrize(
    "code, target, words",
    [
        ("import no_such_module", "Mine", "No module named 'no_such_module'"),
        ("Other = 1", "Mine", "has no attribute 'Mine'"),
        ("def Mine(): pass", "Mine", "is no subclass of amaqctl.quantizer.Quantizer"),
    ],
)
def test_a_broken_one_is_named_and_the_rest_goes_on(site, code, target, words):
    install(site, "acme-broken", "crash", code, target)
    shown = plugins("crash", "--json")
    assert shown.exit_code == 5
    error = json.loads(shown.stdout)["error"]
    assert error["id"] == "PLUGIN-BROKEN"
    assert "acme-broken 1.2" in error["message"]
    assert words in error["message"]
    assert plugins("fixed").exit_code == 0
    assert plugins("crash", "--check").exit_code == 5


def test_two_of_one_name_are_both_listed_and_refused(site):
    for distribution in ("acme-one", "acme-two"):
        install(site, distribution, "twice", QUANTIZER.format(name="twice", sent="x"))
    result = plugins("--json")
    found = listed(result)
    assert found["twice acme-one"]["state"] == found["twice acme-two"]["state"] == "duplicate"
    (warning,) = json.loads(result.stdout)["warnings"]
    assert warning == "quantizer 'twice' is offered twice, by acme-one 1.2 and acme-two 1.2"
    shown = plugins("twice")
    assert shown.exit_code == 5
    assert "acme-one 1.2 and acme-two 1.2" in shown.stderr


def test_options_have_type_default_and_description(site):
    install(site, "acme-mine", "mine", QUANTIZER.format(name="mine", sent="x"))
    shown = json.loads(plugins("mine", "--json").stdout)["data"]
    assert shown == {
        "name": "mine",
        "from": "acme-mine",
        "version": "1.2",
        "summary": "Sends float32 values as they are.",
        "options": [
            {
                "option": "level",
                "type": "integer from 1 to 9",
                "default": "3",
                "description": "how much",
            },
            {
                "option": "kind",
                "type": "string | null",
                "default": "null",
                "description": "of what",
            },
        ],
    }
    assert plugins("mine").stdout.splitlines()[1] == "level\tinteger from 1 to 9\t3\thow much"


def test_check_of_one_that_keeps_the_contract(site):
    install(site, "acme-mine", "mine", QUANTIZER.format(name="mine", sent="x.contiguous()"))
    result = plugins("mine", "--check", "--json")
    assert result.exit_code == 0, result.stderr
    (checked,) = json.loads(result.stdout)["data"]["quantizers"]
    assert (checked["state"], checked["fault"]) == ("ok", None)
    assert len(checked["clauses"]) == len(CLAUSES)
    assert not any(clause["findings"] for clause in checked["clauses"])


def test_check_of_one_that_breaks_it_says_where_and_exits_8(site):
    install(
        site, "acme-half", "half", QUANTIZER.format(name="half", sent="x.half().to(x.dtype) + 1")
    )
    result = plugins("half", "--check", "--json")
    assert result.exit_code == 8
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["error"]["id"] == "CHECK-CONTRACT"
    (checked,) = document["data"]["quantizers"]
    shapes = next(c for c in checked["clauses"] if c["clause"] == "shapes")
    assert shapes["findings"][0] == {
        "subject": "half-activation",
        "case": "torch.float32, every value 0.0",
        "expected": "zeros, as padding is sent",
        "got": "values up to 1.0",
    }
    text = plugins("half", "--check")
    assert text.exit_code == 8
    assert "half\tfailed\t" in text.stdout
    assert "  expected zeros, as padding is sent\n  got      values up to 1.0" in text.stdout
    assert text.stderr.splitlines()[-1] == "error: the contract is not kept by half"


SENT_AT = """
def sent_at(level, x):
    return x + 1 if level == 9 else x.contiguous()
"""


def with_sets(declared: str) -> str:
    """Keeps the contract but for level 9; declares which levels are to be checked."""
    text = QUANTIZER.format(name="sets", sent="sent_at(self.config.level, x)")
    head, class_line, rest = text.partition("class Mine(Quantizer):\n")
    return f"{SENT_AT}{head}{class_line}    option_sets = {declared}\n{rest}"


def test_a_name_alone_is_checked_with_what_the_plugin_declares(site):
    install(site, "acme-sets", "sets", with_sets('({}, {"level": 9})'))
    result = plugins("sets", "--check", "--json")
    assert result.exit_code == 8
    (checked,) = json.loads(result.stdout)["data"]["quantizers"]
    subjects = {f["subject"] for clause in checked["clauses"] for f in clause["findings"]}
    assert subjects == {"sets-activation-level=9", "sets-gradient-level=9"}
    assert "checking sets with 2 sets of options …" in plugins("sets", "--check").stderr
    assert [f.subject for f in check_quantizer("sets", {"level": 3})] == []
    assert {f.subject for f in check_quantizer("sets")} == subjects


def test_options_that_are_typed_are_checked_alone(site):
    install(site, "acme-sets", "sets", with_sets('({}, {"level": 9})'))
    assert plugins("sets:level=3", "--check").exit_code == 0
    failed = plugins("sets:{level: 9}", "--check")
    assert failed.exit_code == 8
    assert "sets-activation-level=9" in failed.stdout


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (
            "sets:level=10",
            2,
            "plugins sets:level=10: level: Input should be less than or equal to 9",
        ),
        ("sets:leve=1", 2, "plugins sets:leve=1: unknown option 'leve'"),
        ("sets:level", 2, "plugins sets:level: 'level' is no KEY=VALUE"),
        ("setz:level=1", 5, "unknown quantizer 'setz'"),
    ],
)
def test_a_slip_in_what_is_to_be_checked_is_told(site, asked, code, said):
    install(site, "acme-sets", "sets", with_sets("({},)"))
    result = plugins(asked, "--check")
    assert result.exit_code == code
    assert result.stderr.splitlines()[0].startswith(f"error: {said}"), result.stderr


def test_options_without_a_check_are_refused(site):
    result = plugins("fixed:bits=3")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: options of fixed are given to be checked",
        "hint: add --check, or leave them out",
    ]


@pytest.mark.parametrize("declared", ["3", "()", '{"level": 1}', "(3,)"])
def test_declared_sets_that_are_none_are_the_plugins_fault(site, declared):
    install(site, "acme-sets", "sets", with_sets(declared))
    result = plugins("sets", "--check", "--json")
    assert result.exit_code == 8
    (checked,) = json.loads(result.stdout)["data"]["quantizers"]
    assert checked["state"] == "broken"
    assert "'sets' of acme-sets 1.2 declares option_sets that are no" in checked["fault"]


def test_check_of_all_survives_broken_and_doubled_ones(site):
    install(site, "acme-broken", "crash", "import no_such_module")
    install(site, "acme-mine", "mine", QUANTIZER.format(name="mine", sent="x.contiguous()"))
    for distribution in ("acme-one", "acme-two"):
        install(site, distribution, "twice", QUANTIZER.format(name="twice", sent="x"))
    result = plugins("--check", "--json")
    assert result.exit_code == 8
    states = {key: q["state"] for key, q in listed_failed(result).items()}
    assert states["crash acme-broken"] == "broken"
    assert states["mine acme-mine"] == "ok"
    assert states["twice acme-one"] == states["twice acme-two"] == "duplicate"
    assert states["none built in"] == "ok"


def listed_failed(result) -> dict[str, dict]:
    document = json.loads(result.stdout)
    assert document["error"]["message"].startswith("the contract is not kept by ")
    return {f"{q['name']} {q['from']}": q for q in document["data"]["quantizers"]}


def test_only_built_in_ones_without_plugins(site, monkeypatch):
    install(site, "acme-mine", "mine", "Mine = 1")
    monkeypatch.setenv("AMAQCTL_NO_PLUGINS", "1")
    assert "mine acme-mine" not in listed(plugins("--json"))
