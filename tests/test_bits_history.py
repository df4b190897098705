"""Reading the widths a run kept, and what its quantizers measured."""

import json
import subprocess
import sys

import numpy as np
import pytest
from bit_runs import NUM_CHANNELS, make_run, sites, widths, write_state
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from amaqctl.engine.bits_history import choose_snapshot, read_history, read_snapshot
from amaqctl.engine.bits_sensitivity import (
    Sensitivity,
    of_site,
    pearson,
    ranks,
    read_sensitivities,
    state_file,
)
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(make_run(tmp_path / "run"))


def test_it_needs_no_torch():
    program = (
        "import sys, amaqctl.engine.bits_sensitivity, amaqctl.bit_map.source;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_file_gives_back_every_width_in_order_of_link_and_role(tmp_path):
    path = tmp_path / "step-000007.npz"
    first, second = np.array([0, 8, 16], np.uint8), np.array([6], np.uint8)
    arrays = {"link10.gradient.tensor": second, "link2.activation.channel": first}
    np.savez_compressed(path, **arrays)
    snapshot = read_snapshot(path, 7)
    assert (snapshot.name, snapshot.step) == ("step-000007", 7)
    assert [s.place for s in snapshot.sites] == [
        "link2.activation.channel",
        "link10.gradient.tensor",
    ]
    assert snapshot.sites[0].widths_C.tolist() == [0, 8, 16]
    assert snapshot.sites[1].widths_C.dtype == np.uint8


def test_checkpoints_are_chosen_by_word_and_by_step(run):
    for which, name, step in [
        ("last", "final", 60),
        ("final", "final", 60),
        ("best", "step-000040", 40),
        ("20", "step-000020", 20),
    ]:
        snapshot = choose_snapshot(run, which)
        assert (snapshot.name, snapshot.step) == (name, step)
        assert len(snapshot.sites) == 6
        for site in snapshot.sites:
            assert np.array_equal(site.widths_C, sites(step)[site.place])


def test_a_run_that_went_on_after_its_end_has_newer_widths_than_final(run):
    np.savez_compressed(run.path / "bits" / "step-000080.npz", **sites(80))
    assert choose_snapshot(run, "last").step == 80
    assert choose_snapshot(run, "final").step == 60


def test_an_unfinished_run_has_its_newest_save(tmp_path):
    run = RunFolder(make_run(tmp_path / "run", is_done=False))
    assert choose_snapshot(run, "last").name == "step-000060"
    with pytest.raises(InputError) as caught:
        choose_snapshot(run, "final")
    assert caught.value.hint == "saved steps: 20, 40, 60"


def test_a_missing_step_names_those_that_are_there(run):
    with pytest.raises(InputError) as caught:
        choose_snapshot(run, "30")
    assert caught.value.error_id == "INPUT-CHECKPOINT"
    assert caught.value.hint == "saved steps: 20, 40, 60; and final"


def test_the_history_has_every_step_once(run):
    assert [s.step for s in read_history(run)] == [20, 40, 60]
    (run.path / "bits" / "step-000060.npz").unlink()
    assert [s.name for s in read_history(run)] == ["step-000020", "step-000040", "final"]


def _object_array(path):
    # A file that only unpickling could read.
    np.savez(path, **{"link0.activation.channel": np.array([{"a": 1}], dtype=object)})


def _bare_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3, np.uint8))


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.write_bytes(b"not a zip"),
        lambda p: p.write_bytes(b""),
        lambda p: np.savez(p, other=np.zeros(3, np.uint8)),
        lambda p: np.savez(p, **{"link0.activation.channel": np.zeros(3, np.float32)}),
        lambda p: np.savez(p, **{"link0.activation.channel": np.zeros((3, 2), np.uint8)}),
        lambda p: np.savez(p, **{"link0.activation.channel": np.zeros(0, np.uint8)}),
        _bare_array,
        _object_array,
    ],
    ids=["no zip", "empty", "name", "dtype", "shape", "no columns", "bare array", "object"],
)
def test_what_is_no_file_of_widths_is_named(run, write):
    path = run.path / "bits" / "final.npz"
    path.unlink()
    write(path)
    with pytest.raises(InputError) as caught:
        choose_snapshot(run, "final")
    assert caught.value.where == str(path)
    assert caught.value.error_id == "INPUT-BITS"
    assert "\n" not in caught.value.message


def test_every_cut_off_or_flipped_file_is_refused_or_reads_as_vectors(run):
    path = run.path / "bits" / "final.npz"
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        for damaged in (whole[:position], bytes(flipped)):
            path.write_bytes(damaged)
            try:
                snapshot = read_snapshot(path)
            except InputError:
                continue
            assert all(site.widths_C.dtype == np.uint8 for site in snapshot.sites)


def test_a_run_without_widths_says_so(run):
    np.savez(run.path / "bits" / "final.npz")
    with pytest.raises(InputError, match="no bit allocation"):
        choose_snapshot(run, "final")


def test_the_sensitivity_is_that_of_the_means_in_the_state(run):
    found = read_sensitivities(run.path / "quantizer" / "quantizer.safetensors")
    assert sorted(found) == [(0, "activation"), (1, "activation"), (2, "activation")]
    measured = found[1, "activation"]
    assert measured.range_K == pytest.approx(np.full(NUM_CHANNELS, 3.0))
    widths_K = widths(1, 60)
    ripple_K = np.arange(NUM_CHANNELS) % 3 / 2 - 0.5
    assert measured.gradient_energy_K == pytest.approx(4.0 ** (widths_K + ripple_K - 8), rel=1e-6)
    # 1/2 log2(4^(w-8) · 9) = w - 8 + log2 3, so what is asked for is the width and its ripple.
    assert measured.asked_bits_K(widths_K) == pytest.approx(widths_K + ripple_K, abs=1e-5)


def test_columns_that_were_never_seen_do_not_count(tmp_path):
    path = tmp_path / "q.safetensors"
    place = "link0.activation.sender"
    arrays = {
        "gradient_energy_K": np.array([4, 1, 0, 9], np.float32),
        "range_energy_K": np.array([4, 4, 0, 9], np.float32),
    }
    save_file({f"{place}.harm.{key}": value for key, value in arrays.items()}, path)
    measured = read_sensitivities(path)[0, "activation"]
    widths_K = np.array([3, 2, 8, 4], np.uint8)
    assert np.isnan(measured.log_sensitivity_K).tolist() == [False, False, True, False]
    assert measured.correlations(widths_K)[0] == pytest.approx(1.0)


def test_quantizers_that_measure_nothing_give_nothing(tmp_path):
    path = tmp_path / "q.safetensors"
    place = "link0.activation.sender"
    zeros = np.zeros(4, np.float32)
    energies = ("harm.gradient_energy_K", "harm.range_energy_K")
    save_file({f"{place}.{key}": zeros for key in energies}, path)
    assert read_sensitivities(path) == {}
    save_file({f"{place}.memory": zeros}, path)
    assert read_sensitivities(path) == {}


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64])
def test_an_unreadable_state_is_named(tmp_path, content):
    path = tmp_path / "q.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_sensitivities(path)
    assert caught.value.error_id == "INPUT-QUANTIZER-STATE"
    assert caught.value.hint


def test_the_state_of_a_checkpoint_is_taken_where_it_was_kept(run):
    own = run.path / "checkpoints" / "step-000040"
    assert state_file(run, choose_snapshot(run, "40")).parent.name == "quantizer"
    write_state(own)
    assert state_file(run, choose_snapshot(run, "40")).parent == own
    assert state_file(run, choose_snapshot(run, "final")).parent.name == "quantizer"


def test_positions_may_be_fewer_than_were_measured(run):
    snapshot = choose_snapshot(run, "final")
    channel = snapshot.sites[0]
    longer = Sensitivity(np.arange(1.0, 101), np.arange(1.0, 101))
    assert of_site({(0, "activation"): longer}, channel) is None
    position = type(channel)(0, "activation", "position", channel.widths_C)
    found = of_site({(0, "activation"): longer}, position)
    assert found is not None
    assert found.range_K.tolist() == list(range(1, 97))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_ranks_share_the_mean_of_equal_values(values):
    found = ranks(np.array(values, float))
    for value, rank in zip(values, found, strict=True):
        below, same = sum(v < value for v in values), values.count(value)
        assert rank == below + (same - 1) / 2


def test_a_constant_has_no_correlation():
    assert pearson(np.ones(4), np.arange(4.0)) is None
    assert pearson(np.arange(1.0), np.arange(1.0)) is None
    assert pearson(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1.0)


def test_the_best_step_ignores_losses_that_were_not_numbers(run):
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "eval", "step": 20, "loss": None}) + "\n")
    assert choose_snapshot(run, "best").step == 40
