"""Reading the widths a run kept, and what its quantizers measured."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from bit_runs import NUM_CHANNELS, make_run, sites, widths
from hypothesis import given
from hypothesis import strategies as st

from amaqctl.engine.bits_history import SiteWidths, choose_snapshot, read_history, read_snapshot
from amaqctl.engine.bits_report import SiteReport, report_arrays
from amaqctl.engine.bits_sensitivity import of_site, pearson, ranks
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


def measured_of(run, link, role="activation"):
    snapshot = choose_snapshot(run, "final")
    site = next(s for s in snapshot.sites if (s.link, s.role) == (link, role))
    return of_site(snapshot.report(link, role), site)


def test_the_sensitivity_is_that_of_the_report(run):
    measured = measured_of(run, 1)
    assert measured.range_K == pytest.approx(np.full(NUM_CHANNELS, 3.0))
    widths_K = widths(1, 60)
    ripple_K = np.arange(NUM_CHANNELS) % 3 / 2 - 0.5
    assert measured.gradient_energy_K == pytest.approx(4.0 ** (widths_K + ripple_K - 8), rel=1e-6)
    # 1/2 log2(4^(w-8) · 9) = w - 8 + log2 3, so what is asked for is the width and its ripple.
    assert measured.asked_bits_K(widths_K) == pytest.approx(widths_K + ripple_K, abs=1e-5)
    assert measured_of(run, 1, "gradient") is None


def reported(range_K, energy_K) -> SiteReport:
    vectors = (np.asarray(values, np.float32) for values in (range_K, energy_K))
    return SiteReport(4.0, True, None, None, None, *vectors)


def test_columns_that_were_never_seen_do_not_count():
    site = SiteWidths(0, "activation", "channel", np.array([3, 2, 8, 4], np.uint8))
    measured = of_site(reported([2, 2, 0, 3], [4, 1, 0, 9]), site)
    assert np.isnan(measured.log_sensitivity_K).tolist() == [False, False, True, False]
    assert measured.correlations(site.widths_C)[0] == pytest.approx(1.0)
    assert of_site(reported([0] * 4, [0] * 4), site) is None
    assert of_site(reported([1] * 4, [1] * 3), site) is None
    assert of_site(None, site) is None


def test_positions_may_be_fewer_than_were_measured(run):
    channel = choose_snapshot(run, "final").sites[0]
    longer = reported(np.arange(1.0, 101), np.arange(1.0, 101))
    assert of_site(longer, channel) is None
    position = type(channel)(0, "activation", "position", channel.widths_C)
    assert of_site(longer, position).range_K.tolist() == list(range(1, 97))


def test_reports_come_back_as_they_were_said(tmp_path):
    path = tmp_path / "final.npz"
    rotated = replace(reported([1, 2], [3, 4]), column="rotated channel", target_bits=2.5)
    said = {
        (0, "activation"): replace(rotated, legal_bits=(0, 8)),
        (3, "gradient"): SiteReport(32.5, has_codes=False),
    }
    widths_C = {"link0.activation.channel": np.array([2, 3], np.uint8)}
    np.savez_compressed(path, **widths_C, **report_arrays(said))
    snapshot = read_snapshot(path)
    assert [site.place for site in snapshot.sites] == ["link0.activation.channel"]
    found = snapshot.report(0, "activation")
    assert (found.bits_a_value, found.target_bits, found.legal_bits) == (4.0, 2.5, (0, 8))
    assert (found.column, found.has_codes) == ("rotated channel", True)
    assert found.range_K.tolist() == [1, 2]
    assert found.gradient_energy_K.tolist() == [3, 4]
    assert snapshot.codeless == [(3, "gradient", said[3, "gradient"])]


def test_a_file_of_an_earlier_version_has_no_reports(tmp_path):
    np.savez_compressed(tmp_path / "final.npz", **sites(60))
    assert read_snapshot(tmp_path / "final.npz").reports is None


PLACE = "link0.activation"
GOOD = {"bits_a_value": 4.0, "has_codes": True}


def _text(document: object) -> np.ndarray:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return np.frombuffer(text, np.uint8)


@pytest.mark.parametrize(
    "members",
    [
        {"report": _text(b"{")},
        {"report": _text(b"\xff\xfe")},
        {"report": _text([])},
        {"report": np.zeros(3, np.float32)},
        {"report": np.zeros(2**20 + 1, np.uint8)},
        {"report": _text({"elsewhere": GOOD})},
        {"report": _text({PLACE: {}})},
        {"report": _text({PLACE: GOOD | {"bits_a_value": -1}})},
        {"report": _text(f'{{"{PLACE}": {{"bits_a_value": NaN, "has_codes": true}}}}'.encode())},
        {"report": _text({PLACE: GOOD | {"column": "two\nlines"}})},
        {"report": _text({PLACE: GOOD | {"column": "c" * 41}})},
        {"report": _text({PLACE: GOOD | {"target_bits": 1e999}})},
        {"report": _text({PLACE: GOOD | {"legal_bits": [1]}})},
        {"report": _text({PLACE: GOOD | {"legal_bits": [0, 99]}})},
        {f"{PLACE}.range_K": np.array([1, np.nan], np.float32)},
        {f"{PLACE}.range_K": np.array([1, -1], np.float32)},
        {f"{PLACE}.gradient_energy_K": np.array([np.inf], np.float32)},
        {f"{PLACE}.gradient_energy_K": np.zeros(4, np.float64)},
        {f"{PLACE}.range_K": np.zeros((2, 2), np.float32)},
        {f"{PLACE}.range_K": np.zeros(4, np.uint8)},
    ],
)
def test_what_is_no_report_is_named(run, members):
    path = run.path / "bits" / "final.npz"
    np.savez(path, **({"link0.activation.channel": np.ones(4, np.uint8)} | members))
    with pytest.raises(InputError) as caught:
        choose_snapshot(run, "final")
    assert (caught.value.where, caught.value.error_id) == (str(path), "INPUT-BITS")
    assert "\n" not in caught.value.message


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
