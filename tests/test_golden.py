"""Released bytes stay readable, to the bit, and today's code still makes the same bytes."""

import json
from pathlib import Path

import pytest
from golden import make

from amaqctl import registry
from amaqctl.wire import WIRE_VERSION, Message

VERSIONS = sorted(make.HERE.glob("v*"))
CURRENT = make.HERE / f"v{WIRE_VERSION}"
RECORDS = sorted(make.HERE.glob("v*/*.json"))
CURRENT_RECORDS = [path for path in RECORDS if path.parent == CURRENT]


def _read(path: Path) -> tuple[dict, list[bytes]]:
    record = json.loads(path.read_text())
    return record, [part.read_bytes() for part in make.message_paths(path, record)]


def _case_id(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", RECORDS, ids=_case_id)
def test_golden_messages_decode_to_the_same_bits(path):
    record, messages = _read(path)
    decoded = [make.tensor_to_json(value) for value in make.receive_all(record, messages)]
    assert decoded == [entry["decoded"] for entry in record["messages"]]


@pytest.mark.parametrize("path", RECORDS, ids=_case_id)
def test_golden_headers_say_what_the_case_says(path):
    record, messages = _read(path)
    for index, (data, entry) in enumerate(zip(messages, record["messages"], strict=True)):
        message = Message.from_bytes(data)
        context = make.context_from_json({**entry["context"], "allocation": None})
        assert message.quantizer == record["quantizer"]
        assert (message.context, message.sequence) == (context, index)
        assert message.to_bytes() == data


@pytest.mark.parametrize("path", CURRENT_RECORDS, ids=_case_id)
def test_the_same_input_still_makes_the_same_bytes(path):
    record, messages = _read(path)
    assert [data.hex() for data in make.send_all(record)] == [data.hex() for data in messages]


def test_every_built_in_quantizer_is_golden_in_float32_and_bfloat16():
    found = {
        (record["quantizer"], entry["input"]["dtype"])
        for record, _ in map(_read, CURRENT_RECORDS)
        for entry in record["messages"]
    }
    built_in = [offer.name for offer in registry.offers(registry.QUANTIZERS) if offer.built_in]
    assert {(name, dtype) for name in built_in for dtype in ("float32", "bfloat16")} <= found


def test_the_side_tensors_of_outlier_tokens_are_golden():
    records = [_read(path) for path in CURRENT_RECORDS if "outlier-tokens" in path.stem]
    sides = [Message.from_bytes(part).quantized.side for _, parts in records for part in parts]
    rows = [side["outlier_row"].tolist() for side in sides]
    assert rows == [[0, 5]] * 3
    assert all({"outlier_mean", "outlier_range"} <= side.keys() for side in sides)
    # Without `center`, a mean is sent for the one channel of width 0 alone.
    assert sorted(side["outlier_mean"].numel() for side in sides) == [1, 1, 6]


def test_versions_are_complete_and_nothing_lies_about():
    assert [make.HERE / f"v{n}" for n in range(1, WIRE_VERSION + 1)] == VERSIONS
    expected = set(CURRENT_RECORDS)
    for path in CURRENT_RECORDS:
        expected.update(make.message_paths(path, json.loads(path.read_text())))
    assert set(CURRENT.iterdir()) == expected
    assert {path.stem for path in CURRENT_RECORDS} == {case.name for case in make.CASES}


def test_the_maker_never_rewrites(tmp_path, monkeypatch, capsys):
    folder = tmp_path / f"v{WIRE_VERSION}"
    assert make.write_missing(folder) == [case.name for case in make.CASES]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in CURRENT.iterdir()
    }
    kept = folder / "fixed-float32.0.bin"
    kept.write_bytes(b"kept")
    monkeypatch.setattr(make, "HERE", tmp_path)
    assert make.main() == 1
    assert kept.read_bytes() == b"kept"
    assert "never rewritten" in capsys.readouterr().err
    (folder / "fixed-float32.json").unlink()  # a record without its file is no licence either
    with pytest.raises(FileExistsError):
        make.write_missing(folder)
    assert kept.read_bytes() == b"kept"
