"""run.json, metrics, widths and traces that are damaged, or claim more than there is."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kill_points import forked
from run_files import amaqctl, failure

from amaqctl.engine.bits_history import read_snapshot
from amaqctl.engine.metrics import read_metrics
from amaqctl.errors import InputError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "recursion limit exceeded"),
        ("[]", "Input should be an object"),
        ("{}", "schema: Field required"),
        ('{"schema": "amaqctl.run/2"}', "schema: Input should be 'amaqctl.run/1'"),
        ('{"schema": "amaqctl.run/1", "pid": "1"}', "pid: Input should be a valid integer"),
        ('{"schema": "amaqctl.run/1", "result": [1]}', "result: Input should be an object"),
        ('{"schema": "amaqctl.run/1", "result": {"steps": 1, "loss_after": "a"}}', "loss_after"),
        ('{"schema": "amaqctl.run/1", "started": 3}', "started: Input should be a valid string"),
    ],
)
def test_one_damaged_run_is_named_and_the_others_are_listed(
    run: Path, text: str, said: str
) -> None:
    shutil.copytree(run, run.parent / "good")
    (run / "run.json").write_text(text)
    result = amaqctl("runs", "--root", run.parent, "--json")
    document = json.loads(result.stdout)
    assert [entry["run"] for entry in document["data"]["runs"]] == [str(run.parent / "good")]
    (warning,) = document["warnings"]
    assert said in warning
    good = run.parent / "good"
    commands = (("runs", run), ("eval", run), ("train", "--resume", run), ("compare", good, run))
    for command in commands:
        error = failure(4, *command)
        assert (error["id"], error["where"]) == ("INPUT-RUN", str(run))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"kind": "eval", "step": 2, "loss": "low"}', "loss: Input should be a valid number"),
        ('{"kind": "eval", "step": 2, "loss": [1]}', "loss: Input should be a valid number"),
        ('{"kind": "train", "step": 2, "wire/total_bytes": "x"}', "wire/total_bytes"),
        ('{"kind": "train", "step": -1}', "step: Input should be greater than or equal to 0"),
        ('{"kind": 3, "step": 1}', "kind: Input should be a valid string"),
        ('{"kind": "train"}', "step: Field required"),
        ("[" * 200_000, "recursion limit"),
        ("x" * 300_000, "longer than"),
        ("\0" * 100, "Invalid JSON"),
        ("", "Invalid JSON"),
    ],
)
def test_a_line_that_is_no_record_is_named(run: Path, line: str, said: str) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    for code, command in ((4, ("eval", run)), (9, ("train", "--resume", run, "--max-steps", 6))):
        error = failure(code, *command)
        assert error["where"] == f"{path}:3"
        assert said in error["message"]
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**document, "status": "interrupted"}))
    listed = json.loads(amaqctl("runs", "--root", run.parent, "--json").stdout)
    assert len(listed["warnings"]) == 1


def naive(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rule as it is told, forwards."""
    holding: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        key = record["kind"], record["step"]
        if key[0] == "resume":
            holding = {k: r for k, r in holding.items() if k[1] <= key[1]}
        holding.pop(key, None)
        holding[key] = record
    return list(holding.values())


@given(
    st.lists(
        st.tuples(st.sampled_from(["train", "eval", "save", "resume"]), st.integers(0, 6)),
        max_size=40,
    )
)
def test_records_hold_by_the_rule(tmp_path_factory, pairs) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    records = [{"kind": kind, "step": step, "n": n} for n, (kind, step) in enumerate(pairs)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_metrics(path) == naive(records)


def test_many_resumes_cost_no_more_than_many_lines(tmp_path: Path) -> None:
    """40,000 lines, every second one a resume: with a pass for each it would take an hour."""
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for step in range(20_000):
            file.write(json.dumps({"kind": "train", "step": step + 1, "loss": 1.0}) + "\n")
            file.write(json.dumps({"kind": "resume", "step": step + 1}) + "\n")
    assert len(read_metrics(path)) == 40_000


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def npy(data: bytes, shape: str, descr: str = "|u1") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


NAME = "link0.activation.channel.npy"


@pytest.mark.parametrize(
    "members",
    [
        {NAME: npy(b"\x04" * 3, "(1099511627776,)")},
        {NAME: npy(b"\x04" * 3, "(2,)")},
        {NAME: npy(b"\x04" * 4, "(2, 2)")},
        {NAME: npy(b"\x11" * 3, "(3,)")},
        {NAME: npy(b"", "(0,)")},
        {NAME: npy(b"[" * 4, "(4,)", "|O")},
        {NAME: npy(b"", "(" * 5000)},
        {NAME: b""},
        {NAME: b"\x93NUMPY"},
        {"link0.activation.channel": npy(b"\x04" * 3, "(3,)")},
        {"../../x.npy": npy(b"\x04" * 3, "(3,)")},
        {"link99999999999.activation.channel.npy": npy(b"\x04" * 3, "(3,)")},
        {f"link{n}.activation.channel.npy": npy(b"\x04", "(1,)") for n in range(5000)},
    ],
    ids=lambda members: f"{len(members)} {next(iter(members))[:30]}",
)
def test_odd_members_of_a_file_of_widths_are_named(run: Path, members: dict[str, bytes]) -> None:
    write_zip(run / "bits" / "final.npz", members)
    error = failure(4, "inspect-bits", run)
    assert (error["id"], error["where"]) == ("INPUT-BITS", str(run / "bits" / "final.npz"))


def test_a_good_file_of_widths_made_by_hand(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.npz", {NAME: npy(bytes([0, 4, 16]), "(3,)")})
    (site,) = read_snapshot(tmp_path / "x.npz").sites
    assert (site.place, site.widths_C.tolist()) == ("link0.activation.channel", [0, 4, 16])
    assert site.widths_C.dtype == np.uint8


def peak_mib_of(work: Callable[[], None], output: Path) -> float:
    """How far a child grows that does ``work``, above what it began with."""

    def life() -> None:
        Path("/proc/self/clear_refs").write_text("5")
        before = _high_water_mib()
        work()
        print(_high_water_mib() - before)

    pid = forked(life, output)
    assert os.waitpid(pid, 0)[1] == 0, output.read_text()
    return float(output.read_text().split()[-1])


def _high_water_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("num_members", [1, 40])
def test_a_file_that_unpacks_to_gigabytes_takes_no_memory(tmp_path: Path, num_members: int) -> None:
    path = tmp_path / "bomb.npz"
    size = 2**20 * (1024 // num_members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(num_members):
            with archive.open(f"link{number}.activation.channel.npy", "w") as member:
                member.write(npy(b"", f"({size},)"))
                for _ in range(size // 2**20):
                    member.write(bytes(2**20))

    def work() -> None:
        with pytest.raises(InputError, match="bytes when unpacked"):
            read_snapshot(path)

    assert peak_mib_of(work, tmp_path / "out") < 150


def test_an_empty_trace_of_many_values_takes_no_memory(tmp_path: Path) -> None:
    """Columns of no bits: a few bytes may claim any number of values."""
    from trace_parts import steps_of, write_trace

    from amaqctl.bits import BitAllocation, PackedCodes
    from amaqctl.quantizer import QuantizedTensor, TensorContext
    from amaqctl.trace.layout import SiteFacts, TraceHeader
    from amaqctl.trace.writer import TraceWriter
    from amaqctl.wire import Message

    trace = write_trace(tmp_path / "good.trace", steps_of(1))
    facts = trace.header.sites[0].model_dump() | {"num_channels": 2**14}
    header = TraceHeader(**(trace.header.model_dump() | {"sites": (SiteFacts(**facts),)}))
    context = TensorContext(role="activation", link=0, step=0, total_steps=1)
    codes = PackedCodes(torch.zeros(0, dtype=torch.uint8), 2**13, BitAllocation.uniform(0, 2**14))
    quantized = QuantizedTensor((1, 2**13, 2**14), torch.float32, codes, {})
    path = tmp_path / "claims.trace"
    with path.open("wb") as file:
        writer = TraceWriter(file, header)
        writer.append(Message("fixed", context, quantized).to_bytes())
        writer.end()
    assert path.stat().st_size < 2000

    def work() -> None:
        for command in (["inspect-bits", path], ["compress-trace", path, "-q", "fixed"]):
            error = failure(4, *command)
            assert "record 0: a tensor of 134217728 values, at most" in error["message"]

    assert peak_mib_of(work, tmp_path / "out") < 150
