"""A quantizer behind an installed quantizer: options in a profile, with --set and with -q."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_plugins import install
from trace_parts import steps_of, write_trace
from typer.testing import CliRunner

from amaqctl import registry
from amaqctl.cli.main import app

MODULE = '''
from pydantic import Field
from amaqctl.quantizer import QuantizerChoice, Wrapper

class Mirror(Wrapper):
    """Turns signs round."""

    column = "mirrored channel"

    class Config(Wrapper.Config):
        """Options of `mirror`."""
        inner: QuantizerChoice = Field(
            default_factory=lambda: QuantizerChoice(name="amaq", options={"start_bits": 6}),
            description="what sends",
        )

    def transform(self, x, side, context):
        return -x

    def inverse(self, y, side, context):
        return -y

class Lost(Mirror):
    """Its inner quantizer is not installed."""

    class Config(Wrapper.Config):
        """Options of `lost`."""
        inner: QuantizerChoice = Field(
            default_factory=lambda: QuantizerChoice(name="nowhere"), description="what sends"
        )
'''

PROFILE = """\
amaqctl: 1
model: {id: tiny, dtype: float32}
split: {cuts: [4]}
task: {name: word-problems}
train: {max_steps: 2, batch_size: 2}
eval: {every: 2, max_examples: 2}
checkpoint: {every: 2}
quantizers:
  activation:
    name: mirror
    options:
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    site.mkdir()
    points = {"mirror": "acme_mirror:Mirror", "lost": "acme_mirror:Lost"}
    install(site, "acme-mirror", {"acme_mirror.py": MODULE}, {"amaqctl.quantizers": points})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    registry._all_offers.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    sys.modules.pop("acme_mirror", None)
    registry._all_offers.cache_clear()


def run(*arguments: str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    return result.exit_code, [x for x in result.stderr.splitlines() if x.startswith("error: ")]


def profile(place: Path, inner: str, more: str = "") -> None:
    (place / "p.yaml").write_text(f"{PROFILE}      inner: {inner}\n{more}")


FAULTS = {
    "name": ("{name: amak}", 5, "12:15", ".name: unknown quantizer 'amak'"),
    "option": (
        "{name: amaq, options: {target_bit: 3}}",
        3,
        "12:37",
        ".options.target_bit: unknown option of amaq, did you mean 'target_bits'?",
    ),
    "value": (
        "{name: group, options: {bits: 99}}",
        3,
        "12:38",
        ".options.bits: number <= 8 needed, got 99",
    ),
    "key": ("{nam: fixed, name: fixed}", 3, "12:15", ".nam: unknown key, did you mean 'name'?"),
    "no name": ("{}", 3, "12:7", ".name: required key is missing"),
    "text": ("amaq", 3, "12:7", ": mapping needed, got 'amaq'"),
    "deeper": (
        "{name: mirror, options: {inner: {name: fixed, options: {bit: 3}}}}",
        3,
        "12:70",
        ".options.inner.options.bit: unknown option of fixed, did you mean 'bits'?",
    ),
    "deeper name": (
        "{name: mirror, options: {inner: {name: fixt}}}",
        5,
        "12:47",
        ".options.inner.name: unknown quantizer 'fixt'",
    ),
    "default of another": (
        "{name: lost}",
        5,
        "12:7",
        ".options: quantizer 'lost' of acme-mirror 1.2 has another as its default: unknown",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_profile_stands_at_its_own_key(place: Path, fault: str) -> None:
    inner, code, mark, words = FAULTS[fault]
    profile(place, inner)
    for arguments in (["profile", "check", "p.yaml"], ["train", "p.yaml", "--out", "out"]):
        found, lines = run(*arguments)
        assert found == code, lines
        (line,) = lines
        assert f"p.yaml:{mark}: quantizers.activation.options.inner{words}" in line, lines
    assert not (place / "out").exists()


def test_set_changes_the_default_by_parts_and_names_its_key(place: Path) -> None:
    (place / "p.yaml").write_text(PROFILE.replace("    options:\n", ""))
    at = "quantizers.activation.options.inner"
    check = ["profile", "check", "p.yaml", "--set"]
    assert run(*check, f"{at}.options.target_bits=3") == (0, [])
    assert run(*check, f"{at}={{name: fixed}}") == (0, [])
    code, (line,) = run(*check, f"{at}.options.target_bit=3")
    assert code == 3
    assert line.startswith(f"error: --set {at}.options.target_bit=3: {at}.options.target_bit: ")
    assert line.endswith("unknown option of amaq, did you mean 'target_bits'?")
    profile(place, "{name: amaq, options: {target_bits: 3}}")
    assert run(*check, f"{at}.name=group") == (0, [])  # the other one's options go with it
    assert run(*check, f"{at}.name=grup")[0] == 5


def test_q_takes_a_mapping_and_names_its_key(place: Path) -> None:
    write_trace(place / "a.trace", steps_of(2))
    quantizer = "mirror:inner={name: fixed, options: {bits: 3}}"
    result = CliRunner().invoke(app, ["compress-trace", "a.trace", "-q", quantizer, "--json"])
    assert result.exit_code == 0, result.stderr
    code, (line,) = run("compress-trace", "a.trace", "-q", "mirror:inner={name: amak}")
    assert code == 5
    assert "inner.name: unknown quantizer 'amak'" in line
    code, (line,) = run(
        "compress-trace", "a.trace", "-q", "mirror:inner={name: fixed, options: {bit: 3}}"
    )
    assert code == 2
    assert "inner.options.bit: unknown option of fixed, did you mean 'bits'?" in line


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ("", 5, ["unknown quantizer 'amak'"]),
        ("  gradient: {name: grup}\n", 5, ["unknown quantizer 'amak'", "unknown quantizer 'grup'"]),
        (
            "  gradient: {name: group, options: {bit: 3}}\n",
            3,
            ["unknown quantizer 'amak'", "unknown option of group"],
        ),
        ("transport: {name: pigeon}\n", 5, ["unknown quantizer 'amak'", "unknown transport"]),
    ],
)
def test_unknown_names_alone_are_exit_5_and_beside_other_faults_3(
    place: Path, more: str, code: int, words: list[str]
) -> None:
    profile(place, "{name: amak}", more)
    for arguments in (
        ["profile", "check", "p.yaml"],
        ["train", "p.yaml"],
        ["train", "p.yaml", "--dry-run"],
        ["eval", "p.yaml"],
        ["compress-trace", "--record", "p.yaml", "--out", "a.trace"],
    ):
        found, lines = run(*arguments)
        assert found == code, (arguments, lines)
        for word, line in zip(words, lines, strict=True):
            assert word in line


def test_check_of_several_files_tells_of_all(place: Path) -> None:
    profile(place, "{name: amak}")
    (place / "q.yaml").write_text((place / "p.yaml").read_text())
    code, lines = run("profile", "check", "p.yaml", "q.yaml")
    assert (code, len(lines)) == (5, 2)
    (place / "q.yaml").write_text("amaqctl: 1\nmodell: {}\n")
    code, lines = run("profile", "check", "p.yaml", "q.yaml")
    assert code == 3
    assert any("p.yaml" in line and "amak" in line for line in lines)
    assert any("q.yaml" in line and "modell" in line for line in lines)


def test_plugins_shows_an_inner_quantizer_with_its_default(place: Path) -> None:
    result = CliRunner().invoke(app, ["plugins", "mirror", "--json"])
    assert json.loads(result.stdout)["data"]["options"] == [
        {
            "option": "inner",
            "type": "quantizer: name and options",
            "default": '{"name": "amaq", "options": {"start_bits": 6.0}}',
            "description": "what sends",
        }
    ]
    code, (line,) = run("plugins", "lost")
    assert code == 5
    assert "quantizer 'lost' of acme-mirror 1.2" in line
    assert "unknown quantizer 'nowhere'" in line


def test_what_a_run_was_made_with_is_named_once_it_is_gone(place: Path) -> None:
    profile(place, "{name: fixed}")
    code, lines = run("train", "p.yaml", "--out", "out")
    assert code == 0, lines
    kept = json.loads((place / "out" / "environment.json").read_text())["plugins"]
    assert kept["mirror"] == {"distribution": "acme-mirror", "version": "1.2"}
    shutil.copytree("out", "again")
    run_json = place / "again" / "run.json"
    run_json.write_text(run_json.read_text().replace('"seed": 17', '"seed": 18'))
    profile_yaml = place / "again" / "profile.yaml"
    profile_yaml.write_text(profile_yaml.read_text().replace("seed: 17", "seed: 18"))
    sys.path.remove(str(place / "site"))
    registry._all_offers.cache_clear()
    for arguments in (["eval", "out"], ["train", "--resume", "out", "--max-steps", "4"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 5, result.stderr
        assert "unknown quantizer 'mirror'" in result.stderr
        assert (
            "hint: when the run was made, 'mirror' came from acme-mirror 1.2: install it again"
            in result.stderr
        )
    for arguments in (["inspect-bits", "out"], ["compare", "out", "again"], ["runs", "out"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.stderr)
    to = ["export", "out", "--to", "adapter"]
    assert CliRunner().invoke(app, to).exit_code == 0
    # Version 0.1.0 kept the distributions only.
    file = place / "out" / "environment.json"
    old = json.loads(file.read_text()) | {"plugins": {"acme-mirror": "1.2"}}
    file.write_text(json.dumps(old))
    result = CliRunner().invoke(app, ["eval", "out"])
    assert "hint: when the run was made, acme-mirror 1.2 was installed: " in result.stderr
