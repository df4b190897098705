"""What Typer finds wrong with a command line, said as amaqctl says it: one line, hint, document.

Typer's own errors are a drawn box, and no JSON. They are told by what they can do, not by their
class, which has moved between Typer's versions.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any

from amaqctl.cli.console.commands import Group
from amaqctl.cli.console.session import Session
from amaqctl.cli.console.streams import READER_GONE
from amaqctl.errors import UsageError


class Commands(Group):
    """The root of the commands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; ends the program with the documented exit code."""
        typed = [_with_home(word) for word in (sys.argv[1:] if args is None else args)]
        try:
            code = super().main(typed, prog_name, complete_var, False, windows_expand_args, **extra)
        except SystemExit:  # so ends a help whose reader has gone; nothing else does
            sys.exit(READER_GONE)
        except Exception as error:
            if not (standalone_mode and hasattr(error, "format_message")):
                raise
            sys.exit(_explain(error, typed))
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _with_home(word: str) -> str:
    """A path with ``~`` replaced where the shell has not done it, as in ``--out=~/run``."""
    option, equals, value = word.partition("=")
    if word.startswith("--") and value.startswith("~"):
        return f"{option}{equals}{os.path.expanduser(value)}"
    return os.path.expanduser(word)


def _explain(error: Any, typed: Sequence[str]) -> int:
    """Print the error unless it was the help that was wanted; returns the exit code."""
    code = int(error.exit_code)
    if type(error).__name__ == "NoArgsIsHelpError":  # Typer has printed the help
        return code
    context = getattr(error, "ctx", None)
    words = context.command_path.split()[1:] if context else []
    # `python -m amaqctl.cli.main` puts its own words in front.
    names = [word for word in words if word in typed]
    message = _message(error)
    schema = "-".join(["amaqctl.", *names]).replace(".-", ".") if names else "amaqctl"
    session = Session(f"{schema}/1", "--json" in typed, False, sys.stdout)
    hint = " ".join(["amaqctl", *names, "--help"])
    session.failure(UsageError(message, hint=hint))
    return code


def _message(error: Any) -> str:
    possible = getattr(error, "possibilities", None)
    if possible is not None:  # of options; Typer compares them with their dashes
        near = difflib.get_close_matches(
            error.option_name.strip("-"), [o.strip("-") for o in possible], n=1, cutoff=0.65
        )
        guess = f", did you mean '--{near[0]}'?" if near else ""
        return f"no such option: {error.option_name}{guess}"
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    return message[:1].lower() + message[1:]
