"""In the engine's own hands: a channel refuses what is not finite, and the tiny model trains."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from amaqctl import build
from amaqctl.engine.engine import Engine
from amaqctl.engine.link import Channel, QuantizerPair
from amaqctl.errors import AmaqError
from amaqctl.profile import load_profile
from amaqctl.profile.yaml12 import dump
from amaqctl.tasks.batch import batch_at
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import NUM_CHANNELS, Subject, hidden_like, same_bits
from amaqctl.transports.loopback import LoopbackTransport
from amaqctl.transports.transport import Address
from amaqctl.wire import Limits, Message

_SHAPE_BTC = (2, 8, NUM_CHANNELS)
_NUM_STEPS = 10
_BATCH_SIZE = 2
_LENGTH = 32
_SEED = 17
# Four windows: every sample comes back after two steps, as a memory of samples needs it.
_TEXT = "A stitch in time saves nine. All is well that ends well, as it was in the old song.\n\n"


def non_finite(subject: Subject) -> None:
    """NaN and infinity are refused with an AmaqError, and the next tensor is none the worse."""
    for value in (math.nan, math.inf, -math.inf):
        with case(f"{value} given to a channel"):
            _refused_then_well(subject, value)
    with case("NaN given to quantize itself"):  # infinity may be clipped like any large value
        _refused_at_an_end(subject, math.nan)


def _refused_then_well(subject: Subject, value: float) -> None:
    channel, untouched = (_channel(subject, _loopback()) for _ in range(2))
    for step in range(3):
        x = hidden_like(_SHAPE_BTC, step)
        context = subject.context(x, step)
        with _refusal():
            channel.send(_spoilt(x, value), context)
        decoded = []
        for one in (channel, untouched):
            one.send(x, context)
            decoded.append(one.receive().value)
        expect(same_bits(*decoded), "what comes where nothing was refused", "other bits")


def _refused_at_an_end(subject: Subject, value: float) -> None:
    """Past the sending channel's check: the quantizer raises, or the receiving channel does."""
    transport = _loopback()
    receiving = _channel(subject, transport)
    x = _spoilt(hidden_like(_SHAPE_BTC), value)
    context = subject.context(x)
    with _refusal():
        quantized = subject.quantize(subject.sender(), x, context)
        transport.send(receiving.address, Message(subject.name, context, quantized).to_bytes())
        receiving.receive()


def _spoilt(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[0, 3, 5] = value
    return x


@contextlib.contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except AmaqError:
        return
    expect(False, "an AmaqError", "no error")


def _loopback() -> LoopbackTransport:
    return LoopbackTransport(LoopbackTransport.Config())


def _channel(subject: Subject, transport: LoopbackTransport) -> Channel:
    ends = (subject.end(end) for end in (subject.sender(), subject.receiver()))
    pair = QuantizerPair(subject.name, *ends)
    return Channel(
        Address(0, subject.role),
        transport,
        pair,
        pair,  # never used: the boundary is never clean here
        Limits(),
        torch.device("cpu"),
        lambda message, sizes: None,
    )


def training(subject: Subject) -> None:
    """Ten steps of the tiny split model: finite losses, and every parameter moves."""
    with tempfile.TemporaryDirectory(prefix="amaqctl-") as folder, _algorithms_put_back():
        loaded = load_profile(_write_profile(Path(folder), subject))
        built = build.build(loaded)
        before = _trained_parameters(built.engine)
        for step in range(_NUM_STEPS):
            with case(f"step {step}"):
                batch = batch_at(built.task.train, step, _BATCH_SIZE, _SEED, built.pad_token_id)
                loss = built.engine.train_step(batch, step).loss
                expect(math.isfinite(loss), "a finite loss", loss)
    for name, after in _trained_parameters(built.engine).items():
        with case(f"parameter '{name}' after {_NUM_STEPS} steps"):
            expect(bool(after.isfinite().all()), "finite values", "NaN or infinity")
            expect(not same_bits(after, before[name]), "other values than at the start", "the same")


def _write_profile(folder: Path, subject: Subject) -> Path:
    """A profile that names the subject in its role and no quantizer in the other.

    What a default there did wrongly would be blamed on the subject.
    """
    data, profile = folder / "text.txt", folder / "contract.yaml"
    data.write_text(_TEXT * 3, encoding="utf-8")
    options = subject.config().model_dump(mode="json", include=set(subject.options))
    sections = {
        "amaqctl": 1,
        "model": {"id": "tiny", "dtype": "float32"},
        "split": {"cuts": [4]},
        "quantizers": {
            "activation": {"name": "none"},
            "gradient": {"name": "none"},
            subject.role: {"name": subject.name, "options": options},
        },
        "task": {"name": "text", "options": {"train": str(data), "validation": str(data)}},
        "train": {
            "max_steps": _NUM_STEPS,
            "batch_size": _BATCH_SIZE,
            "max_length": _LENGTH,
            "seed": _SEED,
        },
    }
    profile.write_text(dump(sections), encoding="utf-8")
    return profile


def _trained_parameters(engine: Engine) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for index, stage in engine.stages.items():
        for name, parameter in stage.model.named_parameters():
            if parameter.requires_grad:
                named[f"stage {index} {name}"] = parameter.detach().clone()
        if stage.outgoing is not None:
            sender = stage.outgoing.activations.quantizers.sender.quantizer
            for name, parameter in sender.named_parameters():
                named[f"quantizer {name}"] = parameter.detach().clone()
    return named


@contextlib.contextmanager
def _algorithms_put_back() -> Iterator[None]:
    """Building a profile may switch torch to deterministic algorithms."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
