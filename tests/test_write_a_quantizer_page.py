"""docs/write-a-quantizer.md: its files are the plugin's files, its clauses the kit's."""

import re
import shlex
import sys

import pytest
from pages import DOCS, rows, section
from typer.testing import CliRunner

from amaqctl import registry
from amaqctl.cli.main import app
from amaqctl.testing import CLAUSES, check_quantizer

PAGE = (DOCS / "write-a-quantizer.md").read_text(encoding="utf-8")
PLUGIN = DOCS.parent / "plugins" / "amaqctl-quant-ternary"
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", PAGE, re.M | re.S))


def test_the_page_has_every_file_that_the_plugin_needs():
    found = {str(p.relative_to(PLUGIN)) for p in PLUGIN.rglob("*.py")} | {"pyproject.toml"}
    assert set(FILES) == found


@pytest.mark.parametrize("name", FILES)
def test_code_of_the_page_is_the_code_of_the_plugin(name):
    assert (PLUGIN / name).read_text(encoding="utf-8") == FILES[name]


def test_the_page_lists_every_clause():
    listed = rows(section(PAGE, "The contract"))
    expected = [[f"`{clause.name}`", clause.promise] for clause in CLAUSES]
    assert listed[-len(expected) :] == expected


COMPOSITION = re.search(r"<!-- composition -->\n```python\n(.*?)^```", PAGE, re.M | re.S)[1]


@pytest.fixture
def hadamard(tmp_path, monkeypatch):
    """The page's composition as a distribution that pip has installed."""
    (tmp_path / "acme_hadamard.py").write_text(COMPOSITION)
    info = tmp_path / "acme_hadamard-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-hadamard\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        "[amaqctl.quantizers]\nhadamard = acme_hadamard:HadamardWrapper\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    registry._all_offers.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    sys.modules.pop("acme_hadamard", None)
    registry._all_offers.cache_clear()


def test_the_composition_is_short():
    assert len([line for line in COMPOSITION.splitlines() if line.strip()]) <= 35


def test_the_composition_keeps_the_contract_around_amaq(hadamard):
    inner = {"name": "amaq", "options": {"target_bits": 3}}
    findings = check_quantizer("hadamard", {"inner": inner}, ["activation"])
    assert not findings, "\n".join(map(str, findings))


def test_the_commands_of_the_composition_do_what_the_page_says(hadamard):
    commands = re.findall(
        r"^amaqctl (.*hadamard.*)$", section(PAGE, "A quantizer in front of another"), re.M
    )
    train, replay = (shlex.split(command) for command in commands)
    tiny = ["--set", "model.id=tiny", "--max-steps", "4", "--out", "run"]
    result = CliRunner().invoke(app, [*train, *tiny], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = ["compress-trace", "--record", "quickstart", "--set", "model.id=tiny"]
    result = CliRunner().invoke(app, [*record, "--out", "my.trace"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [*replay, "--role", "activation"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "hadamard:inner={name: amaq" in result.stdout
