"""The `amaqctl` program: its commands, and nothing else."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from amaqctl.cli import (
    certs,
    compare,
    compress_trace,
    doctor,
    evaluate,
    export,
    inspect_bits,
    join,
    list_runs,
    plugins,
    profiles,
    train,
)
from amaqctl.cli.console import interrupt, streams
from amaqctl.cli.console.commands import Command
from amaqctl.cli.console.typed_wrongly import Commands

app = typer.Typer(
    name="amaqctl",
    cls=Commands,
    help="Split LoRA fine-tuning over a quantized wire, on bytes that are really sent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=Command)(train.train)
app.command("eval", cls=Command)(evaluate.evaluate)
app.command("compress-trace", cls=Command)(compress_trace.compress_trace)
app.command("inspect-bits", cls=Command)(inspect_bits.inspect_bits)
app.command("compare", cls=Command)(compare.compare)
app.command("runs", cls=Command)(list_runs.list_runs)
app.command("export", cls=Command)(export.export)
app.command("join", cls=Command)(join.join)
app.command("plugins", cls=Command)(plugins.plugins)
app.add_typer(profiles.app, name="profile")
app.add_typer(certs.app, name="certs")
app.command("doctor", cls=Command)(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from amaqctl import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program; the console script comes here by `amaqctl.cli.start`."""
    # Threads that spin while they wait bring a shared machine to a crawl (measured: 30 x).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    streams.prepare()
    interrupt.end_at_once()
    code: str | int | None = 0
    try:
        app(prog_name="amaqctl")
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # after a command; each ends its own
        streams.say(f"error: {interrupt.MESSAGE}")
        code = 130
    except OSError as error:  # the help, when stdout is full
        streams.say(f"error: stdout cannot be written: {error.strerror}")
        streams.give_up(sys.stdout)
        code = 7
    unwritten = streams.finish()
    sys.exit(code or unwritten)


if __name__ == "__main__":
    main()
