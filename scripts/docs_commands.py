"""The reference part of `docs/command-line.md`, from the Typer app itself.

Reads the attributes of Typer's command objects and nothing of its rendering, so the text does
not depend on the width of a terminal or on how rich draws boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from docs_tables import code, table
from typer.main import get_command

from amaqctl.cli.main import app

_HEADER = ("option", "default", "meaning")
_VALUES = {int: "N", float: "X"}


def commands() -> dict[str, Any]:
    """Every command that does something, by what is typed after `amaqctl`, in help's order."""
    return dict(_leaves(get_command(app), ""))


def options_of(command: Any) -> set[str]:
    """All spellings of a command's options, `--help` included."""
    spelled = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    return {o for o in spelled if o.startswith("-")} | {"--help", "-h"}


def reference() -> str:
    """A section a command: usage, help text, arguments and options."""
    found = commands()
    shared = set.intersection(*({_key(p) for p in c.params} for c in found.values()))
    example = next(iter(found.values()))
    everywhere = [p for p in example.params if _key(p) in shared]
    rows = [_row_everywhere(p, found) for p in everywhere]
    rows.append(["`--help`, `-h`", "", "Show a command's help and exit."])
    parts = ["Every command takes", table(_HEADER, rows)]
    for name, command in found.items():
        own = [p for p in command.params if _key(p) not in shared and not p.hidden]
        parts += [f"### `{name}`", f"```text\n{_usage(name, own)}\n```", _help(command)]
        if own:
            parts.append(table(("argument, option", *_HEADER[1:]), [_row(p) for p in own]))
    return "\n\n".join(parts)


def _leaves(command: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from _leaves(inner, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", inner


def _key(parameter: Any) -> tuple[Any, ...]:
    """What makes two commands' options the same; a short spelling may be taken in one of them."""
    return (max(parameter.opts, key=len), parameter.help, parameter.metavar)


def _is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def _value(parameter: Any) -> str:
    """What is typed for the value; empty for a flag."""
    if getattr(parameter, "is_flag", False):
        return ""
    if parameter.metavar:
        text = str(parameter.metavar)
        return text.strip("[]") if _is_argument(parameter) else text
    if _is_argument(parameter):
        return str(parameter.name).upper()
    annotation = parameter.type_descriptor.annotation
    inner = next(iter(getattr(annotation, "__args__", ())), annotation)
    if isinstance(inner, type) and issubclass(inner, Enum):
        return "|".join(str(member.value) for member in inner)
    word: str = parameter.opts[0].lstrip("-").upper()
    return _VALUES.get(inner, word)


def _usage(name: str, parameters: list[Any]) -> str:
    words = [f"amaqctl {name}"]
    for parameter in (p for p in parameters if _is_argument(p)):
        text = _value(parameter)
        text += "…" if parameter.nargs == -1 and not text.endswith("…") else ""
        words.append(text if parameter.required else f"[{text}]")
    return " ".join([*words, "[OPTIONS]"])


def _help(command: Any) -> str:
    paragraphs = (command.help or "").strip().split("\n\n")
    return "\n\n".join(" ".join(p.replace("\b", "").split()) for p in paragraphs)


def _row(parameter: Any) -> list[str]:
    value = _value(parameter)
    if _is_argument(parameter):
        spelled = f"`{value}`"
    else:
        # The long spelling first, whatever the order in the code.
        names = sorted((*parameter.opts, *parameter.secondary_opts), key=len, reverse=True)
        spelled = ", ".join(f"`{name} {value}`".replace(" `", "`") for name in names)
    default = parameter.default
    if isinstance(default, Enum):
        default = default.value
    shown = "" if default in (None, False, [], ()) else f"`{default}`"
    return [spelled, "required" if parameter.required else shown, _meaning(parameter)]


def _row_everywhere(parameter: Any, found: dict[str, Any]) -> list[str]:
    """A row for all commands; a short spelling that one of them needs otherwise is told so."""
    _, default, meaning = _row(parameter)
    names = sorted(parameter.opts, key=len, reverse=True)
    spelled = [f"`{name}`" for name in names]
    for name in names:
        others = [
            (command, own)
            for command, parsed in found.items()
            for own in parsed.params
            if name in own.opts and _key(own) != _key(parameter)
        ]
        for command, own in others:
            spelled.remove(f"`{name}`")
            longest = max(own.opts, key=len)
            meaning += f" Short: `{name}`; but in `{command}` that is `{longest}`."
    return [", ".join(spelled), default, meaning]


def _meaning(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    low, high = parameter.min, parameter.max
    if low is not None or high is not None:
        bounds = [f"from {code(low)}"] * (low is not None) + [f"to {code(high)}"] * (
            high is not None
        )
        text += f" {' '.join(bounds).capitalize()}."
    if parameter.multiple and "repeat" not in text.lower():
        text += " Repeatable."
    return text
