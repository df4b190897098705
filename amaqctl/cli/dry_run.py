"""`amaqctl train --dry-run`: what a run will do, on one screen, with nothing made.

It is a screen even in a pipe; programs take ``--json``. What is exact and what is a forecast is
said beside the numbers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaqctl.cli.console.early import checked_profile
from amaqctl.cli.console.render import facts, table
from amaqctl.cli.console.session import Session
from amaqctl.units import duration, mib

if TYPE_CHECKING:
    from amaqctl.build import Built
    from amaqctl.forecast import ChannelForecast, Forecast, Piece
    from amaqctl.profile.schema import LoraSection

_SAMPLE_WIDTH = 64
_PIECE_ENDS = 90
"""Characters shown of each end of a long piece of the sample."""


def dry_run(
    session: Session, profile: str, overrides: Sequence[str], out: Path | None, name: str | None
) -> None:
    """Build, rehearse and forecast a run, and print what was found.

    Args:
        profile: a path or a shipped name. overrides: ``--set`` items.
        out, name: of the run to be, as `train` takes them.

    Raises:
        AmaqError: everything that would stop training before its second step.
    """
    loaded = checked_profile(profile, overrides, out)
    from amaqctl import build
    from amaqctl.engine.advice import advised
    from amaqctl.forecast import forecast

    session.note("rehearsing …")
    built = build.build(loaded)
    for text in built.warnings:
        session.warn(text)
    found = forecast(built, out)
    if not found.disk.is_enough:
        session.warn(
            f"the run needs about {mib(found.disk.needed_bytes)} of disk, and "
            f"{mib(found.disk.free_bytes)} are free in {found.disk.folder}"
        )
    data = _document(built, found)
    settings = [word for item in overrides for word in ("--set", item)]
    settings += ["--out", str(out)] if out else []
    settings += ["--name", name] if name else []
    again = advised("train", profile, *settings)
    session.result(data, _screen(built, found, again), str(data["forecast"]["run_bytes"]))


def _document(built: Built, found: Forecast) -> dict[str, Any]:
    profile = built.loaded.profile
    run_values = sum(channel.run_values for channel in found.channels)
    roles = ("activation", "gradient")
    return {
        "profile": built.loaded.name,
        **built.facts(),
        "cuts": [stage.last_block for stage in found.stages[:-1]],
        "lora": None if profile.lora is None else profile.lora.model_dump(mode="json"),
        "quantizers": {
            "activation": profile.quantizers.activation.name,
            "gradient": profile.quantizers.gradient.name,
        },
        "stages": [asdict(stage) for stage in found.stages],
        "data": {
            **built.facts()["data"],
            **asdict(found.data),
            "loss_share": found.data.loss_share,
        },
        "first_step": {
            "bytes": sum(channel.first_step_bytes for channel in found.channels),
            "values": sum(channel.first_step_values for channel in found.channels),
            **{f"{role}_bits": found.bits(role, at_end=False) for role in roles},
        },
        "channels": [
            {**asdict(channel), "first_step_bits": channel.first_step_bits}
            for channel in found.channels
        ],
        "loss_before": found.loss_before,
        "forecast": {
            "run_bytes": sum(channel.run_bytes for channel in found.channels),
            "run_values": run_values,
            "run_bytes_at_16_bits": 2 * run_values,
            **{f"{role}_bits_at_end": found.bits(role, at_end=True) for role in roles},
            "seconds": found.time.run_seconds,
            "counted_steps": found.num_counted_steps,
        },
        "time": asdict(found.time),
        "memory": asdict(found.memory),
        "disk": {**asdict(found.disk), "is_enough": found.disk.is_enough},
    }


def _screen(built: Built, found: Forecast, again: str) -> str:
    stages = [
        [
            str(stage.stage),
            f"{stage.first_block}-{stage.last_block}",
            f"{stage.parameters:,}",
            f"{stage.bytes / 2**20:.2f}",
            f"{stage.trainable:,}",
            stage.holds or "-",
        ]
        for stage in found.stages
    ]
    header = ["stage", "blocks", "parameters", "MiB", "trainable", "data held"]
    return "\n\n".join(
        [
            facts(_model_and_data(built, found), is_terminal=True),
            table(header, stages, is_terminal=True),
            _channel_table(found.channels),
            facts([*_outlook(found), ("next", again)], is_terminal=True),
        ]
    )


def _lora_text(lora: LoraSection | None) -> str:
    if lora is None:
        return "none: the weights themselves are trained"
    targets = lora.target_modules
    on = targets if isinstance(targets, str) else ", ".join(targets)
    return f"r {lora.r}, alpha {lora.alpha}, on {on}"


def _model_and_data(built: Built, found: Forecast) -> list[tuple[str, str]]:
    profile, data = built.loaded.profile, found.data
    cuts = ", ".join(str(stage.last_block) for stage in found.stages[:-1])
    dropped = "".join(f"; left out: {n:,} {reason}" for reason, n in data.num_dropped.items())
    sample = textwrap.wrap(_marked(data.pieces), _SAMPLE_WIDTH)
    bits = "" if profile.model.base_bits is None else f" (base {profile.model.base_bits} bits)"
    model = f"{built.source.model_id}, {profile.model.dtype}{bits}"
    model += f", {found.stages[-1].last_block} blocks"
    return [
        ("profile", f"{built.loaded.name}, {profile.train.max_steps:,} steps of "
         f"{profile.train.batch_size} examples"),
        ("model", f"{model}, cut after {cuts}"),
        ("lora", _lora_text(profile.lora)),
        ("quantizer", f"activation {profile.quantizers.activation.name}, "
         f"gradient {profile.quantizers.gradient.name}"),
        ("data", f"{data.num_train:,} train, {data.num_validation:,} validation{dropped}"),
        ("loss", f"on {data.loss_share:.1%} of {data.num_tokens:,} train tokens; "
         "in the sample those in [ ]"),
        *(("" if i else "sample", line) for i, line in enumerate(sample)),
    ]  # fmt: skip


def _channel_table(channels: Sequence[ChannelForecast]) -> str:
    def row(link: str, direction: str, shown: Sequence[ChannelForecast]) -> list[str]:
        first_bytes = sum(channel.first_step_bytes for channel in shown)
        first_values = sum(channel.first_step_values for channel in shown)
        end = sum(channel.first_step_values * channel.last_step_bits for channel in shown)
        return [
            link,
            direction,
            f"{first_bytes:,}",
            f"{8 * first_bytes / first_values:.2f}",
            f"{end / first_values:.2f}",
            f"{sum(channel.run_bytes for channel in shown) / 2**20:.2f}",
            f"{sum(channel.run_values for channel in shown) / 2**19:.2f}",
        ]

    header = ["link", "direction", "bytes, step 1", "bits", "bits at end", "run MiB", "at 16 bits"]
    rows = [row(str(channel.link), channel.role, [channel]) for channel in channels]
    return table(header, [*rows, row("all", "both", channels)], is_terminal=True)


def _outlook(found: Forecast) -> list[tuple[str, str]]:
    time, disk, memory = found.time, found.disk, found.memory
    run_bytes = sum(channel.run_bytes for channel in found.channels)
    raw_bytes = 2 * sum(channel.run_values for channel in found.channels)
    state = f", samples {mib(disk.state_bytes)}" if disk.state_bytes else ""
    gpu = f"; on the GPU {mib(memory.device_peak_bytes)}" if memory.device_peak_bytes else ""
    return [
        ("exact", "the bytes and bits of step 1, which was really trained"),
        ("forecast", "bits at the end and the run's MiB, from messages of sampled steps"),
        *_extrapolated(found),
        ("wire", f"{mib(run_bytes)} in all; 16 bit: {mib(raw_bytes)} "
         f"({raw_bytes / run_bytes:.2f}x)"),
        ("time", f"a first guess: {duration(time.run_seconds)} ({time.num_steps:,} steps of "
         f"{time.step_seconds:.2f} s, {time.num_evaluations:,} evaluations of "
         f"{time.evaluation_seconds:.2f} s)"),
        ("memory", f"{mib(memory.peak_bytes)} at its peak so far; "
         f"the machine has {mib(memory.machine_bytes)}{gpu}"),
        ("disk", f"{mib(disk.needed_bytes)} of {mib(disk.free_bytes)} free"),
        ("", f"checkpoints {disk.num_checkpoints} x {mib(disk.checkpoint_bytes)}, "
         f"adapter {mib(disk.adapter_bytes)}{state}"),
    ]  # fmt: skip


def _extrapolated(found: Forecast) -> list[tuple[str, str]]:
    """A line where the data of the run were not counted to its end."""
    counted, num_steps = found.num_counted_steps, found.time.num_steps
    if counted == num_steps:
        return []
    return [("", f"data counted for {counted:,} steps, extrapolated to {num_steps:,}")]


def _marked(pieces: Sequence[Piece]) -> str:
    shown = [(_shortened(_printable(piece.text)), piece.carries_loss) for piece in pieces]
    return "".join(f"[{text}]" if carries_loss else text for text, carries_loss in shown)


def _shortened(text: str) -> str:
    if len(text) <= 2 * _PIECE_ENDS:
        return text
    return f"{text[:_PIECE_ENDS]} … {text[-_PIECE_ENDS:]}"


def _printable(text: str) -> str:
    """Line ends and other controls as escapes, so that they stay inside the sample's lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
