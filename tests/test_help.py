"""`--help` answers at once: it imports nothing that is slow to import."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ["torch", "transformers", "peft", "safetensors", "numpy", "pydantic", "ruamel", "psutil"]
HEAVY += ["amaqctl.profile", "amaqctl.build", "amaqctl.quantizer"]
COMMANDS = ["", "train", "eval", "compress-trace", "inspect-bits", "compare", "runs", "export"]
COMMANDS += ["plugins", "doctor", "profile", "profile list", "profile show", "profile check"]
COMMANDS += ["profile schema"]

# The helps of all commands one after the other in one process: what one imports is not forgotten.
PROGRAM = """
import sys
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
