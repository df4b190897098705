"""What every command shares: where output goes, and how an error ends the program.

stdout carries the result and nothing else; whatever a library prints meanwhile goes to stderr.
With ``--json`` stdout is exactly one document, on failure too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import sys
import traceback as traceback_module
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn, TextIO

import typer

from amaqctl.cli.console.interrupt import MESSAGE, has_come, watch
from amaqctl.cli.console.streams import READER_GONE, give_up, say
from amaqctl.errors import AmaqError, InputError, ResourceError, is_of_memory

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare result only.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the stack of an error.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the profile; repeatable."),
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        """Print the result: the JSON document, the bare value (quiet), or the text.

        Raises:
            ResourceError: stdout cannot take it.
            typer.Exit: the reader of stdout has gone.
        """
        if self.json:
            self._print_document(
                {"ok": True, "data": self._without_nan(data), "warnings": self.warnings}
            )
        else:
            self._print(bare if self.quiet else text)

    def note(self, text: str) -> None:
        """A line for the person at the terminal, on stderr; left out when quiet."""
        if not self.quiet:
            say(text)

    def warn(self, text: str) -> None:
        """A warning: on stderr, and in the JSON document."""
        self.warnings.append(text)
        say(f"warning: {text}")

    def failure(self, error: AmaqError) -> None:
        """Print an error: one line, its hint, and in JSON the document."""
        if error.problems:
            for problem in error.problems:
                say(f"error: {_one_line(str(problem))}")
        else:
            say(f"error: {_one_line(str(error))}")
        if error.hint:
            say(f"hint: {_one_line(error.hint)}")
        if self.json:
            body: dict[str, Any] = {"id": error.error_id, "message": error.message}
            body |= {"where": error.where, "hint": error.hint}
            if error.problems:
                body["problems"] = [str(problem) for problem in error.problems]
            # The error itself says how the program ends, not a stdout that cannot be written.
            with contextlib.suppress(ResourceError, typer.Exit):
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
            body["hint"] = error.hint
            self._print_document({"ok": False, "error": body, "data": self._without_nan(data)})
        else:
            self._print(bare if self.quiet else text)
        say(f"error: {error}")
        raise typer.Exit(error.exit_code)

    def _print_document(self, body: dict[str, Any]) -> None:
        self._print(json.dumps({"schema": self.schema, **body}, allow_nan=False))

    def _print(self, text: str) -> None:
        try:
            print(text, file=self.stdout, flush=True)
        except OSError as error:
            give_up(self.stdout)
            if isinstance(error, BrokenPipeError):
                raise typer.Exit(READER_GONE) from None
            raise ResourceError(
                f"the result cannot be written: {error.strerror}",
                where="stdout",
                hint="free some space where stdout goes; what the command made is kept",
                error_id="RESOURCE-STDOUT",
            ) from error

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
        watch()
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
    if isinstance(error, KeyboardInterrupt) or has_come():
        stopped = AmaqError(MESSAGE)
        stopped.exit_code, stopped.error_id = 130, "INTERRUPTED"
        return stopped
    if is_of_memory(error):
        return ResourceError(
            "out of memory", hint="lower train.batch_size, or raise train.micro_batches"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return ResourceError(
            "the disk is full", where=_place(error), hint="free some space, or choose another place"
        )
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return InputError(
            f"cannot be read or written: {error.strerror}",
            where=_place(error),
            hint="check the path, its kind (file or folder) and its permissions",
            error_id="INPUT-FILE",
        )
    if isinstance(error, ImportError) and (name := missing_package(error)):
        return InputError(
            f"the package {name} cannot be imported: {_one_line(str(error))}",
            hint="amaqctl doctor tells what is missing or broken; install it again",
            error_id="INPUT-PACKAGE",
        )
    return AmaqError(
        f"internal error: {type(error).__name__}: {error}",
        hint="this is a bug in amaqctl; run again with --traceback and report it",
    )


def missing_package(error: ImportError) -> str | None:
    """The package of others that is not there or broken; None where it is a module of ours."""
    name = (error.name or "").split(".")[0]
    return None if name in ("", "amaqctl") else name


def _place(error: OSError) -> str | None:
    """The path that the error names; one of any length is fit for a line."""
    place = None if error.filename is None else str(error.filename)
    return f"{place[:60]}…" if error.errno == errno.ENAMETOOLONG and place else place


def _one_line(text: str) -> str:
    """Names of files may hold line ends; an error is one line."""
    return text.replace("\r", "\\r").replace("\n", "\\n")
