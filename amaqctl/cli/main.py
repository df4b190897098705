"""The `amaqctl` program: its commands, and nothing else."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from amaqctl import __version__
from amaqctl.cli import compress_trace, evaluate, inspect_bits, plugins, profiles, train

app = typer.Typer(
    name="amaqctl",
    help="Split LoRA fine-tuning over a quantized wire, on bytes that are really sent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("compress-trace")(compress_trace.compress_trace)
app.command("inspect-bits")(inspect_bits.inspect_bits)
app.command("plugins")(plugins.plugins)
app.add_typer(profiles.app, name="profile")


def _show_version(wanted: bool) -> None:
    if wanted:
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
    """Entry point of the console script."""
    # Threads that spin while they wait bring a shared machine to a crawl (measured: 30 x).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    app()


if __name__ == "__main__":
    main()
