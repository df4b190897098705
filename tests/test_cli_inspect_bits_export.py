"""`inspect-bits --export`: what is written is read back, and is the allocation."""

import csv
import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bit_runs import CUTS, NUM_CHANNELS, make_run, members, widths
from typer.testing import CliRunner

from amaqctl.cli.main import app

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
needs_matplotlib = pytest.mark.skipif(not HAS_MATPLOTLIB, reason="the plot extra is not there")

VIEWS = [[], ["--over-time"], ["--against", "other"], ["--why"], ["--sort", "bits"]]


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    make_run(tmp_path / "runs" / "three-cuts")
    make_run(tmp_path / "runs" / "other", shift=9)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def export(file: str, *arguments: str) -> Path:
    command = ["inspect-bits", "three-cuts", "--export", file, *arguments]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return Path(file)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_json_is_what_the_command_prints():
    for view in VIEWS:
        written = json.loads(export("bits.json", *view).read_text())
        result = CliRunner().invoke(app, ["inspect-bits", "three-cuts", "--json", *view])
        printed = json.loads(result.stdout)
        assert written == {"schema": printed["schema"], "data": printed["data"]}


def test_csv_has_a_line_a_column():
    lines = read_csv(export("bits.csv"))
    assert len(lines) == len(CUTS) * (NUM_CHANNELS + 32)
    for link, cut in enumerate(CUTS):
        found = [line for line in lines if line["site"] == f"cut{cut:02}.act"]
        assert [int(line["index"]) for line in found] == list(range(NUM_CHANNELS))
        assert [int(line["bits"]) for line in found] == widths(link, 60).tolist()
        facts = {(x["step"], x["link"], x["cut"], x["role"], x["axis"]) for x in found}
        assert facts == {("60", str(link), str(cut), "activation", "channel")}


def test_csv_is_in_the_order_of_columns_however_it_is_drawn():
    assert export("a.csv").read_text() == export("b.csv", "--sort", "bits").read_text()


def test_csv_over_time_and_against_and_why():
    lines = read_csv(export("time.csv", "--over-time"))
    for step in (20, 40, 60):
        found = [
            int(line["bits"])
            for line in lines
            if (line["step"], line["site"]) == (str(step), "cut12.act")
        ]
        assert found == widths(1, step).tolist()
    lines = read_csv(export("against.csv", "--against", "other"))
    found = [line for line in lines if line["site"] == "cut12.act"]
    for line, ours, theirs in zip(found, widths(1, 60), widths(1, 60, shift=9), strict=True):
        assert (int(line["bits"]), int(line["bits_against"])) == (ours, theirs)
        assert int(line["difference"]) == int(ours) - int(theirs)
    lines = read_csv(export("why.csv", "--why"))
    for line in lines:
        if line["role"] == "gradient":
            assert line["range"] == line["gradient_energy"] == line["asked_bits"] == ""
        else:
            ripple = int(line["index"]) % 3 / 2 - 0.5
            assert float(line["range"]) == pytest.approx(3.0)
            assert float(line["asked_bits"]) == pytest.approx(int(line["bits"]) + ripple, abs=1e-4)


class _Page(HTMLParser):
    """Cells of the page by row label, and every tag and attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self._title = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._title = dict(attrs).get("title", "")
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self._title:
            self.cells.append((self._title, data))
            self._title = ""


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_the_page_is_whole_and_refers_to_nothing(view):
    text = export("bits.html", *view).read_text("utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert not re.search(r"https?:|//|url\(|@import|data:", text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not page.attributes & {"src", "href", "srcset", "onload", "onclick"}


def test_the_page_has_every_number_as_text():
    page = _Page()
    page.feed(export("bits.html").read_text("utf-8"))
    expected = [
        (f"channel {i}: {w}", str(w)) for link in range(3) for i, w in enumerate(widths(link, 60))
    ]
    assert page.cells[: len(expected)] == expected
    page = _Page()
    page.feed(export("sorted.html", "--sort", "bits").read_text("utf-8"))
    order = np.argsort(widths(0, 60), kind="stable")
    titles = [title for title, _ in page.cells[:NUM_CHANNELS]]
    assert titles == [f"channel {i}: {widths(0, 60)[i]}" for i in order]


def test_a_name_cannot_break_out_of_the_page(runs):
    nasty = make_run(runs / "<script>alert(1)<_script>")
    result = CliRunner().invoke(app, ["inspect-bits", str(nasty), "--export", "nasty.html"])
    assert result.exit_code == 0
    assert "<script>" not in Path("nasty.html").read_text("utf-8")


def test_a_position_that_was_not_there_is_an_empty_cell(runs):
    bits = runs / "three-cuts" / "bits"
    for step, size in ((20, 3), (40, 5), (60, 4)):
        values = np.full(size, 4, np.uint8)
        np.savez(bits / f"step-{step:06d}.npz", **{"link0.activation.position": values})
    page = export("bits.html", "--over-time").read_text("utf-8")
    assert page.count('title="position 4: not there"></span>') == 2
    assert page.count('title="position 4: 4">4</span>') == 1
    lines = read_csv(export("bits.csv", "--over-time"))
    assert [sum(line["step"] == str(s) for line in lines) for s in (20, 40, 60)] == [3, 5, 4]


def test_quiet_prints_the_file_and_an_older_one_is_replaced():
    Path("bits.csv").write_text("old")
    command = ["inspect-bits", "three-cuts", "--export", "bits.csv", "-q"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "bits.csv\n", "")
    assert len(read_csv(Path("bits.csv"))) == 384
    document = json.loads(CliRunner().invoke(app, [*command[:-1], "--json"]).stdout)
    assert document["data"]["export"] == "bits.csv"


def test_a_place_that_cannot_be_written_is_named():
    Path("file").write_text("in the way")
    command = ["inspect-bits", "three-cuts", "--export", "file/bits.csv"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (7, "")
    assert "hint: choose another place for --export" in result.stderr


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_without_matplotlib_the_package_is_named(suffix, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command = ["inspect-bits", "three-cuts", "--export", f"bits.{suffix}", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 4
    error = json.loads(result.stdout)["error"]
    assert error["id"] == "INPUT-PACKAGE"
    assert error["hint"].startswith("pip install matplotlib (the extra amaqctl[plot])")
    assert not Path(f"bits.{suffix}").exists()


@needs_matplotlib
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_a_figure_names_its_rows_and_is_the_same_each_time(view):
    text = export("bits.svg", *view).read_text("utf-8")
    assert "cut08.act" in text
    assert text == export("again.svg", *view).read_text("utf-8")
    assert "<image" in text
    assert export("bits.png", *view).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def _trace(path: Path, name: str, options: dict[str, object]):
    """Four steps' activations of one link, sent by a real quantizer; and the widths sent."""
    from trace_parts import context_of, site_of, spread_tensor

    from amaqctl import registry
    from amaqctl.trace.layout import SiteFacts, TraceHeader
    from amaqctl.trace.writer import TraceWriter
    from amaqctl.wire import Message

    site = site_of(0, "activation")
    cls = registry.load(registry.QUANTIZERS, name)
    quantizer = cls(cls.Config(**options), site)
    header = TraceHeader(
        model="by hand",
        dtype="float32",
        profile="tests",
        recorded_by="tests",
        first_step=0,
        num_steps=4,
        total_steps=9,
        quantizer_lr=0.1,
        sites=(SiteFacts.of(site),),
    )
    sent = []
    with path.open("wb") as file:
        writer = TraceWriter(file, header)
        for step in range(4):
            context = context_of(step, "activation", sample_ids=(3, 5))
            quantized = quantizer.quantize(spread_tensor(step), context)
            writer.append(Message(name, context, quantized).to_bytes())
            sent.append(quantized.codes.allocation.widths_C.tolist())
        writer.end()
    return sent


def inspect(*arguments: str):
    return CliRunner().invoke(app, ["inspect-bits", *arguments], catch_exceptions=False)


def test_a_trace_shows_the_widths_of_its_messages():
    sent = _trace(Path("a.trace"), "amaq", {"target_bits": 3.0, "start_bits": 6.0})
    data = json.loads(inspect("a.trace", "--over-time", "--json").stdout)["data"]
    assert (data["kind"], data["quantizers"]) == ("trace", {"activation": "amaq"})
    assert [entry["step"] for entry in data["allocations"]] == [1, 2, 3, 4]
    found = [entry["sites"][0] for entry in data["allocations"]]
    assert [site["widths"] for site in found] == sent
    assert (found[0]["site"], found[0]["cut"]) == ("link0.act", None)
    one = json.loads(inspect("a.trace", "--checkpoint", "2", "--json").stdout)["data"]
    assert one["allocations"] == [data["allocations"][1]]
    text = inspect("a.trace").stdout
    assert text.startswith("trace a.trace  step 4  activation by amaq\n")


def test_what_a_trace_cannot_tell_is_refused():
    _trace(Path("a.trace"), "amaq", {})
    for arguments, error_id in [
        (["--why"], "INPUT-NO-SENSITIVITY"),
        (["--checkpoint", "best"], "INPUT-CHECKPOINT"),
        (["--checkpoint", "9"], "INPUT-CHECKPOINT"),
    ]:
        result = inspect("a.trace", "--json", *arguments)
        assert result.exit_code == 4
        assert json.loads(result.stdout)["error"]["id"] == error_id


def test_a_raw_trace_has_sixteen_bits_everywhere():
    _trace(Path("raw.trace"), "none", {})
    result = inspect("raw.trace")
    assert " ".join(["16"] * 12) in result.stdout
    assert "activation  all 48 channels at 16 bits" in result.stdout


def test_the_fixture_and_the_files_agree(runs):
    with np.load(runs / "three-cuts/bits/final.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {
            name: values.tolist() for name, values in members(60).items()
        }
