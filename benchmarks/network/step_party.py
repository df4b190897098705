"""One party of `steps.py`: the command line, and at its end the seconds spent in the codec."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from amaqctl.cli.main import app
from amaqctl.engine.link import Channel

_spent = 0.0


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        global _spent
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            _spent += time.perf_counter() - began

    return run


def main() -> None:
    """Run a command of amaqctl."""
    for verb in ("send", "_decoded", "surrogate"):
        setattr(Channel, verb, _timed(getattr(Channel, verb)))
    try:
        app(sys.argv[1:])
    finally:
        print(_spent)


if __name__ == "__main__":
    main()
