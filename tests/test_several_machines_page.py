"""The page about several machines, run as it is written, a process for each machine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS
from party_processes import ended, start
from transport_parts import free_port

PAGE = (DOCS / "several-machines.md").read_text(encoding="utf-8")


def commands(machine: str) -> list[list[str]]:
    """What the page has a machine do, in its order, without the program's name."""
    blocks = re.findall(rf"<!-- command: {machine} -->\n```sh\n(.*?)```", PAGE, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """All files of the page, with a port that is free here."""
    port = str(free_port())
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```yaml\n(.*?)```", PAGE, re.S):
        (tmp_path / name).write_text(text.replace("7700", port))
    rows = [{"prompt": f"Q {i}?", "completion": f"A {i}."} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_two_organisations(place: Path) -> None:
    server, client = commands("server"), commands("client")
    assert (len(server), len(client)) == (4, 2)
    assert {words[0] for words in server + client} == {"amaqctl"}
    *prepared, first, second = [words[1:] for words in server]
    assert [code for code, _, _ in ended(start(place, prepared))] == [0, 0]
    for on_server, on_client in ((first, client[0][1:]), (second, client[1][1:])):
        both = [start(place, [on_server]), start(place, [on_client])]
        for process in both:
            ((code, _, err),) = ended(process)
            assert code == 0, err
    for name in ("client", "server"):
        run = json.loads((place / "run" / name / "run.json").read_text())
        assert (run["status"], run["result"]["steps"]) == ("done", 6)
    joined = [words[1:] for words in commands("joined")]
    assert [code for code, _, _ in ended(start(place, joined))] == [0, 0]
    assert (place / "model" / "model.safetensors").exists()


def test_several_clients(place: Path) -> None:
    init = commands("server")[0][1:]
    *prepared, hub, anna, ben = [words[1:] for words in commands("clients")]
    (place / "ben.yaml").write_text((place / "anna.yaml").read_text().replace("anna", "ben"))
    assert [code for code, _, _ in ended(start(place, [init, *prepared]))] == [0, 0, 0]
    for process in [start(place, [asked]) for asked in (hub, anna, ben)]:
        ((code, _, err),) = ended(process)
        assert code == 0, err
    for name in ("anna", "ben", "server/anna", "server/ben"):
        run = json.loads((place / "several" / name / "run.json").read_text())
        assert (run["status"], run["result"]["steps"]) == ("done", 4)


def test_a_cluster(place: Path) -> None:
    ((program, *words),) = commands("cluster")
    assert (program, words[:2]) == ("torchrun", ["--nproc-per-node", "3"])
    profile = (place / "profile.yaml").read_text()
    (place / "profile.yaml").write_text(profile.replace("name: grpc", "name: distributed"))

    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for name in ("front", "middle", "back"):
        run = json.loads((place / "run" / name / "run.json").read_text())
        assert (run["status"], run["result"]["steps"]) == ("done", 4)


def test_what_it_says_of_privacy_stands_in_the_readme_too() -> None:
    readme = " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split())
    assert "no guarantee of privacy" in PAGE
    assert "a guarantee of privacy: who sees hidden states sees much" in readme
