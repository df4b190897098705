"""What stands where a result is to be is told before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TINY = ["--set", "model.id=tiny"]
PROGRAM = """
import json, sys
from typer.testing import CliRunner
from amaqctl.cli.main import app
said = []
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    said.append([result.exit_code, result.stderr, heavy])
print(json.dumps(said))
"""
RUN = "{}: exists already; a run is never overwritten"
TRACE = "{}: exists already; a trace is never overwritten"
EXPORT = "{}: exists already and is not empty; nothing is overwritten"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    run = {"schema": "amaqctl.run/1", "id": "ab12", "name": "done", "status": "done"}
    for name, text in {"done/run.json": json.dumps(run), "notes.txt": "x"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "dangling").symlink_to("nowhere")
    return tmp_path


def test_it_is_found_before_torch(place):
    cases = [
        (["train", "quickstart", *TINY, *dry, "--out", out], RUN.format(out))
        for out in ("done", "notes.txt", "dangling")
        for dry in ([], ["--dry-run"])
    ]
    record = ["compress-trace", "--record", "quickstart", *TINY, "--out"]
    cases += [([*record, out], TRACE.format(out)) for out in ("notes.txt", "dangling", "done")]
    cases += [(["export", "./done", "--to", to], EXPORT.format(to)) for to in ("done", "notes.txt")]
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([arguments for arguments, _ in cases])],
        capture_output=True, text=True, check=True, cwd=place,
    )  # fmt: skip
    for (arguments, text), (code, stderr, heavy) in zip(
        cases, json.loads(done.stdout), strict=True
    ):
        assert (code, stderr.splitlines()[0], heavy) == (4, f"error: {text}", []), arguments
    assert sorted(place.rglob("*")) == before
