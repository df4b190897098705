"""`inspect-bits` on a screen: every view at every width, letter by letter, and its mistakes.

To renew the expected texts after a change that was meant:
``AMAQCTL_UPDATE_SNAPSHOTS=1 pytest tests/test_cli_inspect_bits.py``, then read the difference.
"""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bit_runs import NUM_CHANNELS, make_run, reports, sites, widths
from typer.testing import CliRunner

from amaqctl.bit_map.colours import colour, ink
from amaqctl.bit_map.text import Span, rounded, signed
from amaqctl.cli import inspect_bits
from amaqctl.cli.console.paint import paint
from amaqctl.cli.main import app
from amaqctl.engine.bits_report import SiteReport, report_arrays

SNAPSHOTS = Path(__file__).parent / "snapshots"

VIEWS = {
    "map": [],
    "step": ["--checkpoint", "best"],
    "sorted": ["--sort", "bits"],
    "over-time": ["--over-time"],
    "against": ["--against", "other"],
    "why": ["--why"],
    "blocks": ["--style", "blocks"],
    "ascii": ["--style", "ascii"],
    "why-ascii": ["--why", "--style", "ascii"],
}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    """Two runs, found by name from the folder that the command runs in."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(inspect_bits.locale, "getencoding", lambda: "UTF-8")
    make_run(tmp_path / "runs" / "three-cuts")
    make_run(tmp_path / "runs" / "other", shift=9)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def run(*arguments: str):
    return CliRunner().invoke(app, ["inspect-bits", *arguments], catch_exceptions=False)


def save_final(folder: Path, found: dict[str, np.ndarray], **said: SiteReport) -> None:
    """Other widths at the end of a run, with its reports; ``said`` is of link 0, by role."""
    known = reports() | {(0, role): report for role, report in said.items()}
    np.savez(folder / "bits" / "final.npz", **found, **report_arrays(known))


def compare(name: str, text: str) -> None:
    path = SNAPSHOTS / f"inspect-bits-{name}.txt"
    if os.environ.get("AMAQCTL_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_as_it_was_and_fits(view, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("three-cuts", *VIEWS[view])
    assert result.exit_code == 0, result.stderr
    assert max(len(line) for line in result.stdout.splitlines()) <= width
    assert "left out" not in result.stderr
    compare(f"{view}-{width}", result.stdout)
    if "ascii" in view:
        assert result.stdout.isascii()


@pytest.mark.parametrize("view", VIEWS)
def test_a_pipe_gets_eighty_columns_without_colour(view):
    result = run("three-cuts", *VIEWS[view])
    assert "\x1b" not in result.stdout
    compare(f"{view}-80", result.stdout)


def test_a_real_pipe_gets_the_same(runs):
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    environment |= {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "amaqctl.cli.main", "inspect-bits", "three-cuts"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    compare("map-80", done.stdout.decode("utf-8"))
    assert done.stderr == b""


def test_the_digits_are_the_widths(monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")  # room for every channel of 96
    lines = run("three-cuts").stdout.splitlines()
    for link, cut in enumerate(("cut08", "cut12", "cut16")):
        row = next(line for line in lines if line.startswith(f"{cut}.act"))
        cells, mean, ends = row.split()[1:4]
        expected = widths(link, 60)
        assert cells == "".join(str(w) for w in expected)
        assert mean == f"{expected.mean():.2f}"
        assert ends == f"{expected.min()}-{expected.max()}"


def test_a_cell_is_the_rounded_mean_of_its_channels(runs, monkeypatch):
    values = np.array([2, 3, 2, 2, 8, 7, 0, 0, 0, 1], np.uint8)
    np.savez(runs / "three-cuts/bits/final.npz", **{"link0.activation.channel": values})
    monkeypatch.setenv("COLUMNS", "22")  # 9 for the name, 6 for the mean: five cells of two
    monkeypatch.setattr("amaqctl.bit_map.text._MIN_CELLS", 5)
    result = run("three-cuts", "--style", "digits")
    # 2.5 2.0 7.5 0.0 0.5: halves go up.
    assert re.search(r"^cut08\.act  32801  2\.50$", result.stdout, re.M), result.stdout
    assert "a cell: mean of 2\n  channels\n" in result.stdout


def test_widths_of_two_digits_are_parted(runs):
    values = np.array([16] * 6 + [4], np.uint8)
    np.savez(runs / "three-cuts/bits/final.npz", **{"link1.gradient.tensor": values})
    result = run("three-cuts")
    assert "cut12.grad   16 16 16 16 16 16  4  14.29   4-16" in result.stdout


def test_a_narrow_screen_loses_columns_but_no_digit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    result = run("three-cuts")
    assert max(len(line) for line in result.stdout.splitlines()) <= 40
    assert "columns left out for width: histogram, lo-hi" in result.stderr
    assert re.search(r"^cut08\.act +[2-7]+  \d\.\d\d$", result.stdout, re.M)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


LINES = [[Span("a  "), Span("2", 2), Span("8", 8), Span(" 5.00")], [], [Span("end  ")]]


def test_colour_repeats_the_digits_on_a_terminal():
    text = paint(LINES, _Terminal(), 80, is_difference=False)
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == "a  28 5.00\n\nend"
    assert text.count("\x1b[0m") == 2


def test_no_color_and_a_pipe_and_a_dumb_terminal_have_none(monkeypatch):
    assert paint(LINES, io.StringIO(), 80, is_difference=False) == "a  28 5.00\n\nend"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint(LINES, _Terminal(), 80, is_difference=False) == "a  28 5.00\n\nend"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert paint(LINES, _Terminal(), 80, is_difference=False) == "a  28 5.00\n\nend"


def test_auto_is_ascii_where_the_locale_is(monkeypatch):
    monkeypatch.setattr(inspect_bits.locale, "getencoding", lambda: "ANSI_X3.4-1968")
    compare("ascii-80", run("three-cuts").stdout)


def test_the_scales_go_from_dark_to_light_and_to_both_sides():
    luma = [sum(colour(width, False)) for width in range(9)]
    assert luma == sorted(luma)
    assert colour(16, False) == colour(8, False)
    assert colour(0, True, 3.0) == (0xF7, 0xF7, 0xF7)
    assert colour(-3, True, 3.0) == (0x21, 0x66, 0xAC)
    assert colour(3, True, 3.0) == (0xB2, 0x18, 0x2B)
    assert colour(0, True, 0.0) == (0xF7, 0xF7, 0xF7)
    assert (ink((68, 1, 84)), ink((253, 231, 37))) == ((255, 255, 255), (0, 0, 0))
    assert [rounded(v) for v in (-0.5, -0.4, 0.5, 2.49)] == [-1, 0, 1, 2]
    assert [signed(v) for v in (-1, 0, 1)] == ["-1", "0", "+1"]


def test_the_document_has_every_width(runs):
    result = run("three-cuts", "--json", "--why")
    document = json.loads(result.stdout)
    assert (document["schema"], document["ok"]) == ("amaqctl.inspect-bits/1", True)
    data = document["data"]
    assert (data["kind"], data["source"]) == ("run", "runs/three-cuts")
    assert data["quantizers"] == {"activation": "amaq", "gradient": "group"}
    (allocation,) = data["allocations"]
    assert (allocation["name"], allocation["step"]) == ("final", 60)
    assert len(allocation["sites"]) == 6
    site = allocation["sites"][2]
    expected = widths(1, 60)
    assert (site["site"], site["link"], site["cut"]) == ("cut12.act", 1, 12)
    assert (site["role"], site["axis"], site["target_bits"]) == ("activation", "channel", 4.0)
    assert site["widths"] == expected.tolist()
    assert site["num_columns"] == NUM_CHANNELS
    assert site["mean_bits"] == expected.mean()
    assert site["counts"] == {str(w): int((expected == w).sum()) for w in np.unique(expected)}
    why = data["why"][1]
    assert why["site"] == "cut12.act"
    assert why["range"] == pytest.approx([3.0] * NUM_CHANNELS)
    ripple = np.arange(NUM_CHANNELS) % 3 / 2 - 0.5
    assert why["asked_bits"] == pytest.approx(expected + ripple, abs=1e-4)
    assert why["pearson"] == pytest.approx(np.corrcoef(expected, expected + ripple)[0, 1])
    assert "export" not in data


def test_the_document_over_time_and_against():
    steps = json.loads(run("three-cuts", "--json", "--over-time").stdout)["data"]["allocations"]
    assert [entry["step"] for entry in steps] == [20, 40, 60]
    assert [entry["sites"][0]["widths"] for entry in steps] == [
        widths(0, step).tolist() for step in (20, 40, 60)
    ]
    data = json.loads(run("three-cuts", "--json", "--against", "other").stdout)["data"]
    assert data["against"]["source"] == "runs/other"
    expected = widths(2, 60).astype(int) - widths(2, 60, shift=9)
    found = data["differences"][4]
    assert (found["site"], found["difference"]) == ("cut16.act", expected.tolist())
    assert found["mean_difference"] == expected.mean()
    assert (found["num_more"], found["num_fewer"]) == ((expected > 0).sum(), (expected < 0).sum())


def test_quiet_prints_names_and_means():
    result = run("three-cuts", "-q")
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"cut08.act\t{widths(0, 60).mean():.4f}"
    assert lines[3] == "cut08.grad\t6.0000"
    assert run("three-cuts", "-q", "--over-time").stdout.startswith("cut08.act step 20\t8.0000\n")


def test_a_site_that_only_one_has_is_named(runs):
    values = np.array([1, 2, 3], np.uint8)
    file = runs / "other/bits/final.npz"
    np.savez(file, **{"link0.activation.channel": widths(0, 60), "link0.gradient.tensor": values})
    document = json.loads(run("three-cuts", "--against", "other", "--json").stdout)
    assert [d["site"] for d in document["data"]["differences"]] == ["cut08.act"]
    assert "cut08.grad of three-cuts has no like in the other; left out" in document["warnings"]
    np.savez(file, **{"link9.activation.channel": values})
    result = run("three-cuts", "--against", "other", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["id"] == "INPUT-DIFFERENT"


def test_all_cuts_are_counted_from_one(runs):
    profile = runs / "three-cuts" / "profile.yaml"
    profile.write_text(profile.read_text().replace("cuts: [8, 12, 16]", "cuts: all"))
    assert run("three-cuts", "-q").stdout.startswith("cut01.act\t")


MISTAKES = {
    "no run": (["nowhere"], 4, "INPUT-RUN"),
    "no step": (["three-cuts", "--checkpoint", "33"], 4, "INPUT-CHECKPOINT"),
    "no such word": (["three-cuts", "--checkpoint", "newest"], 2, "USAGE"),
    "no second run": (["three-cuts", "--against", "nowhere"], 4, "INPUT-RUN"),
    "every step of one": (["three-cuts", "--over-time", "--checkpoint", "20"], 2, "USAGE"),
    "why over time": (["three-cuts", "--over-time", "--why"], 2, "USAGE"),
    "difference over time": (["three-cuts", "--over-time", "--against", "other"], 2, "USAGE"),
    "why of a difference": (["three-cuts", "--why", "--against", "other"], 2, "USAGE"),
    "blocks": (["three-cuts", "--against", "other", "--style", "blocks"], 2, "USAGE"),
    "suffix": (["three-cuts", "--export", "a.gif"], 2, "USAGE-EXPORT"),
    "a file that is no trace": (["notes.txt"], 4, "INPUT-TRACE"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_code(mistake, runs):
    (runs.parent / "notes.txt").write_text("nothing but text, and not a short one")
    arguments, code, error_id = MISTAKES[mistake]
    result = run(*arguments, "--json")
    assert result.exit_code == code
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["error"]["id"] == error_id
    errors = [line for line in result.stderr.splitlines() if not line.startswith("hint: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")


def test_typer_refuses_what_it_knows_to_be_wrong():
    for arguments in ([], ["three-cuts", "--sort", "size"], ["three-cuts", "--style", "big"]):
        assert run(*arguments).exit_code == 2


def test_damage_in_a_run_is_named(runs):
    folder = runs / "three-cuts"
    (folder / "bits" / "final.npz").write_bytes(b"PK")
    result = run("three-cuts")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "final.npz" in result.stderr
    assert run("three-cuts", "--checkpoint", "40").exit_code == 0


def test_why_says_when_nothing_was_measured(runs):
    result = run("three-cuts", "--why")
    assert "cut08.grad: its quantizer measures no range and gradient energy" in result.stderr
    save_final(runs / "three-cuts", {"link0.gradient.tensor": np.array([6, 6], np.uint8)})
    result = run("three-cuts", "--why", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["id"] == "INPUT-NO-SENSITIVITY"
    assert "group kept no range and gradient energy" in result.stderr


def test_equal_widths_have_no_correlation(runs):
    values = np.full(NUM_CHANNELS, 4, np.uint8)
    save_final(runs / "three-cuts", {"link0.activation.channel": values})
    result = run("three-cuts", "--why")
    assert "cut08.act  all widths or all sensitivities are equal: no correlation" in result.stdout
    document = json.loads(run("three-cuts", "--why", "--json").stdout)
    assert document["data"]["why"][0]["spearman"] is None


CODELESS = SiteReport(32.5, has_codes=False)
ROTATED = SiteReport(4.0, has_codes=True, target_bits=3.0, column="rotated channel")


def test_a_sender_without_codes_is_shown_for_what_it_is(runs):
    activations = {k: v for k, v in sites(60).items() if k != "link0.gradient.tensor"}
    save_final(runs / "three-cuts", activations, gradient=CODELESS)
    assert "\ncut08.grad  no codes, 32.50 bits a value\n" in run("three-cuts").stdout
    assert run("three-cuts", "-q").stdout.splitlines()[-1] == "cut08.grad\tno codes"
    (allocation,) = json.loads(run("three-cuts", "--json").stdout)["data"]["allocations"]
    facts = {"site": "cut08.grad", "link": 0, "cut": 8, "role": "gradient", "bits_a_value": 32.5}
    assert allocation["without_codes"] == [facts]
    assert len(allocation["sites"]) == 5
    warnings = json.loads(run("three-cuts", "--against", "other", "--json").stdout)["warnings"]
    assert "cut08.grad of three-cuts sends no codes; left out" in warnings
    result = run("three-cuts", "--export", "a.csv")
    assert result.exit_code == 0, result.stderr
    assert "60,cut08.grad,0,8,gradient,no codes,,,32.5\n" in Path("a.csv").read_text()


def test_a_run_that_sends_no_codes_at_all_is_no_fault(runs):
    said = {(0, "activation"): CODELESS, (0, "gradient"): CODELESS}
    np.savez(runs / "three-cuts/bits/final.npz", **report_arrays(said))
    for style in ("auto", "blocks", "ascii"):
        result = run("three-cuts", "--style", style)
        assert result.exit_code == 0, result.stderr
        assert "cut08.act  no codes, 32.50 bits a value\n" in result.stdout
    assert run("three-cuts", "-q").stdout == "cut08.act\tno codes\ncut08.grad\tno codes\n"
    assert run("three-cuts", "--export", "a.html").exit_code == 0
    assert "no codes, 32.50 bits a value" in Path("a.html").read_text("utf-8")
    result = run("three-cuts", "--why", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["id"]) == (
        4,
        "INPUT-NO-SENSITIVITY",
    )
    assert run("three-cuts", "--against", "other").exit_code == 4


def test_rotated_columns_are_no_channels(runs):
    save_final(runs / "three-cuts", sites(60), activation=ROTATED)
    text = run("three-cuts").stdout
    assert "rotated channel 0" in text
    data = json.loads(run("three-cuts", "--json").stdout)["data"]["allocations"][0]
    columns = {site["site"]: site["column"] for site in data["sites"]}
    assert columns["cut08.act"] == "rotated channel"
    assert (columns["cut12.act"], columns["cut08.grad"]) == ("channel", "column")
    assert data["sites"][0]["target_bits"] == 3.0
    result = run("three-cuts", "--against", "other", "--json")
    said = "cut08.act of three-cuts has rotated channels, its like channels; left out"
    assert said in json.loads(result.stdout)["warnings"]
    only = {"link0.activation.channel": widths(0, 60)}
    save_final(runs / "three-cuts", only, activation=ROTATED)
    result = run("three-cuts", "--against", "other")
    assert result.exit_code == 4
    assert "the columns of cut08.act are rotated channels, those of the other channels" in (
        result.stderr
    )


def test_a_run_of_an_earlier_version_has_its_maps(runs):
    shown = run("three-cuts").stdout
    np.savez(runs / "three-cuts/bits/final.npz", **sites(60))
    old = run("three-cuts")
    assert (old.exit_code, old.stderr) == (0, "")
    maps, old_maps = (text.partition("\na cell:")[0] for text in (shown, old.stdout))
    assert old_maps == maps
    result = run("three-cuts", "--why")
    assert (result.exit_code, result.stdout) == (4, "")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "saved by an earlier version" in line
    assert "final.npz" in line
