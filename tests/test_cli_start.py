"""Ctrl-C before anything runs: real signals to real processes, at places and not at times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

STOPPED = "error: stopped at once; what was saved before is whole\n"

# The program as its console script starts it, but that it waits, or only goes on, at an import.
PROGRAM = """
import sys, time
wanted, goes_on = sys.argv.pop(1), sys.argv.pop(1) == "goes on"

class Waiting:
    number = -1

    def find_spec(self, name, path=None, target=None):
        self.number += 1
        if wanted in (name, str(self.number)):
            print(name, file=sys.__stdout__, flush=True)
            sys.stdin.readline() if goes_on else time.sleep(60)

from amaqctl.cli.start import main
sys.meta_path.insert(0, Waiting())
main()
"""


def listening() -> None:
    """A shell's background job, as CI may be, starts its children with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ignoring() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def interrupted_at(place: str, *arguments: str, ignores: bool = False) -> tuple[int, str, str]:
    """Exit code, stdout after the name of the module it waited at, and stderr.

    Args:
        place: a module, or how many imports come before it.
        ignores: whether the process ignores SIGINT; it is then told to go on after it.
    """
    how = "goes on" if ignores else "waits"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, place, how, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        preexec_fn=ignoring if ignores else listening,
    ) as process:
        assert process.stdout.readline(), process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate("\n", timeout=60)
    return process.returncode, out, error


@pytest.mark.parametrize("number", [0, 1, 20, 60, 100, 140, 180])
def test_while_python_loads_the_program(number: int) -> None:
    assert interrupted_at(str(number), "--help") == (130, "", STOPPED)


@pytest.mark.parametrize("module", ["typer", "rich.console", "amaqctl.cli.console.typed_wrongly"])
def test_while_a_library_is_loaded(module: str) -> None:
    assert interrupted_at(module, "--help") == (130, "", STOPPED)


def test_while_a_command_is_loaded() -> None:
    """Past the hand-over to the handler that remembers."""
    assert interrupted_at("amaqctl.profile", "profile", "list") == (130, "", STOPPED)


def test_a_process_that_ignores_it_goes_on() -> None:
    code, out, error = interrupted_at("typer", "--version", ignores=True)
    assert (code, error) == (0, "")
    assert out.count(".") == 2


def test_the_console_script_starts_there_and_nothing_slow_comes_before() -> None:
    path = Path(__file__).parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    assert project["scripts"] == {"amaqctl": "amaqctl.cli.start:main"}
    program = "import sys, amaqctl.cli.start; sys.exit('typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
