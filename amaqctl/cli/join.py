"""`amaqctl join`: a run on several machines, as one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amaqctl.cli.console.render import facts
from amaqctl.cli.console.session import Json, Quiet, Traceback, command
from amaqctl.engine.advice import advised
from amaqctl.engine.run_search import existing_run


def join(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="The run folder of each party.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder to be.")],
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Bring the parts of a run on several machines together into one run folder.

    Give the run folder that each party has, copied to this machine, in any order. The whole run
    is what one process would have left: eval, export --merge, compare and train --resume work on
    it. The parts stay as they are. Whoever has all parts has the whole adapter: a party that may
    not see another's part keeps its own.
    """
    with command("amaqctl.join/1", json=json, quiet=quiet, traceback=traceback) as session:
        from amaqctl.occupied import refuse_run

        parts = [existing_run(text) for text in runs]
        refuse_run(out)
        from amaqctl.joining import join_runs

        joined = join_runs(parts, out)
        data = {"run": str(out), "parties": list(joined.parties), "steps": list(joined.steps)}
        rows = [
            ("run", data["run"]),
            ("parts", ", ".join(joined.parties)),
            ("steps", ", ".join(map(str, joined.steps))),
            ("next", advised("eval", out, "--boundary", "both")),
        ]
        session.result(data, facts([(name, str(text)) for name, text in rows]), str(out))
