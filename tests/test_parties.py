"""Several processes train what one trains, to the last bit; and they agree, or say where not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from party_processes import ended, outcome, prepare, start
from safetensors.torch import load_file
from transport_parts import free_port

CASES = {
    "amaq": ["quantizers.activation={name: amaq}"],
    "aq-sgd": [
        "quantizers.activation={name: aq-sgd}",
        "quantizers.gradient={name: group}",
        "train.max_steps=8",
    ],
    "stranger": [
        "quantizers.activation={name: delta, options: {inner: {name: fixed, options: {bits: 4}}}}",
        "train.max_steps=8",
    ],
    "whole": ["lora=null", "quantizers.activation={name: amaq}", "optimizer.lr=0.001"],
    "generated": [
        "quantizers.activation={name: amaq, options: {allocation: learned}}",
        "task.options.generate={max_new_tokens: 3}",
        "train.max_steps=2",
    ],
}
LOOPBACK = ["--set", "transport={name: loopback}"]


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parties")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    """The same runs in one process."""
    commands = [
        ["train", "p.yaml", *words(*settings), *LOOPBACK, "--out", f"alone-{name}", "-q"]
        for name, settings in CASES.items()
    ]
    for code, _, err in ended(start(place, commands)):
        assert code == 0, err
    return place


def as_parties(place: Path, commands: dict[str, list[list[str]]]) -> dict[str, list]:
    processes = {name: start(place, asked) for name, asked in commands.items()}
    return {name: ended(process) for name, process in processes.items()}


@pytest.fixture(scope="module")
def together(alone: Path) -> Path:
    """And by two organisations, at each of which every command succeeds."""
    commands = {
        party: [
            ["train", "p.yaml", *words(*settings), "--party", f"{party}.yaml", "--out", name]
            for name, settings in CASES.items()
        ]
        for party in ("client", "server")
    }
    told = as_parties(alone, commands)
    (alone / "told.txt").write_text(told["client"][0][1])
    for party, results in told.items():
        assert [code for code, _, _ in results] == [0] * len(CASES), (party, results)
    return alone


def test_two_organisations_train_what_one_process_trains(together: Path) -> None:
    for name in CASES:
        found = outcome(together / name / "client", together / name / "server")
        expected = outcome(together / f"alone-{name}")
        for what in expected:
            assert found[what] == expected[what], (name, what)
        assert found["adapter"]
        assert found["states"] or name != "amaq"
    # Each has its own stages only.
    assert len(outcome(together / "amaq" / "server")["adapter"]) == 16


def test_what_needs_every_stage_says_so(together: Path, tmp_path: Path) -> None:
    client, server = (together / "amaq" / party for party in ("client", "server"))
    asked = [
        ["eval", client],
        ["export", server, "--to", tmp_path / "merged", "--merge"],
        ["export", server, "--to", tmp_path / "own"],
        ["train", "--resume", client, "--max-steps", "9"],
        ["inspect-bits", server],
        ["runs", server],
    ]
    found = ended(start(together, asked))
    assert [code for code, _, _ in found] == [4, 4, 0, 2, 0, 0], found
    assert "an evaluation needs every stage, and others of this run lie at" in found[0][2]
    assert "a merge needs every stage" in found[1][2]
    assert not (tmp_path / "merged").exists()
    assert "the adapter holds the layers of this party alone" in found[2][2]
    assert len(load_file(tmp_path / "own" / "adapter_model.safetensors")) == 16
    assert "give --party FILE at every party" in found[3][2]
    assert f"amaqctl inspect-bits {Path('amaq', 'client')}" in (together / "told.txt").read_text()


def test_three_processes_of_a_cluster_train_what_one_process_trains(alone: Path) -> None:
    port = str(free_port())
    asked = [
        *["train", "p.yaml", *words(*CASES["amaq"]), "--set", "transport={name: distributed}"],
        *["--party", "all.yaml", "--out", "cluster"],
    ]
    ranks = [
        start(
            alone, [asked], MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(r), WORLD_SIZE="3"
        )
        for r in range(3)
    ]
    for process in ranks:
        ((code, _, err),) = ended(process)
        assert code == 0, err
    runs = [alone / "cluster" / name for name in ("client", "server", "other")]
    found, expected = outcome(*runs), outcome(alone / "alone-amaq")
    for what in expected:
        assert found[what] == expected[what], what


def test_parties_that_differ_are_refused_and_nothing_is_made(place: Path) -> None:
    found = as_parties(
        place,
        {
            "client": [["train", "p.yaml", "--party", "client.yaml", "--out", "differ"]],
            "server": [
                ["train", "p.yaml", "--party", "server.yaml", "--out", "differ", *words("lora.r=4")]
            ],
        },
    )
    ((code, _, err),) = found["client"]
    assert (code, "the parties differ in lora.r: 8 at client, 4 at server" in err) == (4, True)
    ((code, _, err),) = found["server"]
    assert (code, "the parties differ in lora.r: 4 at server, 8 at client" in err) == (4, True)
    assert not (place / "differ").exists()


def test_a_follower_makes_no_run_before_its_leader_has_one(place: Path) -> None:
    """It would be of a session that nobody goes on with, and stand in the way of the next start."""
    asked = {
        party: ["train", "p.yaml", "--party", f"{party}.yaml", "--out", out]
        for party, out in (("client", "d.jsonl/below-a-file"), ("server", "early"))
    }
    found = as_parties(place, {party: [command] for party, command in asked.items()})
    assert [found[party][0][0] for party in ("client", "server")] == [7, 10], found
    assert "party client: failed: " in found["server"][0][2]
    assert not (place / "early").exists()


@pytest.mark.parametrize("victim", ["client", "server"])
def test_killed_and_started_again_they_come_to_the_same(alone: Path, victim: str) -> None:
    out = f"killed-{victim}"
    asked = {
        party: [
            "train",
            "p.yaml",
            *words(*CASES["aq-sgd"]),
            "--party",
            f"{party}.yaml",
            "--out",
            out,
            *words("transport.options.lease_seconds=3"),
        ]
        for party in ("client", "server")
    }
    processes = {party: start(alone, [command]) for party, command in asked.items()}
    checkpoint = alone / out / victim / "checkpoints" / "step-000004"
    waited = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < waited:
        time.sleep(0.01)
    processes[victim].send_signal(signal.SIGKILL)
    (other,) = set(processes) - {victim}
    ((code, _, err),) = ended(processes[other])
    processes[victim].communicate(timeout=60)
    if code == 0:
        pytest.skip("the run was over before the kill")
    assert (code, f"party {victim}" in err) == (10, True), err
    again = {party: [["train", "--resume", out, "--party", f"{party}.yaml"]] for party in processes}
    for results in as_parties(alone, again).values():
        assert [code for code, _, _ in results] == [0], results
    found = outcome(alone / out / "client", alone / out / "server")
    expected = outcome(alone / "alone-aq-sgd")
    for what in expected:
        assert found[what] == expected[what], what


def test_a_leader_that_is_stopped_stops_the_others_in_order(place: Path) -> None:
    asked = {
        party: [
            "train",
            "p.yaml",
            "--party",
            f"{party}.yaml",
            "--out",
            "stopped",
            *words("train.max_steps=1000"),
        ]
        for party in ("client", "server")
    }
    processes = {party: start(place, [command]) for party, command in asked.items()}
    first = place / "stopped" / "client" / "checkpoints" / "step-000002"
    waited = time.monotonic() + 120
    while not first.exists() and time.monotonic() < waited:
        time.sleep(0.01)
    processes["client"].send_signal(signal.SIGINT)
    ((code, _, err),) = ended(processes["client"])
    assert (code, "everything is saved" in err) == (130, True), err
    ((code, _, err),) = ended(processes["server"])
    assert (code, "the leader stopped after" in err) == (10, True), err
    saved = [
        sorted(os.listdir(place / "stopped" / party / "checkpoints"))[-1] for party in processes
    ]
    assert saved[0] == saved[1]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("holders: [a, b]\n", 3, "name: required key is missing"),
        ("name: a\nholders: [a, b]\n", 4, "holders: 2 named, and the cuts make 3 stages"),
        ("name: c\nholders: [a, b, a]\n", 4, "party 'c' holds no stage"),
        ("name: a\nholders: [a, b, a]\nlisten: nowhere\n", 3, "listen"),
        ("name: a\nholdres: [a, b, a]\n", 3, "did you mean 'holders'"),
        ("name: b\nholders: [a, b, a]\nquorum: 2\n", 3, "there are no clients that it could"),
        (
            "name: b\nholders: [a, b, c]\nclients: [d, e]\n",
            3,
            "a server of several has stages itself, and all others are the client's",
        ),
        ("name: a\nholders: [a, b, a]\nclients: [d, e]\n", 3, "a server of several has stages"),
        ("name: b\nholders: [a, b, a]\nclients: [d, d]\n", 3, "each name once"),
        ("name: b\nholders: [a, b, a]\nclients: [d, b]\n", 3, "not this party's own"),
        ("name: b\nholders: [a, b, a]\nclients: [d]\nquorum: 2\n", 3, "there are 1 clients"),
    ],
)
def test_a_party_file_that_means_nothing(place: Path, text: str, code: int, said: str) -> None:
    (place / "bad.yaml").write_text(text)
    ((found, _, err),) = ended(start(place, [["train", "p.yaml", "--party", "bad.yaml"]]))
    assert (found, said in err) == (code, True), err
    assert "bad.yaml" in err


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (["transport={name: distributed}"], 2, "'distributed' knows no server of several clients"),
        ([], 4, "nothing says how d, e and b find each other"),
    ],
)
def test_a_server_of_several_that_cannot_be(
    place: Path, settings: list[str], code: int, said: str
) -> None:
    text = "name: b\nholders: [a, b, a]\nclients: [d, e]\ncertificates: certs/server\n"
    (place / "b.yaml").write_text(
        text.replace("name: b", "name: server").replace(", b,", ", server,")
    )
    asked = ["train", "p.yaml", *words(*settings), "--party", "b.yaml", "--out", "never"]
    ((found, _, err),) = ended(start(place, [asked]))
    assert (found, said.replace(" b ", " server ") in err) == (code, True), err
    assert not (place / "never").exists()


def test_a_transport_of_one_process_joins_nobody(place: Path) -> None:
    asked = ["train", "p.yaml", *LOOPBACK, "--party", "client.yaml"]
    ((code, _, err),) = ended(start(place, [asked]))
    assert (code, "transport 'loopback' joins no processes" in err) == (2, True), err


def test_json_of_both_sides(alone: Path) -> None:
    found = as_parties(
        alone,
        {
            party: [
                [
                    "train",
                    "p.yaml",
                    *words("train.max_steps=1"),
                    "--party",
                    f"{party}.yaml",
                    "--out",
                    "json",
                    "--json",
                ]
            ]
            for party in ("client", "server")
        },
    )
    led, followed = (json.loads(found[party][0][1])["data"] for party in ("client", "server"))
    assert (led["steps"], followed["steps"], followed["party"]) == (1, 1, "server")
    assert 0 < followed["wire_bytes"] < led["wire_bytes"]


def digests(checkpoint: Path) -> dict[str, str]:
    """Of all that a checkpoint holds but for who the run is."""
    found = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != "COMPLETE":
            data = path.read_bytes()
            if path.name == "trainer.json":
                document = json.loads(data)
                del document["identity"]
                data = json.dumps(document).encode()
            found[str(path.relative_to(checkpoint))] = hashlib.sha256(data).hexdigest()
    return found


def test_joined_parts_are_the_run_of_one_process(together: Path, tmp_path: Path) -> None:
    for name in ("aq-sgd", "whole", "stranger", "amaq"):
        parts = [together / name / party for party in ("server", "client")]
        whole, alone = tmp_path / name, together / f"alone-{name}"
        steps = sorted(path.name for path in (alone / "checkpoints").iterdir())
        asked = [
            ["join", *parts, "--out", whole],
            ["eval", whole, "--boundary", "both", "--json"],
            ["eval", alone, "--boundary", "both", "--json"],
            ["inspect-bits", whole],
            ["export", whole, "--merge", "--to", tmp_path / f"{name}-merged"],
        ]
        found = ended(start(together, asked))
        assert [code for code, _, _ in found] == [0] * len(asked), found
        scores = [json.loads(out) for _, out, _ in found if out.startswith("{")]
        assert scores[0]["data"]["metrics"] == scores[1]["data"]["metrics"]
        for step in steps:
            assert digests(whole / "checkpoints" / step) == digests(alone / "checkpoints" / step)
    copied = tmp_path / "alone"
    shutil.copytree(alone, copied)
    asked = [["train", "--resume", run, "--max-steps", "6", "-q"] for run in (whole, copied)]
    assert [code for code, _, _ in ended(start(together, asked))] == [0, 0]
    assert outcome(whole) == outcome(copied)


def test_what_cannot_be_joined(together: Path, tmp_path: Path) -> None:
    client, server = (together / "amaq" / party for party in ("client", "server"))
    out = tmp_path / "whole"
    cases = [
        ([client], "1 of 1 parts are of a party that led"),
        ([client, client], "2 of 2 parts are of a party that led, and those of the others are"),
        ([server], "0 of 1 parts are of a party that led, and one is due"),
        ([client, server, server], "a part is given twice"),
        ([client, together / "aq-sgd" / "server"], "is a part of another run than"),
        ([together / "alone-amaq", server], "is whole already"),
        ([client, together / "nowhere"], "there is no run"),
    ]
    asked = [["join", *parts, "--out", out] for parts, _ in cases]
    found = ended(start(together, asked))
    for (_, said), (code, _, err) in zip(cases, found, strict=True):
        assert (code, said in err) == (4, True), err
    assert not out.exists()


def test_a_dry_run_compares_and_writes_nothing(place: Path) -> None:
    dry = {
        party: ["train", "p.yaml", "--party", f"{party}.yaml", "--dry-run"]
        for party in ("client", "server")
    }
    found = as_parties(place, {party: [[*asked, "--json"]] for party, asked in dry.items()})
    for party, other in (("client", "server"), ("server", "client")):
        ((code, out, err),) = found[party]
        assert code == 0, err
        told = json.loads(out)
        assert told["schema"] == "amaqctl.agreement/1"
        assert (told["data"]["party"], told["data"]["agreed"]) == (party, [other])
        assert told["data"]["data"]["num_samples"] == 24
    other_rank = ["train", "p.yaml", "--party", "server.yaml", "--out", "dry", *words("lora.r=4")]
    real = ["train", "p.yaml", "--party", "server.yaml", "--out", "dry"]
    for asked, code, said in (
        (real, 10, "the leader stopped before the run began: it was a dry run"),
        (other_rank, 4, "the parties differ in lora.r: 4 at server, 8 at client"),
    ):
        found = as_parties(place, {"client": [dry["client"]], "server": [asked]})
        ((client_code, _, client_err),) = found["client"]
        ((server_code, _, err),) = found["server"]
        assert client_code == (0 if code == 10 else 4), client_err
        assert (server_code, said in err) == (code, True), err
        assert not (place / "dry").exists()


def test_a_dry_run_beside_one_that_trains(place: Path) -> None:
    found = as_parties(
        place,
        {
            "client": [["train", "p.yaml", "--party", "client.yaml", "--out", "beside"]],
            "server": [["train", "p.yaml", "--party", "server.yaml", "--dry-run"]],
        },
    )
    ((code, _, err),) = found["server"]
    assert (code, "it was a dry run here, and client trains" in err) == (10, True), err
    ((code, _, err),) = found["client"]
    assert (code, "failed: it was a dry run here" in err) == (10, True), err
