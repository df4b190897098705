"""Record a trace: train a profile for a few steps over lossless messages, and keep every one.

Beside `amaqctl.build` and `amaqctl.runs`, part of the composition root. The profile's quantizers
are taken out of the path as in clean evaluation, so what is recorded is what a quantizer would
have been given, at the weights of a run without quantization.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from amaqctl import __version__
from amaqctl.build import Built, build, resolve_parts
from amaqctl.errors import ResourceError
from amaqctl.occupied import occupied_trace, refuse_trace
from amaqctl.profile import load_profile
from amaqctl.quantizer import DTYPES, Site, TensorContext
from amaqctl.storage import AlreadyThere, write_file
from amaqctl.tasks.batch import Batch, batch_at, split_batch
from amaqctl.trace.layout import SiteFacts, TraceHeader
from amaqctl.trace.writer import END_BYTES, TraceWriter, header_bytes, record_bytes
from amaqctl.wire import Message


@dataclass(frozen=True)
class Recording:
    """A profile, built and about to be recorded.

    Args:
        built: what the profile describes.
        header: of the trace to be.
        num_messages, num_bytes: exactly what the file will hold.
    """

    built: Built
    header: TraceHeader
    num_messages: int
    num_bytes: int


def prepare(
    profile: str, overrides: Sequence[str], first_step: int, num_steps: int, max_bytes: int
) -> Recording:
    """Build a profile and say how large its trace will be.

    Args:
        profile: a path or a shipped name.
        overrides: ``--set`` items.
        first_step: steps trained before the first one that is recorded.
        num_steps: steps recorded. The run is as long as that, whatever the profile says, so
            schedules of quantizers end where the trace ends.
        max_bytes: refuse a larger trace.

    Raises:
        ResourceError: the trace would be larger than ``max_bytes``; nothing was written.
        ProfileError, PluginError, InputError: from building.
    """
    total_steps = first_step + num_steps
    built = build(load_profile(profile, [*overrides, f"train.max_steps={total_steps}"]))
    sites = [
        channel.quantizers.sender.site
        for stage in built.engine.stages.values()
        if stage.outgoing is not None
        for channel in (stage.outgoing.activations, stage.outgoing.gradients)
    ]
    header = TraceHeader(
        model=built.source.model_id,
        dtype=built.loaded.profile.model.dtype,
        profile=built.loaded.name,
        recorded_by=f"amaqctl {__version__}",
        first_step=first_step,
        num_steps=num_steps,
        total_steps=total_steps,
        quantizer_lr=built.loaded.profile.optimizer.quantizer_lr,
        sites=tuple(map(SiteFacts.of, sites)),
    )
    num_messages = 0
    num_bytes = len(header_bytes(header)) + END_BYTES
    for step, message_bytes in _message_sizes(built, sites, range(first_step, total_steps)):
        num_messages += 1
        num_bytes += record_bytes(message_bytes)
        if num_bytes > max_bytes:
            raise ResourceError(
                f"{num_steps} steps are more than the limit of {max_bytes / 2**20:.0f} MiB, which "
                f"is passed in step {step}",
                hint="record fewer steps with --steps, or raise --max-mib",
                error_id="RESOURCE-TRACE",
            )
    return Recording(built, header, num_messages, num_bytes)


def record(recording: Recording, out: Path, on_step: Callable[[int], None]) -> None:
    """Train, and put the trace in place when it is whole.

    Args:
        recording: from `prepare`.
        out: the file; it must not exist.
        on_step: told of each step that was trained.

    Raises:
        InputError: ``out`` exists.
        ResourceError: no room, or it cannot be written; nothing is left behind.
        DivergedError: from training.
    """
    refuse_trace(out)
    _check_room(recording.num_bytes, out)

    def write(made: Path) -> None:
        with made.open("wb") as file:
            _train(recording, file, on_step)

    try:
        write_file(out, write, replace=False)
    except AlreadyThere:
        raise occupied_trace(out) from None


def _train(recording: Recording, file: BinaryIO, on_step: Callable[[int], None]) -> None:
    built, header = recording.built, recording.header
    writer = TraceWriter(file, header)

    def keep(message: Message) -> None:
        if message.context.step >= header.first_step:
            writer.append(message.to_bytes())

    built.engine.listeners.append(keep)
    try:
        with built.engine.boundary("clean"):
            for step in range(header.total_steps):
                built.engine.train_step(_batch(built, step), step)
                on_step(step)
    finally:
        built.engine.listeners.remove(keep)
    writer.end()


def _message_sizes(built: Built, sites: Sequence[Site], steps: range) -> Iterator[tuple[int, int]]:
    """Step and exact length of every message to come: an empty tensor's, really encoded."""
    profile = built.loaded.profile
    lossless = resolve_parts(built.loaded).lossless
    for step in steps:
        parts = split_batch(_batch(built, step), profile.train.micro_batches)
        for micro_batch, part in enumerate(parts):
            sequence = step * len(parts) + micro_batch
            for site in sites:
                context = TensorContext(
                    role=site.role,
                    link=site.link,
                    step=step,
                    total_steps=steps.stop,
                    micro_batch=micro_batch,
                    sample_ids=part.sample_ids,
                    lengths=part.lengths,
                )
                shape = (*part.input_ids_BT.shape, site.num_channels)
                zeros = torch.zeros(shape, dtype=DTYPES[profile.model.dtype])
                quantized = lossless.end(site).quantize(zeros, context)
                message = Message(lossless.name, context, quantized, sequence=sequence)
                yield step, len(message.to_bytes())


def _batch(built: Built, step: int) -> Batch:
    train = built.loaded.profile.train
    pad = built.pad_token_id
    return batch_at(built.task.train, step, train.batch_size, train.seed, pad)


def _check_room(num_bytes: int, out: Path) -> None:
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ResourceError(
            f"the trace needs {num_bytes / 2**20:.2f} MiB and {free / 2**20:.2f} MiB are free",
            where=str(folder),
            hint="free some space, record fewer steps, or choose another --out",
        )
