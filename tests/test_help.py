"""`--help` answers at once: it imports nothing that is slow to import."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from amaqctl.cli.main import app

HEAVY = ["torch", "transformers", "peft", "safetensors", "numpy", "pydantic", "ruamel", "psutil"]
HEAVY += ["amaqctl.profile", "amaqctl.build", "amaqctl.quantizer"]
COMMANDS = ["", "train", "eval", "compress-trace", "inspect-bits", "compare", "runs", "export"]
COMMANDS += ["join"]
COMMANDS += ["plugins", "doctor", "profile", "profile list", "profile show", "profile check"]
COMMANDS += ["profile schema", "certs", "certs init", "certs client", "certs show"]

# The helps of all commands one after the other in one process: what one imports is not forgotten.
PROGRAM = """
import sys

import pytest
from typer.testing import CliRunner

from amaqctl.cli.main import app
from typer.main import get_command
from amaqctl.cli.main import app

def leaves(command, prefix):
    yield prefix
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, [*prefix, name])

for words in leaves(get_command(app), []):
    try:
        app([*words, "--help"])
    except SystemExit as end:
        assert not end.code, (words, end.code)
    print("with", *sorted(set(sys.argv[1:]) & set(sys.modules)), "after", *words)
"""


def test_no_help_imports_what_is_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *HEAVY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("with")]
    assert done.stdout.count("Usage: ") == len(shown) == len(COMMANDS)
    assert shown[0] == "with after"
    # Typer itself may take pydantic to the parameters of a command.
    rest = [line.replace("with pydantic", "with") for line in shown[1:]]
    assert rest == [f"with after {words}" for words in COMMANDS[1:]]


def test_a_flag_is_shown_without_a_value() -> None:
    for words in COMMANDS:
        done = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "200"})
        assert done.exit_code == 0
        assert "<bool>" not in done.stdout, words
        assert re.search(r"--help +-h +Show", done.stdout), words
    train = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    assert re.search(r"--dry-run +Tell what", train)
    assert re.search(r"--seed +<int> +Short for", train)


def test_the_module_is_the_program() -> None:
    command = [sys.executable, "-m", "amaqctl", "train", "--bogus"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: no such option: --bogus\nhint: amaqctl train --help\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--sed", "no such option: --sed, did you mean '--seed'?"),
        ("--max-step", "no such option: --max-step, did you mean '--max-steps'?"),
        ("--zzz", "no such option: --zzz"),
        ("--ou", "no such option: --ou, did you mean '--out'?"),
    ],
)
def test_only_what_looks_like_it_is_suggested(typed: str, said: str) -> None:
    result = CliRunner().invoke(app, ["train", typed, "3"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == f"error: {said}"
