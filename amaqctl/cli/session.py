"""What every command shares: where output goes, and how an error ends the program.

stdout carries the result and nothing else; whatever a library prints meanwhile goes to stderr.
With ``--json`` stdout is exactly one document, on failure too.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import traceback as traceback_module
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn, TextIO

import typer

from amaqctl.errors import AmaqError, ProfileError, ResourceError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare result only.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the stack of an error.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the profile; repeatable."),
]


@dataclass
class Session:
    """One command's output.

    Args:
        schema: name of the JSON document, such as ``amaqctl.train/1``.
        json, quiet: as asked for on the command line.
        stdout: the real standard output.
    """

    schema: str
    json: bool
    quiet: bool
    stdout: TextIO
    warnings: list[str] = field(default_factory=list)

    def result(self, data: dict[str, Any], text: str, bare: str) -> None:
        """Print the result: the JSON document, the bare value (quiet), or the text."""
        if self.json:
            self._print_document(
                {"ok": True, "data": self._without_nan(data), "warnings": self.warnings}
            )
        else:
            print(bare if self.quiet else text, file=self.stdout)

    def note(self, text: str) -> None:
        """A line for the person at the terminal, on stderr; left out when quiet."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """A warning: on stderr, and in the JSON document."""
        self.warnings.append(text)
        print(f"warning: {text}", file=sys.stderr)

    def failure(self, error: AmaqError) -> None:
        """Print an error: one line, its hint, and in JSON the document."""
        if isinstance(error, ProfileError) and error.problems:
            for problem in error.problems:
                print(problem, file=sys.stderr)
        else:
            print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        if self.json:
            body: dict[str, Any] = {"id": error.error_id, "message": error.message}
            body |= {"where": error.where, "hint": error.hint}
            if isinstance(error, ProfileError) and error.problems:
                body["problems"] = [str(problem) for problem in error.problems]
            self._print_document({"ok": False, "error": body})

    def failed_check(
        self, data: dict[str, Any], text: str, bare: str, error: AmaqError
    ) -> NoReturn:
        """Print what a check found and that it failed: with ``--json`` in one document.

        Raises:
            typer.Exit: with the error's exit code.
        """
        if self.json:
            body = {"id": error.error_id, "message": error.message, "where": error.where}
            self._print_document({"ok": False, "error": {**body, "hint": error.hint}, "data": data})
        else:
            print(bare if self.quiet else text, file=self.stdout)
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code)

    def _print_document(self, body: dict[str, Any]) -> None:
        print(json.dumps({"schema": self.schema, **body}, allow_nan=False), file=self.stdout)

    def _without_nan(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: self._without_nan(v, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
        if isinstance(value, list):
            return [self._without_nan(v, f"{key}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            self.warn(f"{key} is {value}, given as null")
            return None
        return value


@contextlib.contextmanager
def command(schema: str, *, json: bool, quiet: bool, traceback: bool) -> Iterator[Session]:
    """Run a command's body; errors become one line and the documented exit code.

    Raises:
        typer.Exit: with the error's exit code.
    """
    session = Session(schema, json, quiet, sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield session
    except typer.Exit:
        raise
    except BaseException as error:
        if traceback:
            traceback_module.print_exc()
        failure = _as_known_error(error)
        session.failure(failure)
        raise typer.Exit(failure.exit_code) from None


def _as_known_error(error: BaseException) -> AmaqError:
    if isinstance(error, AmaqError):
        return error
    if isinstance(error, KeyboardInterrupt):
        stopped = AmaqError("stopped at once; what was saved before is whole")
        stopped.exit_code, stopped.error_id = 130, "INTERRUPTED"
        return stopped
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ResourceError(
            "out of memory", hint="lower train.batch_size, or raise train.micro_batches"
        )
    return AmaqError(
        f"internal error: {type(error).__name__}: {error}",
        hint="this is a bug in amaqctl; run again with --traceback and report it",
    )
