"""The record as tables of a page, between `<!-- records: NAME -->` and `<!-- end of NAME -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Record = dict[str, Any]
IMPLEMENTATIONS = {"native": "compiled", "torch": "plain torch"}


def compact(record: Record) -> str:
    """JSON with one line for each row."""
    lines = ["{"]
    for part, found in record.items():
        lines.append(f" {json.dumps(part)}: {{")
        for name, value in found.items():
            lines.append(f"  {json.dumps(name)}: {_rows_apart(value)},")
        lines[-1] = lines[-1].removesuffix(",")
        lines.append(" },")
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join([*lines, "}", ""])


def _rows_apart(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"   {json.dumps(row)}" for row in value) + "\n  ]"
    if isinstance(value, dict) and "rows" in value:
        inner = ",\n".join(f"   {json.dumps(k)}: {_rows_apart(v)}" for k, v in value.items())
        return "{\n" + inner + "\n  }"
    return json.dumps(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def digits(value: float) -> str:
    """Two or three digits."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    if value >= 0.1:
        return f"{value:.2f}"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"


def with_spread(values: Sequence[float]) -> str:
    """Median, and smallest to largest."""
    median, low, high = (digits(v) for v in values)
    return f"{median} ({low}–{high})"


def _kinds(part: Record) -> list[str]:
    return [name for name in IMPLEMENTATIONS if name in part]


def _names(rows: Sequence[Record], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _grid(rows: Sequence[Record], verbs: Sequence[str], cell: Callable[[Record], str]) -> str:
    """A row a method and dtype, a column a shape and verb."""
    shapes, found = _names(rows, "shape"), {}
    for row in rows:
        found[row["method"], row["dtype"], row["shape"]] = row
    head = ["method", "dtype", *(f"{s} {v}" for s in shapes for v in verbs)]
    lines = []
    for method, dtype in dict.fromkeys((row["method"], row["dtype"]) for row in rows):
        cells = [cell(found[method, dtype, s].get(v, {})) for s in shapes for v in verbs]
        if set(cells) != {"–"}:
            lines.append([method, dtype, *cells])
    return table(head, lines)


def codec_ratios(part: Record) -> str:
    """Cost ratios, a table an implementation."""
    return "\n\n".join(
        f"{IMPLEMENTATIONS[kind].capitalize()}:\n\n"
        + _grid(part[kind]["rows"], ("encode", "decode"), lambda v: with_spread(v["ratio"]))
        for kind in _kinds(part)
    )


def codec_milliseconds(part: Record) -> str:
    """Processor's milliseconds; of the copies too."""
    parts = []
    for kind in _kinds(part):
        rows = part[kind]["rows"]
        copies = {row["shape"]: row["memcpy"]["cpu_ms"][0] for row in rows}
        said = ", ".join(f"{shape} {digits(ms)}" for shape, ms in copies.items())
        grid = _grid(rows, ("encode", "decode"), lambda v: digits(v["cpu_ms"][0]))
        title = IMPLEMENTATIONS[kind].capitalize()
        parts.append(f"{title}; the copy itself, in ms: {said}.\n\n{grid}")
    return "\n\n".join(parts)


def amaq_steps(part: Record) -> str:
    """What of `amaq` is in every step, and what in the mean."""
    head = ["codec", "method", "shape", "dtype", "encode, mean", "encode, median", "observe"]
    lines = []
    for kind in _kinds(part):
        for row in part[kind]["rows"]:
            if "observe" not in row:
                continue
            encode, observe = row["encode"], row["observe"]
            figures = (encode["cpu_ms"], encode["median_call_cpu_ms"], observe["cpu_ms"])
            names = (IMPLEMENTATIONS[kind], row["method"], row["shape"], row["dtype"])
            lines.append([*names, *(digits(v[0]) for v in figures)])
    return table(head, lines)


def implementations(part: Record) -> str:
    """How many times quicker the compiled codec is."""
    kinds = _kinds(part)
    if len(kinds) < 2:
        return "This record has plain torch only."
    torch_rows = {_key(row): row for row in part["torch"]["rows"]}
    rows = []
    for row in part["native"]["rows"]:
        plain = torch_rows[_key(row)]
        verbs = {
            v: {"times": row[v]["ratio"][0] / plain[v]["ratio"][0]} for v in ("encode", "decode")
        }
        rows.append({**row, **verbs})
    return _grid(rows, ("encode", "decode"), lambda v: digits(v["times"]))


def _key(row: Record) -> tuple[str, ...]:
    return row["method"], row["shape"], row["dtype"]


def peers(part: Record) -> str:
    """Time of each peer over ours."""
    parts = []
    for kind in _kinds(part):
        rows = part[kind]["rows"]
        lines = []
        for row in rows:
            if "over_fixed" in row:
                figures = [
                    row[over][verb]
                    for over in ("over_fixed", "over_amaq")
                    for verb in ("encode", "decode")
                ]
                bits = f"{row['bits']:.2f}"
                lines.append(
                    [row["method"], row["shape"], bits, *(with_spread(v) for v in figures)]
                )
        head = [
            "peer",
            "shape",
            "bits a value",
            "fixed: encode",
            "decode",
            "amaq: encode",
            "decode",
        ]
        title = f"Ours in {IMPLEMENTATIONS[kind]}:"
        skipped = part[kind]["skipped"]
        notes = [f"Left out: {title}, {reason}." for title, reason in skipped.items()]
        parts.append("\n\n".join([title, table(head, lines), *notes]))
    return "\n\n".join(parts)


def step(part: Record) -> str:
    """Training steps, and where the codec's time goes."""
    head = ["dtype", "step", "to unsplit", "seconds", "codec, share", "codec, ms", "peak MiB"]
    lines = []
    for row in part["rows"]:
        share, ms = row.get("codec_share"), row.get("codec_ms")
        codec = [f"{100 * share:.2f} %", digits(ms)] if share else ["–", "–"]
        names, peak = [row["dtype"], row["kind"]], str(row["peak_mib"])
        figures = [with_spread(row["to_unsplit"]), with_spread(row["seconds"])]
        lines.append([*names, *figures, *codec, peak])
    calls = []
    for row in part["rows"]:
        spent = row.get("codec_ms_by_call", {})
        said = ", ".join(f"`{name}` {digits(ms)}" for name, ms in spent.items())
        if said:
            calls.append(f"- {row['kind']}, {row['dtype']}: {said}")
    notes = [f"Left out: {dtype}, {reason}." for dtype, reason in part["skipped"].items()]
    by_call = "Milliseconds of a step by call:\n\n" + "\n".join(calls)
    return "\n\n".join([table(head, lines), *notes, by_call])


def startup(part: Record) -> str:
    """Seconds a command."""
    lines = [[f"`amaqctl {r['command']}`", with_spread(r["seconds"])] for r in part["rows"]]
    return table(["command", "seconds"], lines)


def growth(part: Record) -> str:
    """Slopes."""
    head = ["codec", "along", "method", "verb", "slope", "upper half", "ms, smallest to largest"]
    lines = []
    for kind in _kinds(part):
        for row in part[kind]["rows"]:
            times = " ".join(digits(v[0]) for v in row["cpu_ms"].values())
            slopes = [f"{row['slope']:.2f}", f"{row['slope_upper_half']:.2f}"]
            names = [row["axis"], row["method"], row["verb"]]
            lines.append([IMPLEMENTATIONS[kind], *names, *slopes, times])
    return table(head, lines)


def machine(record: Record) -> str:
    """Where and with what each part was measured."""
    head = ["part", "commit", "processor", "cores", "load", "Python", "packages"]
    lines = []
    for name, part in record.items():
        where = part["environment"]
        packages = ", ".join(f"{k} {v}" for k, v in where["versions"].items() if k != "amaqctl")
        commit = where["commit"] + (" and changes" if where["changed"] else "")
        load = str(where["load"][0])
        lines.append(
            [name, commit, where["cpu"], str(where["cores"]), load, where["python"], packages]
        )
    return table(head, lines)


def parts(record: Record) -> dict[str, str]:
    """Every generated part by name."""
    made: dict[str, str] = {"machine": machine(record)} if record else {}
    of_codec = {
        "codec": codec_ratios,
        "milliseconds": codec_milliseconds,
        "steps of amaq": amaq_steps,
        "implementations": implementations,
    }
    if "codec" in record:
        made |= {name: render(record["codec"]) for name, render in of_codec.items()}
    for name, render in (
        ("peers", peers),
        ("step", step),
        ("startup", startup),
        ("growth", growth),
    ):
        if name in record:
            made[name] = render(record[name])
    return made


def renewed(page: str, record: Record) -> str:
    """The page with every part that the record has."""
    for name, text in parts(record).items():
        begin, end = f"<!-- records: {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.S)
        part = f"{begin}\n\n{text}\n\n{end}"
        page, found = pattern.subn(part.replace("\\", r"\\"), page)
        assert found == 1, f"the page has no place for '{name}'"
    return page
