"""Several clients of one server: one result whatever comes first, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from party_processes import ended, outcome, prepare, start
from transport_parts import free_port
from typer.testing import CliRunner

from amaqctl.cli.main import app

SETTINGS = [
    "clients={average_every: 3, wait_seconds: 20}",
    "train.max_steps=8",
    "eval={every: 4, max_examples: 4}",
]
NAMES = ("anna", "ben")


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def others_data(name: str) -> str:
    return f"task.options.train={name}.jsonl"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, data and party files of two clients and their server."""
    folder = tmp_path_factory.mktemp("clients")
    prepare(folder)
    for name in NAMES:
        asked = ["certs", "client", name, "--dir", str(folder / "certs"), "-q"]
        assert CliRunner().invoke(app, asked).exit_code == 0
        rows = [{"prompt": f"{name} {i}?", "completion": f"{name[0]} {i % 4}."} for i in range(30)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Run:
    """One run of a server and its clients, in a folder of its own, at a port of its own."""

    def __init__(self, place: Path, name: str, *more: str) -> None:
        self.place, self.name = place, name
        self._more = more
        port = free_port()
        self._write("server", f"clients: [anna, ben]\nlisten: 127.0.0.1:{port}", "client")
        for client in NAMES:
            self._write(client, f"connect: {{server: '127.0.0.1:{port}'}}", client)

    def _write(self, party: str, own: str, front: str) -> None:
        (self.place / f"{self.name}-{party}.yaml").write_text(
            f"name: {party}\nholders: [{front}, server, {front}]\n{own}\n"
            f"certificates: certs/{party}\n"
        )

    def begin(self, party: str, *settings: str, prelude: str = ""):
        asked = ["train", "p.yaml", "--party", f"{self.name}-{party}.yaml", "--out", self.name]
        command = [*asked, *words(*SETTINGS, *self._more, *settings)]
        return start(self.place, [command], PRELUDE=prelude)

    def go_on(self, party: str):
        asked = ["train", "--resume", self.name, "--party", f"{self.name}-{party}.yaml"]
        return start(self.place, [asked])

    def folder(self, *parts: str) -> Path:
        return self.place.joinpath(self.name, *parts)

    def roll(self) -> list[tuple[list[str], str]]:
        lines = self.folder("server", "roll.jsonl").read_text().splitlines()
        return [(entry["clients"], entry["why"]) for entry in map(json.loads, lines)]

    def outcome(self, client: str) -> dict:
        return outcome(self.folder(client), self.folder("server", client))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def codes(**processes) -> dict[str, int]:
    return {name: ended(process)[0][0] for name, process in processes.items()}


def together(run: Run, data: Callable[[str], list[str]]) -> None:
    processes = {name: run.begin(name, *data(name)) for name in NAMES}
    assert codes(server=run.begin("server"), **processes) == {"server": 0, "anna": 0, "ben": 0}


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> Run:
    run = Run(place, "undisturbed")
    together(run, lambda name: [others_data(name)])
    return run


@pytest.fixture(scope="module")
def alone(place: Path) -> dict:
    """What one client comes to in one process."""
    asked = ["train", "p.yaml", *words(*SETTINGS, "transport={name: loopback}"), "--out", "alone"]
    assert ended(start(place, [asked]))[0][0] == 0
    return outcome(place / "alone")


def assert_alone(found: dict, expected: dict) -> None:
    for what in ("adapter", "states", "widths"):
        assert found[what] == expected[what], what
    kept = {key: r["loss"] for key, r in expected["metrics"].items() if key[0] == "train"}
    assert {key: found["metrics"][key]["loss"] for key in kept} == kept


def test_two_clients_alike_train_what_one_does_alone(place: Path, alone: dict) -> None:
    """The mean of two equal gradients is each of them, to the last bit."""
    run = Run(place, "alike")
    together(run, lambda name: [])
    for name in NAMES:
        assert_alone(run.outcome(name), alone)


HOSTILE = {
    "stalls": (
        "import time; from amaqctl.party.leader import Followers as F\n"
        "F.train = lambda *_: time.sleep(1000)",
        "ben let the others wait for more than 4 s at step 0",
    ),
    "floods": (
        "from amaqctl.party.leader import Followers as F; from amaqctl.party.notes import Forget\n"
        "def flood(self, *_):\n"
        "    while True: self.say('server', Forget(generation=1))\n"
        "F.train = flood",
        "ben l",
    ),
    "lies": (
        "from amaqctl.party.leader import Followers as F\n"
        "F.train = lambda self, *_: self.update(1.0)",
        "ben left: 'update' out of turn: this party is ready",
    ),
    "skips": (
        "from amaqctl.party.leader import Followers as F\n"
        "import torch; real = F.train\n"
        "F.train = lambda self, step, *rest: real(self, step, *rest) or self.average("
        "step, {0: torch.zeros(3, 3)})",
        "ben l",
    ),
    "misshapes": (
        "from amaqctl.party.leader import Followers as F\n"
        "import torch; real = F.average\n"
        "F.train = lambda self, *_: real(self, 0, {0: torch.zeros(3, 3)})",
        "ben left: illegal weights: those of place '1' are missing",
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_client_changes_nothing_for_an_honest_one(
    place: Path, alone: dict, how: str
) -> None:
    prelude, why = HOSTILE[how]
    run = Run(place, f"hostile-{how}", "clients.wait_seconds=4")
    server, anna = run.begin("server"), run.begin("anna")
    ben = run.begin("ben", prelude=prelude)
    try:
        assert codes(server=server, anna=anna) == {"server": 0, "anna": 0}
    finally:
        ben.kill()
        ben.communicate()
    assert_alone(run.outcome("anna"), alone)
    rolls = run.roll()
    assert rolls[0][0] == ["anna", "ben"]
    assert rolls[1][0] == ["anna"]
    assert rolls[1][1].startswith(why), rolls


def test_clients_are_not_alike_and_share_what_they_should(undisturbed: Run) -> None:
    anna, ben = (undisturbed.outcome(name) for name in NAMES)
    # The last step is a mean: adapters are one, on both sides of the cuts.
    assert anna["adapter"] == ben["adapter"]
    assert anna["states"] != ben["states"]
    assert anna["metrics"]["train", 1]["loss"] != ben["metrics"]["train", 1]["loss"]
    means = sorted(step for kind, step in anna["metrics"] if kind == "average")
    assert means == [3, 6, 8]
    result = json.loads(undisturbed.folder("anna", "run.json").read_text())["result"]
    each = {anna["metrics"]["average", step]["bytes"] for step in means}
    assert len(each) == 1
    assert result["average_bytes"] == 3 * each.pop()
    assert undisturbed.roll()[0][0] == ["anna", "ben"]


def test_whoever_comes_first_the_result_is_one(place: Path, undisturbed: Run) -> None:
    run = Run(place, "slow")
    server, ben = run.begin("server"), run.begin("ben", others_data("ben"))
    time.sleep(1)
    anna = run.begin("anna", others_data("anna"))
    metrics = run.folder("ben", "metrics.jsonl")
    wait_for(metrics.exists)
    for process in (ben, anna, ben, anna):  # each in turn is far behind
        if process.poll() is None:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.4)
            os.kill(process.pid, signal.SIGCONT)
    assert codes(server=server, anna=anna, ben=ben) == {"server": 0, "anna": 0, "ben": 0}
    for name in NAMES:
        assert run.outcome(name) == undisturbed.outcome(name)


def test_in_turns_each_goes_on_from_the_one_before(place: Path) -> None:
    found = []
    for name in ("turns", "again"):
        run = Run(place, name, "clients={average_every: 2, turns: true}")
        together(run, lambda client: [others_data(client)])
        found.append({client: run.outcome(client) for client in NAMES})
    for client in NAMES:
        assert found[0][client] == found[1][client]
    anna, ben = (found[0][name] for name in NAMES)
    assert anna["adapter"] == ben["adapter"]
    steps = [[s for kind, s in ends["metrics"] if kind == "train"] for ends in (anna, ben)]
    assert steps == [[1, 2, 5, 6], [3, 4, 7, 8]]
    assert [r["bytes"] > 0 for key, r in ben["metrics"].items() if key[0] == "average"] == [
        True
    ] * 4


def test_all_are_killed_and_come_to_the_same(place: Path, undisturbed: Run) -> None:
    run = Run(place, "killed")
    server = run.begin("server")
    clients = {name: run.begin(name, others_data(name)) for name in NAMES}
    wait_for(lambda: (run.folder("ben", "checkpoints") / "step-000002" / "COMPLETE").exists())
    os.kill(server.pid, signal.SIGKILL)
    server.communicate()
    assert codes(**clients) == {"anna": 10, "ben": 10}
    again = {name: run.go_on(name) for name in (*NAMES, "server")}
    assert codes(**again) == {"anna": 0, "ben": 0, "server": 0}
    for name in NAMES:
        assert run.outcome(name) == undisturbed.outcome(name)


def test_one_vanishes_and_joins_the_others_again(place: Path) -> None:
    run = Run(place, "lost", "train.max_steps=60", "clients={average_every: 2}")
    server, anna = run.begin("server"), run.begin("anna", others_data("anna"))
    ben = run.begin("ben", others_data("ben"))
    wait_for(lambda: (run.folder("ben", "checkpoints") / "step-000002" / "COMPLETE").exists())
    os.kill(anna.pid, signal.SIGSTOP)  # not to be over before the other one is back
    os.kill(ben.pid, signal.SIGKILL)
    ben.communicate()
    run.folder("ben").rename(run.folder("old-ben"))
    ben = run.begin("ben", others_data("ben"))
    time.sleep(6)
    os.kill(anna.pid, signal.SIGCONT)
    told = {name: ended(p)[0] for name, p in (("server", server), ("anna", anna), ("ben", ben))}
    assert {name: code for name, (code, _, _) in told.items()} == {
        "server": 0,
        "anna": 0,
        "ben": 0,
    }, told
    rolls = run.roll()
    assert any(who == ["anna"] and "ben left" in why for who, why in rolls), rolls
    (joined,) = [index for index, (_, why) in enumerate(rolls) if why == "ben joins"]
    assert rolls[joined][0] == ["anna", "ben"]
    anna_end = run.outcome("anna")
    ben_end = outcome(run.folder("ben"), run.folder("server", "ben-2"))
    assert anna_end["adapter"] == ben_end["adapter"]
    steps = [step for kind, step in ben_end["metrics"] if kind == "train"]
    assert min(steps) > 1
    assert max(steps) == 60
    first = min(step for kind, step in ben_end["metrics"] if kind == "eval")
    assert first == min(steps) - 1
    assert first % 2 == 0
