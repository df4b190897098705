"""Kills the real command at random moments, resumes it, and compares with the run never killed.

    python tests/kill_points.py [--kills 50] [--seed 1] [--folder DIR]

Every life of a run is a forked child of this one process, which has imported everything once; it
runs `amaqctl train` on the tiny model and dies by SIGKILL. A run is killed several times before
it is left alone. Then everything it leaves is compared byte for byte, metrics but for the clock.
Four kinds of moments: anywhere after training began, while a checkpoint is being written, at the
end of the run, and before training began. Exits with 1 when anything was lost or differs.

Nothing here is collected by pytest; `test_resume.py` uses some of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from amaqctl.engine.checkpoint_folder import all_checkpoints, fault_of, step_of
from amaqctl.engine.run_folder import RunFolder

QUANTIZERS = {
    "none": "{name: none}",
    "fixed": "{name: fixed, options: {bits: 4, rounding: stochastic}}",
    "group": "{name: group, options: {bits: 4}}",
    "aq-sgd": "{name: aq-sgd, options: {bits: 4}}",
    "amaq": "{name: amaq, options: {target_bits: 3, memory: 0.5}}",
}
NUM_STEPS = 10
CLOCKS = {"time", "seconds", "peak_memory_mib"}
MOMENTS = ("running", "saving", "ending", "starting")
WEIGHTS = (4, 4, 1, 1)
MAX_KILLS_A_RUN = 6
SAVE_SECONDS = 0.03


def settings(folder: Path, quantizer: str, num_steps: int = NUM_STEPS) -> list[str]:
    """Overrides of `quickstart` for a run of a second, that visits each sample several times."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        lines = [{"q": f"What is {n} and {n}?", "a": str(2 * n) * (1 + n % 3)} for n in range(16)]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = f"{{train: {rows}, validation: {rows}, prompt: q, completion: a}}"
    return [
        *("model.id=tiny", "model.dtype=float32", "train.max_length=32", "lora.dropout=0.1"),
        *(f"train.max_steps={num_steps}", "train.batch_size=4", "train.micro_batches=2"),
        *("eval.every=4", "eval.max_examples=2", "checkpoint.every=2", "split.cuts=[1,2]"),
        f"task={{name: prompt-completion, options: {options}}}",
        f"quantizers.activation={QUANTIZERS[quantizer]}",
        "quantizers.gradient={name: fixed, options: {bits: 6, rounding: stochastic}}",
    ]


def forked(work: Callable[[], int | None], output: Path) -> int:
    """Do ``work`` in a child whose output goes to a file; returns the child's process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
        code = work() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def command(arguments: list[str]) -> None:
    """The real command line, in this process."""
    from amaqctl.cli.main import main

    sys.argv = ["amaqctl", *arguments]
    main()


def arguments_for(run: Path, overrides: list[str]) -> list[str]:
    """How a person goes on: resume the run, or start it where none was made yet."""
    if (run / "run.json").exists():
        return ["train", "--resume", str(run), "--quiet"]
    sets = [part for item in overrides for part in ("--set", item)]
    return ["train", "quickstart", *sets, "--out", str(run), "--quiet"]


def what_differs(straight: Path, run: Path) -> list[str]:
    """Everything that one run left and the other did not leave just so."""
    found = []
    files = [_files(straight), _files(run)]
    found += [f"only one has {name}" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        if (straight / name).read_bytes() != (run / name).read_bytes():
            found.append(f"{name} differs")
    folders = RunFolder(straight), RunFolder(run)
    metrics = [[_timeless(r) for r in f.metrics() if r["kind"] != "resume"] for f in folders]
    if metrics[0] != metrics[1]:
        found.append("the metrics differ")
    results = [_timeless(folder.run.get("result", {})) for folder in folders]
    if results[0] != results[1] or folders[1].run["status"] != "done":
        found.append("the results differ")
    return found


def _files(run: Path) -> set[str]:
    own = {"run.json", "environment.json", "metrics.jsonl", "log.txt"}
    return {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} - own


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in CLOCKS}


def leftovers(run: Path) -> list[Path]:
    """What is half written: temporary files and folders of a save."""
    return [p for pattern in (".tmp-*", ".adapter-*") for p in run.rglob(pattern)]


class Killer:
    """Waits for one moment in a child's life and kills it there.

    Args:
        run: the run folder.
        moment: one of `MOMENTS`.
        choose: random numbers.
        seconds: from the start of training to its end in a run that is not killed.
    """

    def __init__(self, run: Path, moment: str, choose: random.Random, seconds: float) -> None:
        self._run = run
        self._moment = moment
        self._choose = choose
        self._seconds = seconds
        self._log_size = self._size_of_log()

    def wait(self, pid: int) -> int | None:
        """Kill the child at the moment; returns its exit code where it ended before."""
        if self._moment == "starting":
            return self._kill_in(pid, self._choose.uniform(0, 0.5 * self._seconds))
        code = self._until(pid, lambda: self._size_of_log() > self._log_size)
        if code is not None:
            return code
        if self._moment == "running":
            return self._kill_in(pid, self._choose.uniform(0, self._seconds))
        if self._moment == "saving":
            for _ in range(self._choose.randint(0, 2)):
                for seen in (self._is_saving, self._is_not_saving):
                    code = self._until(pid, seen)
                    if code is not None:
                        return code
        seen = self._is_saving if self._moment == "saving" else self._is_ending
        code = self._until(pid, seen)
        if code is not None:
            return code
        return self._kill_in(pid, self._choose.uniform(0, SAVE_SECONDS))

    def _is_saving(self) -> bool:
        return any((self._run / "checkpoints").glob(".tmp-*"))

    def _is_not_saving(self) -> bool:
        return not self._is_saving()

    def _is_ending(self) -> bool:
        return any(self._run.glob(".adapter-*")) or (self._run / "quantizer").exists()

    def _size_of_log(self) -> int:
        log = self._run / "log.txt"
        return log.stat().st_size if log.exists() else 0

    def _kill_in(self, pid: int, seconds: float) -> int | None:
        end = time.monotonic() + seconds
        code = self._until(pid, lambda: time.monotonic() >= end)
        if code is not None:
            return code
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return None if code == -signal.SIGKILL else code

    def _until(self, pid: int, holds: Callable[[], bool]) -> int | None:
        while not holds():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.0005)
        return None


class Campaign:
    """Runs of all quantizers, killed and compared.

    Args:
        folder: for everything.
        seed: of moments and delays.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._choose = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.num_runs = 0
        self.num_half_written = 0
        self.failures: list[str] = []

    def quantizer(self, name: str, num_kills: int) -> None:
        """Kill runs of one quantizer ``num_kills`` times."""
        overrides = settings(self._folder, name)
        straight = self._folder / f"{name}-straight"
        output = self._folder / f"{name}-straight.txt"
        pid = forked(lambda: command(arguments_for(straight, overrides)), output)
        _, status = os.waitpid(pid, 0)
        if status:
            self.failures.append(f"{name}: {output.read_text()}")
            return
        seconds = RunFolder(straight).run["result"]["seconds"]
        before = self.num_kills
        while self.num_kills - before < num_kills and not self.failures:
            left = num_kills - (self.num_kills - before)
            run = self._folder / f"{name}-{self.num_runs}"
            self._one_run(run, overrides, min(left, MAX_KILLS_A_RUN), seconds)
            found = [] if self.failures else what_differs(straight, run)
            self.failures += [f"{run.name}: {difference}" for difference in found]
            self.num_runs += 1

    @property
    def num_kills(self) -> int:
        """Kills so far."""
        return self.kills.total()

    def report(self) -> int:
        """Print what was done; returns the exit code."""
        moments = ", ".join(f"{self.kills[moment]} {moment}" for moment in MOMENTS)
        print(
            f"{self.num_kills} kills in {self.num_runs} runs ({moments}); "
            f"{self.num_half_written} left something half written; "
            f"{len(self.failures)} lost or different"
        )
        for failure in self.failures:
            print(f"FAILED {failure}")
        return 1 if self.failures else 0

    def _one_run(self, run: Path, overrides: list[str], max_kills: int, seconds: float) -> None:
        num_kills = 0
        while True:
            output = self._folder / f"{run.name}-life-{num_kills}.txt"
            arguments = arguments_for(run, overrides)
            moment = self._choose.choices(MOMENTS, WEIGHTS)[0]
            killer = Killer(run, moment, self._choose, seconds)
            pid = forked(lambda arguments=arguments: command(arguments), output)  # type: ignore[misc]
            if num_kills == max_kills:
                code: int | None = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            else:
                code = killer.wait(pid)
            is_done = (run / "run.json").exists() and RunFolder(run).run["status"] == "done"
            if code is not None:
                if code and not (code == 9 and is_done):
                    self.failures.append(f"{run.name}: exit {code}: {output.read_text()}")
                return
            num_kills += 1
            self._count(run, moment)

    def _count(self, run: Path, moment: str) -> None:
        self.kills[moment] += 1
        self.num_half_written += bool(leftovers(run))
        torn = [p for p in all_checkpoints(run / "checkpoints") if fault_of(p)]
        self.failures += [f"{run.name}: step {step_of(p)} is torn: {fault_of(p)}" for p in torn]


def _import_everything(folder: Path) -> None:
    from amaqctl.build import build
    from amaqctl.cli import main, train  # noqa: F401
    from amaqctl.cli.console import progress  # noqa: F401
    from amaqctl.profile import load_profile

    build(load_profile("quickstart", settings(folder, "amaq")))


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="over all quantizers; default 50")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep all runs here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="amaqctl-kills-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("AMAQCTL_CACHE", str(folder / "cache"))
        _import_everything(folder)
        campaign = Campaign(folder, options.seed)
        for number, name in enumerate(QUANTIZERS):
            share = options.kills * (number + 1) // len(QUANTIZERS)
            campaign.quantizer(name, share - campaign.num_kills)
    return campaign.report()


if __name__ == "__main__":
    sys.exit(_main())
