"""A run on several machines, brought together into the run folder that one process would have.

From then on everything that works on a run works on this one: evaluation, merge, comparison, and
going on in one process.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaqctl.engine.checkpoint_folder import (
    WEIGHTS_FOLDER,
    checkpoint_name,
    good_checkpoints,
    step_of,
)
from amaqctl.engine.joined_parts import (
    join_adapters,
    join_bits,
    join_checkpoints,
    join_quantizers,
    join_weights,
)
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError
from amaqctl.occupied import refuse_run
from amaqctl.runs import profile_of
from amaqctl.storage import write_folder, write_json, write_text

_OF_SEVERAL = ("session", "party", "pid", "folder", "id")
_LOOPBACK = "transport={name: loopback, options: {}}"


@dataclass(frozen=True)
class Joined:
    """What was brought together.

    Args:
        steps: of the checkpoints that all parts have.
    """

    run: RunFolder
    parties: tuple[str, ...]
    steps: tuple[int, ...]


def join_runs(runs: Sequence[RunFolder], out: Path) -> Joined:
    """Write one run folder from those of all parties; the parts stay as they are.

    Args:
        runs: of every party, in any order.
        out: a folder that does not exist yet, or is empty.

    Raises:
        InputError: a part is missing, given twice or of another run, none of them has a
            checkpoint in common, or ``out`` is not free. Nothing is left then.
        ResourceError: it cannot be written; nothing is left.
    """
    leader, followers = _sorted(runs)
    parts = [leader, *followers]
    saved = [{step_of(p) for p in good_checkpoints(r.path / "checkpoints")} for r in parts]
    steps = sorted(set.intersection(*saved))
    if not steps:
        raise InputError(
            "the parts have no checkpoint of one step",
            where=str(leader.path),
            hint="train until all have saved, or give the parts of one run",
            error_id="INPUT-PARTIES",
        )
    refuse_run(out)
    write_folder(out, lambda made: _write(made, out, parts, steps))
    names = tuple(str(run.run["party"]) for run in followers)
    return Joined(RunFolder(out), (_leader_name(followers), *names), tuple(steps))


def _sorted(runs: Sequence[RunFolder]) -> tuple[RunFolder, list[RunFolder]]:
    """The leader's part and the others', all there and of one run."""
    for run in runs:
        if not run.is_of_parties:
            raise _refused("is whole already: every stage was in one process", run)
    leaders = [run for run in runs if "party" not in run.run]
    followers = [run for run in runs if "party" in run.run]
    if len(leaders) != 1 or not followers:
        wanted = "one is due" if followers else "those of the others are missing"
        found = f"{len(leaders)} of {len(runs)} parts are of a party that led"
        raise _refused(f"{found}, and {wanted}", runs[0])
    for run in followers:
        if run.run["session"] != leaders[0].run["session"]:
            raise _refused(f"is a part of another run than {leaders[0].path}", run)
    holders = _holders(followers[0])
    due = set(holders) - {holders[0]}
    names = [str(run.run["party"]) for run in followers]
    if missing := due - set(names):
        raise _refused(f"the part of {', '.join(sorted(missing))} is missing", leaders[0])
    if len(names) > len(due):
        raise _refused("a part is given twice", followers[-1])
    followers.sort(key=lambda run: holders.index(str(run.run["party"])))
    return leaders[0], followers


def _holders(follower: RunFolder) -> list[str]:
    identity: Any = follower.run.get("identity") or {}
    try:
        return [str(name) for name in identity["shared"]["holders"]]
    except (KeyError, TypeError):
        raise _refused("run.json does not say who holds which stage", follower) from None


def _leader_name(followers: Sequence[RunFolder]) -> str:
    return _holders(followers[0])[0]


def _refused(message: str, run: RunFolder) -> InputError:
    return InputError(
        message,
        where=str(run.path),
        hint="give the run folder of every party of one run, each once",
        error_id="INPUT-PARTIES",
    )


def _write(made: Path, out: Path, parts: Sequence[RunFolder], steps: Sequence[int]) -> None:
    leader = parts[0]
    identity = _identity(leader)
    for step in steps:
        name = checkpoint_name(step)
        into = made / "checkpoints" / name
        into.mkdir(parents=True)
        join_checkpoints([run.path / "checkpoints" / name for run in parts], into, identity)
    (made / "bits").mkdir()
    _join_each("bits/*.npz", parts, made, join_bits)
    outcomes: dict[str, Callable[[Sequence[Path], Path], None]] = {
        "adapter": join_adapters,
        WEIGHTS_FOLDER: join_weights,
        "quantizer": join_quantizers,
    }
    for name, join in outcomes.items():
        if all((run.path / name).is_dir() for run in parts):
            join([run.path / name for run in parts], made / name)
    for name in ("metrics.jsonl", "log.txt", "environment.json"):
        if (leader.path / name).exists():
            shutil.copyfile(leader.path / name, made / name)
    profile = profile_of(leader, [_LOOPBACK])
    write_text(made / "profile.yaml", profile.resolved_yaml())
    facts = {key: value for key, value in leader.run.items() if key not in _OF_SEVERAL}
    facts["identity"] = identity
    facts |= {"id": secrets.token_hex(2), "folder": str(out.absolute()), "command": sys.argv}
    write_json(made / "run.json", {**facts, "joined_from": [str(run.path) for run in parts]})


def _identity(leader: RunFolder) -> dict[str, Any]:
    """The leader's, as one process has it: with another transport, and a digest of files alone."""
    identity: dict[str, Any] = json.loads(json.dumps(leader.run.get("identity") or {}))
    identity.get("model", {}).pop("weights", None)
    if "profile" in identity:
        identity["profile"]["transport"] = {"name": "loopback", "options": {}}
    return identity


def _join_each(
    pattern: str,
    parts: Sequence[RunFolder],
    made: Path,
    join: Callable[[Sequence[Path], Path], None],
) -> None:
    """Every file of the leader's that all others have too."""
    for path in sorted(parts[0].path.glob(pattern)):
        place = path.relative_to(parts[0].path)
        if all((run.path / place).is_file() for run in parts):
            join([run.path / place for run in parts], made / place)
