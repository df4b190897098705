"""One message: shapes and dtypes, sizes, layouts in memory, what a twin makes of the bytes.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import PackedCodes, packed_bytes
from amaqctl.errors import AmaqError
from amaqctl.quantizer import FLOAT_DTYPES
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import (
    NUM_CHANNELS,
    NUM_POSITIONS,
    Subject,
    hidden_like,
    plain,
    same_bits,
)
from amaqctl.wire import Message

SHAPES_BTC = [(2, 5, 32), (1, 1, 32), (3, 13, 9), (1, NUM_POSITIONS, 1), (2, 1, 7), (0, 4, 6)]
_OTHER_SHAPES: list[tuple[int, ...]] = [(4, 8), (5,)]
_CONSTANTS = [0.0, -0.0, 3.7, -1e-30, 60000.0]
_LEAST_COSINE = 0.1


def shapes(subject: Subject) -> None:
    """Any shape and float dtype comes back, finite; zero as zero, and the rest alike."""
    for dtype in FLOAT_DTYPES:
        for shape in SHAPES_BTC:
            round_trip(subject, hidden_like(shape).to(dtype), f"{dtype} of shape {shape}")
        for other in _OTHER_SHAPES:
            _other_shape(subject, hidden_like(other).to(dtype), f"{dtype} of shape {other}")
        # The largest float16 is held to float16 alone: next to it bfloat16 has only 65536.
        for value in [*_CONSTANTS, *([65504.0] if dtype == torch.float16 else [])]:
            x = torch.full((2, 5, NUM_CHANNELS), value).to(dtype)
            decoded = round_trip(subject, x, f"{dtype}, every value {value}")
            if value == 0:
                with case(f"{dtype}, every value {value}"):
                    got = float(decoded.abs().max())
                    expect(got == 0, "zeros, as padding is sent", f"values up to {got}")
        x = plain((2, 16, NUM_CHANNELS)).to(dtype)
        decoded = round_trip(subject, x, f"{dtype}, standard normal")
        with case(f"{dtype}, standard normal"):
            cosine = float(
                torch.cosine_similarity(x.flatten().float(), decoded.flatten().float(), 0)
            )
            expect(
                cosine >= _LEAST_COSINE,
                f"a cosine of {_LEAST_COSINE} or more between what was sent and what came",
                f"{cosine:.3f}",
            )


def round_trip(subject: Subject, x: Tensor, name: str) -> Tensor:
    """Send one training tensor between fresh ends and check what came."""
    with case(name):
        before = x.clone()
        num_channels = x.shape[-1]
        data = subject.send(subject.sender(num_channels), x, subject.context(x))
        expect(same_bits(x, before), "the tensor untouched", "one changed in place")
        decoded = subject.receive(subject.receiver(num_channels), data)
        expect(decoded.shape == x.shape, f"shape {tuple(x.shape)}", tuple(decoded.shape))
        expect(decoded.dtype == x.dtype, str(x.dtype), decoded.dtype)
        expect(bool(decoded.isfinite().all()), "finite values", "NaN or infinity")
        return decoded


def _other_shape(subject: Subject, x: Tensor, name: str) -> None:
    """A channel sends (B, T, C) only; other shapes may be refused, but in one clear line."""
    with case(name):
        try:
            data = subject.send(subject.sender(x.shape[-1]), x, subject.context(x))
        except AmaqError:
            return
        decoded = subject.receive(subject.receiver(x.shape[-1]), data)
        expect(decoded.shape == x.shape, f"shape {tuple(x.shape)}", tuple(decoded.shape))


def sizes(subject: Subject) -> None:
    """Codes fit their widths, and codes, widths, sides and header are all that is sent."""
    sender = subject.sender()
    for step in range(4):
        x = hidden_like((2, 5, NUM_CHANNELS), step)
        context = subject.context(x, step)
        with case(f"step {step}"):
            quantized = subject.quantize(sender, x, context)
            expect(quantized.shape == tuple(x.shape), f"shape {tuple(x.shape)}", quantized.shape)
            expect(quantized.dtype == x.dtype, str(x.dtype), quantized.dtype)
            body = sum(t.numel() * t.itemsize for t in quantized.side.values())
            codes = quantized.codes
            if codes is not None:
                again = PackedCodes.pack(codes.unpack(), codes.allocation)
                expect(
                    same_bits(again.data.cpu(), codes.data.cpu()),
                    "codes as the packer writes them",
                    "other bytes for the same codes",
                )
                widths_C = codes.allocation.widths_C
                body += packed_bytes(codes.num_rows, widths_C)
                body += 0 if widths_C.unique().numel() == 1 else -(-widths_C.numel() // 2)
            data = Message(subject.name, context, quantized).to_bytes()
            header = 16 + int.from_bytes(data[6:8], "little")
            expect(len(data) == header + body, f"{header + body} bytes", len(data))


def layouts(subject: Subject) -> None:
    """Transposed, strided and expanded tensors give the bytes of a contiguous copy."""
    strided = {
        "transposed": hidden_like((2, NUM_CHANNELS, 8)).transpose(1, 2),
        "every other channel": hidden_like((2, 8, 2 * NUM_CHANNELS))[..., ::2],
        "expanded": hidden_like((1, 8, NUM_CHANNELS)).expand(3, 8, NUM_CHANNELS),
    }
    for name, x in strided.items():
        with case(name):
            dense = x.contiguous().clone()
            data = subject.send(subject.sender(), x, subject.context(x))
            expected = subject.send(subject.sender(), dense, subject.context(dense))
            expect(data == expected, "the same bytes", "others")


def twin(subject: Subject) -> None:
    """A twin built from the options alone decodes the bytes to the sender's own bits."""
    for dtype in FLOAT_DTYPES:
        _twin_of(subject, dtype)


def _twin_of(subject: Subject, dtype: torch.dtype) -> None:
    sender, mirror = subject.sender(), subject.receiver()
    sent, mirrored = [], []
    for step in range(10):
        # Lengths differ from step to step, so a sample comes back in another padding.
        x = hidden_like((2, 4 + 5 * (step % 3), NUM_CHANNELS), step).to(dtype)
        context = subject.context(x, step)
        with case(f"{dtype}, step {step}"):
            data = subject.train(sender, x, context)
            sent.append(data)
            quantized = Message.from_bytes(data).quantized
            with torch.no_grad():
                mirrored.append(mirror.dequantize(quantized, context))
    # The sender is far ahead by now: state shared behind the scenes would show.
    late = subject.receiver()
    for step, (data, expected) in enumerate(zip(sent, mirrored, strict=True)):
        with case(f"{dtype}, step {step}, decoded after all steps were sent"):
            decoded = subject.receive(late, data)
            expect(
                same_bits(decoded, expected), "the very same bits", _difference(decoded, expected)
            )


def _difference(got: Tensor, expected: Tensor) -> str:
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)} where {tuple(expected.shape)} came at once"
    largest = float((got.double() - expected.double()).abs().max())
    return f"values that differ by up to {largest:.3g}"
