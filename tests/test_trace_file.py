"""The trace file: what is read is what was written, and a damaged one is named."""

import struct
import zlib

import pytest
import torch
from pages import DOCS, rows, section
from trace_parts import site_of, steps_of, write_trace

from amaqctl.errors import InputError
from amaqctl.trace.layout import SiteFacts, TraceHeader
from amaqctl.trace.reader import Trace
from amaqctl.trace.tensors import RecordedTensors
from amaqctl.trace.writer import END_BYTES, header_bytes, record_bytes


@pytest.fixture
def trace(tmp_path):
    return write_trace(tmp_path / "two.trace", steps_of(2))


def test_tensors_come_back_in_order_with_their_contexts(trace):
    sent = steps_of(2)
    read = list(RecordedTensors(trace))
    assert [message.context for message, _ in read] == [context for context, _ in sent]
    for (_, x), (_, expected) in zip(read, sent, strict=True):
        assert torch.equal(x, expected)
    assert trace.site(0, "gradient").site() == site_of(0, "gradient")


def test_the_size_is_header_records_and_end(trace):
    lengths = [len(message.to_bytes()) for message in trace]
    total = len(header_bytes(trace.header)) + sum(map(record_bytes, lengths)) + END_BYTES
    assert trace.path.stat().st_size == total == trace.num_bytes


def test_the_layout_that_is_written_down(trace):
    data = trace.path.read_bytes()
    magic, version, length, _ = struct.unpack_from("<4sIII", data)
    assert (magic, version) == (b"AMQT", 1)
    assert data[16 : 16 + length] == trace.header.model_dump_json().encode()
    (first,) = struct.unpack_from("<I", data, 16 + length)
    assert data[20 + length : 24 + length] == b"AMAQ"
    assert struct.unpack_from("<I", data, 20 + length + first)[0] > 0
    assert struct.unpack("<IQ", data[-12:]) == (0, 4)


def read_all(path):
    return list(RecordedTensors(Trace(path)))


def test_a_trace_cut_off_anywhere_is_refused(trace):
    data = trace.path.read_bytes()
    for length in [*range(40), *range(40, len(data), 61), *range(len(data) - 14, len(data))]:
        trace.path.write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            read_all(trace.path)
        assert caught.value.where == str(trace.path)


def test_a_flipped_bit_anywhere_is_refused(trace):
    data = trace.path.read_bytes()
    for index in [*range(40), *range(40, len(data), 53), *range(len(data) - 12, len(data))]:
        damaged = bytearray(data)
        damaged[index] ^= 1 << (index % 8)
        trace.path.write_bytes(damaged)
        with pytest.raises(InputError):
            read_all(trace.path)


def test_the_damaged_record_is_named(trace):
    data = bytearray(trace.path.read_bytes())
    header = len(header_bytes(trace.header))
    (first,) = struct.unpack_from("<I", data, header)
    data[header + 4 + first + 4 + 300] ^= 1
    trace.path.write_bytes(data)
    with pytest.raises(InputError, match="record 1: the checksum") as caught:
        read_all(trace.path)
    assert "record it again" in caught.value.hint
    trace.path.write_bytes(data[: header + 4 + first])
    with pytest.raises(InputError, match="cut off in record 1: 4 bytes are due and 0 are left"):
        read_all(trace.path)


def test_a_length_beyond_the_file_is_not_believed(trace):
    data = bytearray(trace.path.read_bytes())
    struct.pack_into("<I", data, len(header_bytes(trace.header)), 0xFFFFFFFF)
    trace.path.write_bytes(data)
    with pytest.raises(InputError, match="cut off in record 0: 4294967295 bytes are due"):
        read_all(trace.path)


def test_channels_beyond_what_a_message_can_have_are_refused(trace):
    place, (channels,) = trace.site(0, "gradient"), {s.num_channels for s in trace.header.sites}
    for num_channels, fault in ((2**20, None), (2**20 + 1, "num_channels"), (0, "num_channels")):
        header = trace.header.model_dump_json().replace(
            f'"num_channels":{channels}', f'"num_channels":{num_channels}'
        )
        data = header.encode()
        prefix = struct.pack("<4sIII", b"AMQT", 1, len(data), zlib.crc32(data))
        trace.path.write_bytes(prefix + data)
        if fault is None:
            assert Trace(trace.path).site(0, "gradient").num_channels == 2**20 > place.num_channels
            continue
        with pytest.raises(InputError, match=fault):
            Trace(trace.path)


def test_more_than_a_trace_is_refused(trace):
    trace.path.write_bytes(trace.path.read_bytes() + b"x")
    with pytest.raises(InputError, match="1 bytes stand behind its end"):
        read_all(trace.path)


def test_a_gradient_needs_its_activation(tmp_path):
    trace = write_trace(tmp_path / "lost.trace", steps_of(2)[1:])
    with pytest.raises(InputError, match="record 0: a gradient of link 0 step 0 without"):
        read_all(trace.path)


def test_what_is_no_trace(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("AMAQ is another beginning")
    with pytest.raises(InputError, match="not a trace"):
        Trace(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Trace(tmp_path / "nowhere")
    path.write_bytes(struct.pack("<4sIII", b"AMQT", 2, 0, 0))
    with pytest.raises(InputError, match="trace version 2 where 1 is understood"):
        Trace(path)


def test_the_page_lists_every_key_of_the_header():
    page = (DOCS / "traces.md").read_text("utf-8")
    listed = rows(section(page, "Keys of the header"))
    assert [row[0].strip("`") for row in listed] == list(TraceHeader.model_fields)
    for name in SiteFacts.model_fields:
        assert f"`{name}`" in listed[-1][1]
