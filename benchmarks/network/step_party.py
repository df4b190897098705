"""One party of `steps.py`: the command line, and at its end where its seconds went, as JSON.

``codec``: in encoding and decoding, of the whole run. ``busy``: a step, in forwards, backwards and,
at the party that leads, the update; a follower's update runs while the leader goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from amaqctl.cli.main import app
from amaqctl.engine.engine import Engine
from amaqctl.engine.link import Channel
from amaqctl.engine.step_runner import StepRunner

_codec = 0.0
_busy: list[float] = []


def _timed(function: Callable[..., Any], spend: Callable[[float], None]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spend(time.perf_counter() - began)

    return run


def _spend_on_codec(seconds: float) -> None:
    global _codec
    _codec += seconds


def _spend_on_step(seconds: float) -> None:
    _busy[-1] += seconds


def main() -> None:
    """Run a command of amaqctl."""
    for verb in ("send", "_decoded", "surrogate"):
        setattr(Channel, verb, _timed(getattr(Channel, verb), _spend_on_codec))
    begin = StepRunner.run

    def run(self: StepRunner, *arguments: Any) -> float:
        _busy.append(0.0)
        return begin(self, *arguments)

    StepRunner.run = run  # type: ignore[method-assign]
    StepRunner._run = _timed(StepRunner._run, _spend_on_step)  # type: ignore[method-assign]
    if "client.yaml" in sys.argv:
        Engine.update = _timed(Engine.update, _spend_on_step)  # type: ignore[method-assign]
    try:
        app(sys.argv[1:])
    finally:
        print(json.dumps({"codec": _codec, "busy": _busy}))


if __name__ == "__main__":
    main()
