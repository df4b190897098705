"""`amaqctl profile`: list, show and check profiles, and print their JSON Schema."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from amaqctl.cli.console import render
from amaqctl.cli.console.commands import Command, Group
from amaqctl.cli.console.session import Json, Quiet, Set, Traceback, command
from amaqctl.errors import PluginError, Problem, ProfileError

app = typer.Typer(cls=Group, help="List, show and check profiles.", no_args_is_help=True)


@app.command("list", cls=Command)
def list_profiles(json: Json = False, quiet: Quiet = False, traceback: Traceback = False) -> None:
    """The shipped profiles, with what each is for."""
    with command("amaqctl.profile-list/1", json=json, quiet=quiet, traceback=traceback) as session:
        from amaqctl.profile import load_profile, shipped_names

        found = {name: load_profile(name).profile.description or "" for name in shipped_names()}
        text = render.facts(list(found.items()))
        session.result({"profiles": found}, text, "\n".join(found))


@app.command("show", cls=Command)
def show_profile(
    name: Annotated[str, typer.Argument(help="A profile file or a shipped name.")],
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With every default written out.")
    ] = False,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Print a profile as YAML that trains as is."""
    with command("amaqctl.profile-show/1", json=json, quiet=quiet, traceback=traceback) as session:
        from amaqctl.profile import load_profile

        loaded = load_profile(name, set_ or [])
        as_written = loaded.path.read_text("utf-8") if not (resolved or set_) else None
        text = (as_written or loaded.resolved_yaml()).rstrip("\n")
        session.result(
            {"path": str(loaded.path), "profile": loaded.profile.model_dump()}, text, text
        )


@app.command("check", cls=Command)
def check_profiles(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Profiles to check.")],
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Check profiles, options of installed quantizers and tasks included; exit 3 on a fault.

    Exit 5 where all that is wrong is a plugin that is unknown or broken.
    """
    with command("amaqctl.profile-check/1", json=json, quiet=quiet, traceback=traceback) as session:
        from amaqctl.preflight import missing
        from amaqctl.profile import load_profile, profile_error

        problems: list[Problem] = []
        errors: list[ProfileError | PluginError] = []
        for file in files:
            try:
                loaded = load_profile(file, set_ or [])
                for key, error in missing(loaded):
                    own = error.problems if isinstance(error, ProfileError) else ()
                    found = own or [loaded.problem_at(key, str(error))]
                    errors.append(profile_error(found))
                    problems += found
                from amaqctl.build import resolve_parts  # after the cheap faults: it needs torch

                resolve_parts(loaded)
            except (ProfileError, PluginError) as error:
                errors.append(error)
                problems += error.problems or [Problem(0, 0, file, str(error))]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            message = f"{len(problems)} errors in {len(files)} files"
            is_plugins = all(isinstance(error, PluginError) for error in errors)
            raise (PluginError if is_plugins else ProfileError)(message, problems=problems)
        session.result({"checked": files}, f"{len(files)} checked, no faults", "")


@app.command("schema", cls=Command)
def print_schema(json: Json = False, quiet: Quiet = False, traceback: Traceback = False) -> None:
    """The JSON Schema of a profile, for editors."""
    with command(
        "amaqctl.profile-schema/1", json=json, quiet=quiet, traceback=traceback
    ) as session:
        from amaqctl.profile import profile_schema

        text = json_module.dumps(profile_schema(), indent=2)
        session.result({"schema": profile_schema()}, text, text)
