"""Runs of several parties whose lives are forked children of one process: quick to start again.

`kill_parties.py` kills, stops and cuts them off; what a run must keep through that is asked here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from kill_points import command, forked
from party_processes import HOLDERS
from transport_parts import free_port

from amaqctl.engine.checkpoint_folder import all_checkpoints, fault_of, step_of
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError

NUM_STEPS = 8
CASES = {
    "amaq": ["quantizers.activation={name: amaq, options: {target_bits: 3, memory: 0.5}}"],
    "aq-sgd": [
        "quantizers.activation={name: aq-sgd, options: {bits: 4}}",
        "quantizers.gradient={name: group, options: {bits: 6}}",
    ],
}
ENGINES = {"grpc": ("client", "server"), "distributed": ("client", "server", "other")}
LEADER = "client"
HANG_SECONDS = 40.0
_LOST = 10
_UNMET = 4  # a launch of which one died before all had met
_SHARED = [f"train.max_steps={NUM_STEPS}", "eval.every=4", "eval.max_examples=2"]


def words(settings: list[str]) -> list[str]:
    """Settings as arguments of the command line."""
    return [word for setting in settings for word in ("--set", setting)]


def one_process(folder: Path, case: str) -> list[str]:
    """The command that trains the same in one process."""
    settings = [*_SHARED, *CASES[case], "transport={name: loopback}"]
    return ["train", "p.yaml", *words(settings), "--out", f"alone-{case}", "-q"]


class FailedError(Exception):
    """Something hung, was lost, or ended as it must not."""


@dataclass
class Life:
    """One process of a party."""

    pid: int
    output: Path

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self.output.read_text() if self.output.exists() else ""

    @property
    def is_connected(self) -> bool:
        """Whether it has met a peer: from then on it must notice that one goes."""
        return "is connected" in self.text


class PartyRun:
    """One run in a folder that `party_processes.prepare` has filled.

    Args:
        place: that folder.
        name: of the run, whose folders are ``place/name/PARTY``.
        engine: a key of `ENGINES`.
        case: a key of `CASES`.
        lease_seconds: of the transport; a silence is an eighth of it.
        port: that the client dials, where it is not the server's own.
    """

    def __init__(
        self, place: Path, name: str, engine: str, case: str, lease_seconds: float
    ) -> None:
        self.out = place / name
        self.parties = ENGINES[engine]
        self.server_port = free_port()
        self.lives: dict[str, Life] = {}
        self._place, self._engine, self._case = place, engine, case
        self._patience = {"silence_seconds": lease_seconds / 8, "lease_seconds": lease_seconds}
        self._num_lives = 0
        self._port = 0

    def dial(self, port: int) -> None:
        """Write the party files; the client dials ``port``."""
        certificates = self._place / "certs"
        places = {
            "client": f"connect: {{server: '127.0.0.1:{port}'}}",
            "server": f"listen: 127.0.0.1:{self.server_port}",
        }
        for name, place in places.items():
            self._party_file(name).write_text(
                f"name: {name}\nholders: [{', '.join(HOLDERS)}]\n{place}\n"
                f"certificates: {certificates / name}\n"
            )

    def start(self) -> None:
        """Start every party that does not live: with --resume where it has a run."""
        if self._engine == "distributed" and not self.lives:
            self._port = free_port()
        for rank, name in enumerate(self.parties):
            if name not in self.lives:
                self._num_lives += 1
                output = self.out.parent / f"{self.out.name}-{self._num_lives}-{name}.txt"
                launcher = {
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(self._port),
                    "RANK": str(rank),
                    "WORLD_SIZE": str(len(self.parties)),
                }
                more = launcher if self._engine == "distributed" else {}
                self.lives[name] = Life(forked(self._work(name, more), output), output)

    def _work(self, name: str, environment: dict[str, str]) -> Callable[[], None]:
        own = ["--party", str(self._party_file(name))]
        if (self.out / name / "run.json").exists():
            arguments = ["train", "--resume", str(self.out), *own]
        else:
            options = ", ".join(f"{key}: {value}" for key, value in self._patience.items())
            transport = f"transport={{name: {self._engine}, options: {{{options}}}}}"
            settings = [*_SHARED, *CASES[self._case], transport]
            arguments = ["train", "p.yaml", *words(settings), *own, "--out", str(self.out)]

        def work() -> None:
            os.chdir(self._place)
            os.environ.update(environment)
            # A fork spoils torch's pool, and the first thread renews it: not two at once.
            torch.set_num_threads(1)
            signal.signal(signal.SIGUSR1, lambda *_: _cut_own_connections())
            command(arguments)

        return work

    def _party_file(self, name: str) -> Path:
        if self._engine == "distributed":
            return self._place / "all.yaml"
        return self.out.parent / f"{self.out.name}-{name}.yaml"

    def reap(self) -> dict[str, tuple[int, str]]:
        """Exit codes of those that have ended since, and what they said; negative for signals."""
        found = {}
        for name, life in list(self.lives.items()):
            pid, status = os.waitpid(life.pid, os.WNOHANG)
            if pid:
                found[name] = (os.waitstatus_to_exitcode(status), life.text)
                del self.lives[name]
        return found

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to one party."""
        if name in self.lives:
            os.kill(self.lives[name].pid, number)

    def kill(self, name: str) -> bool:
        """Kill one party; False where it had ended before."""
        life = self.lives.pop(name)
        os.kill(life.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(life.pid, 0)[1])
        self._judge({name: (code, life.text)})
        return code == -signal.SIGKILL

    def settle(self, but: str | None = None) -> None:
        """Wait until all that had met have ended; who waits for its first peer may go on.

        Args:
            but: a party that is stopped, and cannot.

        Raises:
            FailedError: one hangs, or ends in another way than with a lost peer.
        """
        started = time.monotonic()
        patience = 2 * self._patience["lease_seconds"] + 1
        while True:
            self._judge(self.reap())
            left = {name: life for name, life in self.lives.items() if name != but}
            seconds = time.monotonic() - started
            if not left or (
                seconds > patience and not any(life.is_connected for life in left.values())
            ):
                break
            if seconds > HANG_SECONDS:
                told = {name: life.text[-500:] for name, life in left.items()}
                raise FailedError(f"hangs for {seconds:.0f} s: {told}")
            time.sleep(0.01)
        if self._engine == "distributed":  # a launcher ends the rest
            self._end(left)

    def _end(self, left: dict[str, Life]) -> None:
        for name in left:
            self.send(name, signal.SIGTERM)
        end = time.monotonic() + HANG_SECONDS
        while any(name in self.lives for name in left):
            self.reap()
            if time.monotonic() > end:
                raise FailedError(f"SIGTERM does not end {list(self.lives)}")
            time.sleep(0.01)

    def _judge(self, ended: dict[str, tuple[int, str]]) -> None:
        for name, (code, said) in ended.items():
            is_unmet = code == _UNMET and "do not meet" in said
            if code not in (0, _LOST, -signal.SIGKILL) and not is_unmet:
                raise FailedError(f"{name} ended with {code}: {said}")
            if code == _LOST and said.count("\nerror: ") != 1:
                raise FailedError(f"{name} does not end with one line: {said}")

    def finish(self, seconds: float = 120.0) -> bool:
        """Wait until all have ended; False where one was lost to another and must start again."""
        end = time.monotonic() + seconds
        codes: dict[str, int] = {}
        while self.lives:
            ended = self.reap()
            self._judge(ended)
            codes |= {name: code for name, (code, _) in ended.items()}
            if self.is_done and not any(life.is_connected for life in self.lives.values()):
                self.kill_all()  # a follower that was done, and started again before its leader was
            if any(codes.values()) and not self.is_done:
                self.settle()
                return False
            if time.monotonic() > end:
                told = {name: life.text[-500:] for name, life in self.lives.items()}
                raise FailedError(f"not done in {seconds:.0f} s: {told}")
            time.sleep(0.01)
        if not self.is_done:
            raise FailedError(f"all ended with {codes}, and the run is not done")
        return True

    def kill_all(self) -> None:
        """End what lives."""
        for name, life in list(self.lives.items()):
            self.send(name, signal.SIGCONT)
            self.send(name, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(life.pid, 0)
        self.lives.clear()

    @property
    def is_done(self) -> bool:
        """Whether the leader has come to the end."""
        try:
            return RunFolder(self.out / LEADER).run["status"] == "done"
        except InputError:
            return False

    def check_acknowledged(self) -> int:
        """The newest step that the leader recorded as saved, which every party must have whole.

        Raises:
            FailedError: one has it not, or the leader once went on from an earlier step.
        """
        newest = 0
        for record in self._records():
            if record["kind"] == "save":
                newest = max(newest, record["step"])
            elif record["kind"] == "resume" and record["step"] < newest:
                raise FailedError(f"went on from {record['step']} after {newest} was saved")
        for name in self.parties if newest else ():
            checkpoints = all_checkpoints(self.out / name / "checkpoints")
            whole = [step_of(path) for path in checkpoints if fault_of(path) is None]
            torn = [step_of(path) for path in checkpoints if fault_of(path) is not None]
            if newest not in whole or torn:
                raise FailedError(f"{newest} is saved; {name} has {whole} whole and {torn} torn")
        return newest

    def _records(self) -> Iterator[dict[str, object]]:
        path = self.out / LEADER / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):  # torn, or cut off by the next life
                yield json.loads(line)


def _cut_own_connections() -> None:
    """Shut every TCP connection of this process, as a network that goes away would in the end."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as found:
                    is_tcp = found.type == socket.SOCK_STREAM and found.family != socket.AF_UNIX
                    if is_tcp and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found.shutdown(socket.SHUT_RDWR)
