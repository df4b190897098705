"""docs/write-a-quantizer.md: its files are the plugin's files, its clauses the kit's."""

import re

import pytest
from pages import DOCS, rows, section

from amaqctl.testing import CLAUSES

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
