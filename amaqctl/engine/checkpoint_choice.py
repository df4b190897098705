"""Which checkpoint of a run is looked at, and which newer or better ones could not be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amaqctl.engine.checkpoint import best_checkpoint
from amaqctl.engine.checkpoint_folder import all_checkpoints, checkpoint_name, fault_of, step_of
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError

_WORST = float("inf")


@dataclass(frozen=True)
class Choice:
    """A checkpoint that can be used.

    Args:
        path: its folder.
        passed_over: why those that were due before it are not used, by name; usually empty.
    """

    path: Path
    passed_over: Mapping[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Optimizer steps behind it."""
        return step_of(self.path)

    def warnings(self) -> list[str]:
        """One line for each that was passed over."""
        return [
            f"{name} cannot be used ({fault}); {self.path.name} is used instead"
            for name, fault in self.passed_over.items()
        ]


def choose_checkpoint(run: RunFolder, which: str) -> Choice:
    """The checkpoint ``best``, ``last``, or of a step.

    One that is torn, or missing though it was saved last, is passed over for ``best`` and
    ``last``, and the choice says so.

    Raises:
        InputError: it is not there or not whole; the good ones are named.
    """
    folder = run.path / "checkpoints"
    faults = {path: fault_of(path) for path in all_checkpoints(folder)}
    good = [path for path, fault in faults.items() if fault is None]
    torn = {path: fault for path, fault in faults.items() if fault is not None}
    records = run.metrics()
    if which == "last" and good:
        newest = max((r["step"] for r in records if r["kind"] == "save"), default=0)
        lost = folder / checkpoint_name(newest)
        if newest > step_of(good[-1]) and lost not in torn:
            torn[lost] = "it is missing"
        return _choice(good[-1], [p for p in torn if step_of(p) > step_of(good[-1])], torn)
    if which == "best":
        kinds = [r for r in records if r["kind"] == "eval"]
        losses = {r["step"]: r["loss"] for r in kinds if r.get("loss") is not None}
        best = best_checkpoint(good, losses)
        if best is not None:
            better = [p for p in torn if losses.get(step_of(p), _WORST) < losses[step_of(best)]]
            return _choice(best, better, torn)
    if which.isdecimal():
        path = folder / checkpoint_name(int(which))
        if path in good:
            return Choice(path)
    raise _none_usable(folder, which, good, torn)


def _choice(path: Path, passed_over: Sequence[Path], torn: Mapping[Path, str]) -> Choice:
    return Choice(path, {p.name: torn[p] for p in sorted(passed_over)})


def _none_usable(
    folder: Path, which: str, good: Sequence[Path], torn: Mapping[Path, str]
) -> InputError:
    names = ", ".join(str(step_of(path)) for path in good) or "none"
    torn_ones = "".join(f"; {path.name} is torn: {fault}" for path, fault in torn.items())
    return InputError(
        f"there is no usable checkpoint '{which}'",
        where=str(folder),
        hint=f"usable steps: {names}{torn_ones}",
        error_id="INPUT-CHECKPOINT",
    )
