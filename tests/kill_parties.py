"""Kills, stops and cuts off parties of one run at random moments, and starts them again.

    python tests/kill_parties.py [--kills 200] [--stops 20] [--cuts 120] [--seed 1] [--lanes 2]

Two parties over gRPC and three over gloo train the tiny model. Each life of a party is a forked
child of one process that has imported everything once. Any party is killed (SIGKILL), frozen for
longer than its lease (SIGSTOP), or cut off for good, while it loads, greets, trains, saves or ends;
then all are started again, with --resume where there is a run. What stops for less than the lease
(SIGSTOP, a network that passes nothing, connections cut in the middle of anything) must end nobody.
In the end adapters, quantizers, widths and metrics must be, bit for bit, those of one process that
nobody disturbed; no checkpoint that the leader recorded may be lost; and nobody may hang.

Nothing here is collected by pytest; `scripts/check` runs it with few kills.
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
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from kill_points import command, forked  # sets the threads before torch is imported
from party_lives import CASES, ENGINES, FailedError, PartyRun, one_process
from party_moments import Moments
from party_processes import outcome, prepare
from party_relay import RelayProcess

from amaqctl.engine.run_folder import RunFolder

ENDS = ("kill", "freeze", "loss")
MAX_A_RUN = 8
SHORT_LEASE, LONG_LEASE = 1.2, 8.0
# Bytes of a connection until it is cut. A handshake takes some 5000, so many a connection carries
# little else, and the longest frame must come through at some time.
CUT_AFTER = {"amaq": (3000, 11_000), "aq-sgd": (3000, 26_000)}


class Lane:
    """A share of the campaign: one run after the other.

    Args:
        folder: that `party_processes.prepare` has filled, with the undisturbed runs.
        number: of the lane.
        seed: of moments and victims.
    """

    def __init__(self, folder: Path, number: int, seed: int) -> None:
        self._folder, self._number = folder, number
        self._choose = random.Random(f"{seed} {number}")
        self._expected = {case: outcome(folder / f"alone-{case}") for case in CASES}
        self._num_runs = 0
        self._seconds = dict.fromkeys(ENGINES, 3.0)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def work(self, engine: str, share: dict[str, int]) -> None:
        """Runs of one engine, until what is asked for has been done ``share`` times."""
        self._one_run(engine, SHORT_LEASE, lambda run: self._measure(engine, run))
        while not self.failures and self.counts[f"{engine} kill"] < share["kills"]:
            self._one_run(engine, SHORT_LEASE, lambda run: self._end_parties(engine, run, share))
        while not self.failures and self.counts[f"{engine} stop"] < share["stops"]:
            self._one_run(engine, LONG_LEASE, lambda run: self._stop_parties(engine, run))
        while not self.failures and engine == "grpc" and self.counts["grpc cut"] < share["cuts"]:
            self._one_run(engine, LONG_LEASE, lambda run: self._cut(run), is_cutting=True)

    def _one_run(
        self,
        engine: str,
        lease_seconds: float,
        disturb: Callable[[PartyRun], None],
        is_cutting: bool = False,
    ) -> None:
        case = list(CASES)[self._num_runs % len(CASES)]
        name = f"{engine}-{self._number}-{self._num_runs}"
        run = PartyRun(self._folder, name, engine, case, lease_seconds)
        self._relay = None
        if engine == "grpc":
            self._relay = RelayProcess(
                run.server_port, name, CUT_AFTER[case] if is_cutting else None
            )
            run.dial(self._relay.port)
        try:
            disturb(run)
            while not run.is_done:  # the last lives are left alone
                run.start()
                run.finish()
            run.finish()
            run.check_acknowledged()
            self._compare(run, case)
        except FailedError as failure:
            self.failures.append(f"{name} ({case}): {failure}")
        finally:
            run.kill_all()
            if self._relay:
                num_cuts = self._relay.end()
                self._count(engine, "cut", num_cuts)
                self._count(engine, "run cut 30 times or more", int(num_cuts >= 30))
        self._num_runs += 1
        self._count(engine, "run")

    def _compare(self, run: PartyRun, case: str) -> None:
        found, expected = outcome(*(run.out / name for name in run.parties)), self._expected[case]
        different = [what for what in expected if found[what] != expected[what]]
        if different or not found["adapter"] or not found["states"]:
            raise FailedError(f"{', '.join(different) or 'nothing'} differs from one process")
        ends = {name: RunFolder(run.out / name).run["status"] for name in run.parties}
        if set(ends.values()) != {"done"}:
            raise FailedError(f"the leader is done, and the runs are {ends}")

    def _measure(self, engine: str, run: PartyRun) -> None:
        run.start()
        Moments(run, self._choose, 0.0).wait_until_training()
        started = time.monotonic()
        run.finish()
        self._seconds[engine] = time.monotonic() - started

    def _end_parties(self, engine: str, run: PartyRun, share: dict[str, int]) -> None:
        for _ in range(self._choose.randint(3, MAX_A_RUN)):
            how = self._choose.choices(ENDS, (8, 1, 1))[0]
            is_enough = self.counts[f"{engine} kill"] >= share["kills"]
            if run.is_done:
                return
            run.start()
            victim = self._choose.choice(run.parties)
            moment = self._moment(engine, run)
            if is_enough or not moment:
                return
            has_ended, at_once = getattr(self, f"_{how}")(run, victim)
            if not has_ended:
                return
            self._count(engine, how)
            self._count(engine, moment)
            if at_once and engine == "grpc":  # its peer finds it started anew, within the lease
                run.reap()
                run.start()
                self._count(engine, "at once")
                time.sleep(self._choose.uniform(0, 0.5))
                run.settle()
            run.check_acknowledged()

    def _kill(self, run: PartyRun, victim: str) -> tuple[bool, bool]:
        """Whether it was killed by this, and whether it starts again before others have noticed."""
        if not run.kill(victim):
            return False, False
        if self._choose.random() < 0.3:
            return True, True
        run.settle()
        return True, False

    def _freeze(self, run: PartyRun, victim: str) -> tuple[bool, bool]:
        run.send(victim, signal.SIGSTOP)
        run.settle(but=victim)
        run.send(victim, signal.SIGCONT)
        run.settle()
        return True, False

    def _loss(self, run: PartyRun, victim: str) -> tuple[bool, bool]:
        """The network passes nothing until all who had met have noticed.

        gloo's cannot be told so: there the victim's connections are shut. gRPC dials again then.
        """
        if self._relay and self._choose.random() < 0.7:
            self._relay.turn()
            run.settle()
            self._relay.turn()
            return True, False
        run.send(victim, signal.SIGUSR1)
        if not self._relay:
            run.settle()
        return True, False

    def _stop_parties(self, engine: str, run: PartyRun) -> None:
        run.start()
        for _ in range(self._choose.randint(2, 4)):
            victim = self._choose.choice(run.parties)
            if not self._moment(engine, run):
                break
            run.send(victim, signal.SIGSTOP)
            time.sleep(self._choose.uniform(LONG_LEASE / 8, LONG_LEASE / 4))
            run.send(victim, signal.SIGCONT)
            self._count(engine, "stop")
        if not run.finish():
            raise FailedError("a stop shorter than the lease lost a party")

    def _cut(self, run: PartyRun) -> None:
        run.start()
        if not run.finish():
            raise FailedError("cuts shorter than the lease lost a party")

    def _moment(self, engine: str, run: PartyRun) -> str | None:
        return Moments(run, self._choose, self._seconds[engine]).wait()

    def _count(self, engine: str, what: str, number: int = 1) -> None:
        self.counts[f"{engine} {what}"] += number


def _lane(folder: Path, number: int, options: argparse.Namespace) -> int:
    lane = Lane(folder, number, options.seed)
    own = options.lanes * len(options.engines)
    share = {"kills": own, "stops": own, "cuts": options.lanes}
    share = {what: -(-getattr(options, what) // parts) for what, parts in share.items()}
    for engine in options.engines:
        lane.work(engine, share)
    report = {"counts": lane.counts, "failures": lane.failures}
    (folder / f"lane-{number}.json").write_text(json.dumps(report))
    return 0


def _import_everything(folder: Path) -> None:
    """What forks of this process need not import again; nothing of it starts a thread."""
    import grpc  # noqa: F401
    import torch.distributed.distributed_c10d

    from amaqctl import following, runs  # noqa: F401
    from amaqctl.build import build
    from amaqctl.cli import main, party, train  # noqa: F401
    from amaqctl.cli.console import progress  # noqa: F401
    from amaqctl.profile import load_profile
    from amaqctl.transports import gloo_meeting, gloo_pair, grpc_dial, grpc_listen  # noqa: F401

    torch.set_num_threads(1)
    os.chdir(folder)
    build(load_profile("p.yaml", ["transport={name: loopback}"]))


def _undisturbed(folder: Path) -> None:
    for case in CASES:

        def train(arguments: list[str] = one_process(folder, case)) -> None:
            os.chdir(folder)
            command(arguments)

        output = folder / f"alone-{case}.txt"
        _, status = os.waitpid(forked(train, output), 0)
        if status:
            sys.exit(output.read_text())


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="over all engines")
    parser.add_argument("--stops", type=int, default=20, help="shorter than the lease")
    parser.add_argument("--cuts", type=int, default=120, help="of connections, over gRPC")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=2, help="campaigns at the same time")
    parser.add_argument("--folder", type=Path, help="keep all runs here")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="amaqctl-parties-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("AMAQCTL_CACHE", str(folder / "cache"))
        prepare(folder)
        _import_everything(folder)
        _undisturbed(folder)
        outputs = [folder / f"lane-{n}.txt" for n in range(options.lanes)]
        pids = [
            forked(lambda n=n: _lane(folder, n, options), output)  # type: ignore[misc]
            for n, output in enumerate(outputs)
        ]
        counts: Counter[str] = Counter()
        failures: list[str] = []
        for n, pid in enumerate(pids):
            _, status = os.waitpid(pid, 0)
            if status:
                failures.append(outputs[n].read_text())
                continue
            report = json.loads((folder / f"lane-{n}.json").read_text())
            counts.update(report["counts"])
            failures += report["failures"]
    for engine in options.engines:
        own = {k.split(" ", 1)[1]: n for k, n in counts.items() if k.startswith(f"{engine} ")}
        print(f"{engine}: " + ", ".join(f"{n} {what}" for what, n in sorted(own.items())))
    print(f"{len(failures)} lost, different or hanging; {time.monotonic() - started:.0f} s")
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(_main())
