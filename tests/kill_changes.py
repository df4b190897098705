"""Kills commands just before one of their changes to files, two of them at once too.

    python tests/kill_changes.py [--kills 500] [--seed 1] [--folder DIR] [--only WORK…]

Every life of a command is a forked child of this one process, which has imported everything once,
so a life costs what the command itself does. A child counts what it changes on the disk (makes,
flushes, renames, links, deletes) and dies by SIGKILL before a change chosen at random. After each
kill what the command makes must be whole or not there; in the end a life that is not killed must
make just what one alone makes, and the next that writes there must sweep what the dead left.
`kill_points.py` kills training at random moments instead. Exits with 1 when anything was torn,
lost or left.

Nothing here is collected by pytest; `scripts/check` runs it with few kills.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from file_changes import count_into, die_before
from kill_points import arguments_for, command, forked, settings, what_differs

from amaqctl import storage
from amaqctl.engine.checkpoint_folder import all_checkpoints, fault_of
from amaqctl.engine.run_folder import RunFolder

MAX_KILLS_A_PLACE = 4
SHARE_OF_TWO_AT_ONCE = 0.25
TARGET = "x"
_REFUSED = (4, 9)  # there already, or written by another process


@dataclass(frozen=True)
class Work:
    """Something that makes ``TARGET`` in a folder.

    Args:
        life: does it, as the command line or a caller would, in this process; ends by SystemExit.
        fault: what is wrong with what is there after a kill, or None; given the target and one
            that was made by a life alone.
    """

    life: Callable[[Path], None]
    fault: Callable[[Path, Path], str | None]


def works(folder: Path) -> dict[str, Work]:
    """All of them; a small run is trained in ``folder`` for those that need one."""
    run, overrides = folder / "run", settings(folder, "amaq", 4)
    sets = [part for item in overrides for part in ("--set", item)]
    pid = forked(lambda: command(arguments_for(run, overrides)), folder / "run.txt")
    if os.waitpid(pid, 0)[1]:
        raise SystemExit((folder / "run.txt").read_text())

    def typed(*words: object) -> Callable[[Path], None]:
        def life(target: Path) -> None:
            command([str(target if word is None else word) for word in words])

        return life

    def converted(target: Path) -> None:
        os.environ["AMAQCTL_CACHE"] = str(target.parent)
        from amaqctl.model.cache_folder import materialise
        from amaqctl.model.tiny import _write

        materialise(target.name, _write)

    record = ("compress-trace", "--record", "quickstart", *sets, "--steps", 1)
    return {
        "export": Work(typed("export", run, "--to", None), _differs),
        "merge": Work(typed("export", run, "--merge", "--to", None), _differs),
        "record": Work(typed(*record, "--out", None), _differs),
        "conversion": Work(converted, _differs),
        "training": Work(lambda target: command(arguments_for(target, overrides)), _torn),
    }


def _differs(target: Path, alone: Path) -> str | None:
    """Made at once, so it is whole as soon as it is there."""
    if not target.exists():
        return None
    found, wanted = _contents(target), _contents(alone)
    return None if found == wanted else f"{sorted(found)} differ from {sorted(wanted)}"


def _torn(target: Path, alone: Path) -> str | None:
    """A run grows: every checkpoint of it is whole, and a finished one is that of a run alone."""
    torn = [p.name for p in all_checkpoints(target / "checkpoints") if fault_of(p)]
    if torn:
        return f"torn: {', '.join(torn)}"
    if (target / "run.json").exists() and RunFolder(target).run["status"] == "done":
        return "; ".join(what_differs(alone, target)) or None
    return None


def _contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


class Campaign:
    """Kills of every work, and what was found.

    Args:
        folder: for everything.
        seed: of the choice of changes.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._choose = random.Random(seed)
        self._num_places = 0
        self.kills: Counter[str] = Counter()
        self.two_at_once: Counter[str] = Counter()
        self.num_leftovers = 0
        self.failures: list[str] = []

    def kill(self, name: str, work: Work, num_kills: int) -> None:
        """Kill one work ``num_kills`` times, and see what it leaves."""
        alone = self._place(name)
        counted = self._folder / f"{name}-count"

        def life() -> None:
            count_into(alone, counted)
            work.life(alone / TARGET)

        self._expect(self._ended(forked(life, self._output)), (0,), alone)
        num_changes = int(counted.read_text())
        while self.kills[name] < num_kills and not self.failures:
            place = self._place(name)
            if self._choose.random() < SHARE_OF_TWO_AT_ONCE:
                self._two_at_once(name, work, place, num_changes)
            else:
                for _ in range(min(MAX_KILLS_A_PLACE, num_kills - self.kills[name])):
                    self._die(name, work, place, num_changes)
                    self._look(work, place, alone)
            self._look(work, place, alone)
            self._finish(work, place, alone)

    def report(self) -> int:
        """Print what was done; returns the exit code."""
        each = ", ".join(f"{number} {name}" for name, number in self.kills.items())
        print(
            f"{self.kills.total()} kills ({each}), {self.two_at_once.total()} of them beside a "
            f"second process; {self.num_leftovers} left something to sweep; "
            f"{len(self.failures)} torn, lost or left"
        )
        for failure in self.failures:
            print(f"FAILED {failure}")
        return 1 if self.failures else 0

    @property
    def _output(self) -> Path:
        return self._folder / f"life-{self._num_places}.txt"

    def _place(self, name: str) -> Path:
        self._num_places += 1
        place = self._folder / f"{name}-{self._num_places}"
        place.mkdir()
        return place

    def _doomed(self, work: Work, place: Path, num_changes: int) -> int:
        number = self._choose.randint(1, num_changes)

        def life() -> None:
            die_before(place, number)
            work.life(place / TARGET)

        return forked(life, self._output)

    def _die(self, name: str, work: Work, place: Path, num_changes: int) -> None:
        code = self._ended(self._doomed(work, place, num_changes))
        self.kills[name] += code == -signal.SIGKILL
        # One that goes on from where another died has less to do, and may come to its end.
        self._expect(code, (-signal.SIGKILL, 0, *_REFUSED), place)
        self.num_leftovers += bool(list(place.rglob(".tmp-*")))

    def _two_at_once(self, name: str, work: Work, place: Path, num_changes: int) -> None:
        """One is killed, the other is not, and neither waits."""
        doomed = self._doomed(work, place, num_changes)
        other = forked(lambda: work.life(place / TARGET), place.with_suffix(".other.txt"))
        code = self._ended(doomed)
        self.kills[name] += code == -signal.SIGKILL
        self.two_at_once[name] += code == -signal.SIGKILL
        self._expect(code, (-signal.SIGKILL, 0, *_REFUSED), place)
        self._expect(self._ended(other), (0, *_REFUSED), place)

    def _look(self, work: Work, place: Path, alone: Path) -> None:
        fault = work.fault(place / TARGET, alone / TARGET)
        if fault is not None:
            self.failures.append(f"{place.name}: {fault}")

    def _finish(self, work: Work, place: Path, alone: Path) -> None:
        """Let it end alone; then write beside it, and see that nothing else is left."""
        code = self._ended(forked(lambda: work.life(place / TARGET), self._output))
        self._expect(code, (0, *_REFUSED), place)
        self._look(work, place, alone)
        storage.write_text(place / "beside", "")
        left = [str(p) for p in place.rglob(".*")]
        if left or sorted(p.name for p in place.iterdir()) != ["beside", TARGET]:
            self.failures.append(f"{place.name}: left {left or list(place.iterdir())}")

    def _ended(self, pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _expect(self, code: int, wanted: tuple[int, ...], place: Path) -> None:
        if code not in wanted:
            self.failures.append(f"{place.name}: exit {code}: {self._output.read_text()}")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500, help="over all works; default 500")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="WORK", help="these alone")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="amaqctl-kills-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["AMAQCTL_CACHE"] = str(folder / "cache")
        import_everything(folder)
        campaign = Campaign(folder, options.seed)
        chosen = {k: w for k, w in works(folder).items() if k in (options.only or [k])}
        for name, work in chosen.items():
            campaign.kill(name, work, options.kills // len(chosen))
    return campaign.report()


def import_everything(folder: Path) -> None:
    """What lives would import each for itself."""
    from amaqctl import exporting, recording  # noqa: F401
    from amaqctl.build import build
    from amaqctl.cli import main  # noqa: F401
    from amaqctl.cli.console import progress  # noqa: F401
    from amaqctl.profile import load_profile

    build(load_profile("quickstart", settings(folder, "amaq")))


if __name__ == "__main__":
    sys.exit(_main())
