"""docs/write-a-task.md and write-a-transport.md: their packages, installed, do what they say."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
from installed_plugins import install
from pages import DOCS, rows, section

from amaqctl.tasks.task import Example

PAGES = {name: (DOCS / f"write-a-{name}.md").read_text("utf-8") for name in ("task", "transport")}


def files_of(page: str) -> dict[str, str]:
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", page, re.M | re.S))


@pytest.mark.parametrize("name", PAGES)
def test_the_package_of_the_page_runs_as_written(name, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    work.mkdir()
    files = files_of(PAGES[name])
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    install(site, project["name"], files, project["entry-points"])
    [command] = re.findall(r"<!-- command -->\n```sh\n(.*?)```", PAGES[name], re.S)
    program = f"{sys.executable} -m amaqctl.cli.start"
    done = subprocess.run(
        command.replace("amaqctl ", f"{program} ", 1),
        shell=True,
        cwd=work,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    if name == "task":
        assert "200 train, 40 validation" in done.stdout
        assert re.search(r"[a-j]{4} ->\[ [a-j]{4}", done.stdout)
        assert "in train too" not in done.stderr
    else:
        assert "done after 2 steps" in done.stdout
        assert list((work / "messages").iterdir()) == []  # every message was received


def test_the_task_page_lists_every_field_of_an_example():
    listed = [row[0] for row in rows(section(PAGES["task"], "The contract"))]
    assert {f"`{name}`" for name in Example.__dataclass_fields__} <= set(listed)
