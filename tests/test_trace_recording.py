"""Recording the tiny model: what the engine sent is what the trace holds, to the byte."""

from pathlib import Path

import pytest
import torch

from amaqctl import recording
from amaqctl.build import build
from amaqctl.errors import DivergedError, InputError, ResourceError
from amaqctl.profile import load_profile
from amaqctl.tasks.batch import batch_at
from amaqctl.trace.reader import Trace
from amaqctl.trace.tensors import RecordedTensors

TINY = ["model.id=tiny", "train.max_length=32", "eval.max_examples=4"]
LOSSLESS = ["quantizers.activation={name: none}", "quantizers.gradient={name: none}"]
GIB = 2**30


def recorded(out: Path, *more: str, first_step: int = 0, num_steps: int = 2) -> Trace:
    prepared = recording.prepare("quickstart", [*TINY, *more], first_step, num_steps, GIB)
    steps = []
    recording.record(prepared, out, steps.append)
    assert steps == list(range(first_step + num_steps))
    assert out.stat().st_size == prepared.num_bytes
    trace = Trace(out)
    assert trace.header == prepared.header
    assert len(list(trace)) == prepared.num_messages
    return trace


def test_it_holds_what_an_engine_without_quantizers_sends(tmp_path):
    more = ["split.cuts=[2,5]", "train.micro_batches=2", "model.dtype=float32"]
    trace = recorded(tmp_path / "new" / "a.trace", *more, num_steps=3)
    built = build(load_profile("quickstart", [*TINY, *more, *LOSSLESS, "train.max_steps=3"]))
    sent = []
    built.engine.listeners.append(lambda message: sent.append(message.to_bytes()))
    train = built.loaded.profile.train
    for step in range(3):
        batch = batch_at(
            built.task.train, step, train.batch_size, train.seed, built.tokenizer.pad_token_id
        )
        built.engine.train_step(batch, step)
    assert [message.to_bytes() for message in trace] == sent
    assert len(sent) == 3 * 2 * 2 * 2  # steps, cuts, micro-batches, directions
    tensors = [x for _, x in RecordedTensors(trace)]
    assert all(x.dtype == torch.float32 and bool(x.abs().sum() > 0) for x in tensors)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "a.trace"]


def test_the_header_tells_what_replay_needs(tmp_path):
    trace = recorded(tmp_path / "a.trace", "optimizer.quantizer_lr=0.25")
    header = trace.header
    assert (header.model, header.dtype, header.profile) == ("tiny", "bfloat16", "quickstart")
    assert (header.first_step, header.num_steps, header.total_steps) == (0, 2, 2)
    assert header.quantizer_lr == 0.25
    places = [(site.link, site.role) for site in header.sites]
    assert places == [(0, "activation"), (0, "gradient")]
    site = header.sites[0]
    first = next(iter(trace))
    assert first.quantized.shape == (4, 32, site.num_channels)
    assert max(first.context.sample_ids) < site.num_samples
    assert first.context.total_steps == 2


def test_later_steps_are_those_of_the_longer_run(tmp_path):
    whole = recorded(tmp_path / "whole.trace", num_steps=3)
    late = recorded(tmp_path / "late.trace", first_step=2, num_steps=1)
    assert [m.to_bytes() for m in late] == [m.to_bytes() for m in whole if m.context.step == 2]
    again = recorded(tmp_path / "again.trace", num_steps=3)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_too_large_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ResourceError, match="more than the limit of 0 MiB") as caught:
        recording.prepare("quickstart", TINY, 0, 4, 40_000)
    assert caught.value.exit_code == 7
    assert caught.value.message.endswith("which is passed in step 2")


def test_an_existing_file_is_kept(tmp_path):
    out = tmp_path / "a.trace"
    out.write_text("mine")
    prepared = recording.prepare("quickstart", TINY, 0, 1, GIB)
    with pytest.raises(InputError, match="never overwritten"):
        recording.record(prepared, out, lambda step: None)
    assert out.read_text() == "mine"


def test_a_run_that_diverges_leaves_nothing(tmp_path):
    more = [*TINY, "optimizer.lr=1e6", "model.dtype=float16"]
    prepared = recording.prepare("quickstart", more, 0, 4, GIB)
    with pytest.raises(DivergedError):
        recording.record(prepared, tmp_path / "a.trace", lambda step: None)
    assert list(tmp_path.iterdir()) == []
    assert prepared.built.engine.listeners == []
