"""What others ship for the same task, in turns with ours in one process.

    python benchmarks/speed/peers.py [--quick]

A figure is the peer's time over ours: above 1 ours is quicker. A peer hands over tensors; ours
makes and reads the whole message, header and checks included. A peer whose package is missing is
left out with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from codec import AMAQ, FIXED, cases, has_native
from inputs import DTYPES, LARGE, SMALL, TINY, Shape, hidden_states
from timing import Call, Clock, Timed, printed, round_robin, row_of, spread
from torch import Tensor

ROUNDS = 5
_DTYPE = "float32"
_LARGEST_ERROR = 0.3


@dataclass(frozen=True)
class Codec:
    """A peer: a tensor to a payload, and back."""

    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]
    length: Callable[[Any], int]


class PeerCase:
    """A peer on one shape."""

    figure = "median"
    device = "cpu"

    def __init__(self, title: str, codec: Codec, shape: Shape) -> None:
        self.labels = {"method": title, "shape": shape.name, "dtype": _DTYPE}
        self.shape = shape
        self.num_bytes = 0
        self._codec = codec
        self._step = 0

    def calls(self) -> list[Call]:
        """One round."""
        return [self._call() for _ in range(1 if self.shape == LARGE else 5)]

    def _call(self) -> Call:
        x = hidden_states(self.shape, DTYPES[_DTYPE], self._step % 2)
        self._step += 1
        clock = Clock()
        with clock.of("encode"):
            payload = self._codec.encode(x)
        with clock.of("decode"):
            value = self._codec.decode(payload)
        assert value.numel() == x.numel()
        self.num_bytes = self._codec.length(payload)
        return clock.call


def bitsandbytes_8_bit() -> Codec:
    """Blockwise 8 bits, blocks of 4096."""
    import bitsandbytes.functional as bnb

    return Codec(
        lambda x: bnb.quantize_blockwise(x, blocksize=4096),
        lambda made: bnb.dequantize_blockwise(*made),
        lambda made: _length([made[0], made[1].absmax]),
    )


def bitsandbytes_nf4() -> Codec:
    """NF4, blocks of 64."""
    import bitsandbytes.functional as bnb

    return Codec(
        lambda x: bnb.quantize_nf4(x, blocksize=64),
        lambda made: bnb.dequantize_nf4(*made),
        lambda made: _length([made[0], made[1].absmax]),
    )


def torchao_uint4() -> Codec:
    """Affine 4 bits in groups of 64, and the packer of its uintx layouts."""
    from torchao.prototype.dtypes.uintx import bitpacking
    from torchao.quantization import quant_primitives as ao

    options = {"quant_min": 0, "quant_max": 15}

    def encode(x: Tensor) -> Any:
        x_RC = x.reshape(-1, x.shape[-1])
        block = (1, min(64, x_RC.shape[1]))
        scale, zero = ao.choose_qparams_affine(
            x_RC, ao.MappingType.ASYMMETRIC, block, torch.uint8, **options
        )
        codes = ao.quantize_affine(x_RC, block, scale, zero, torch.uint8, **options)
        return block, scale, zero, bitpacking.pack(codes, 4, dim=-1)

    def decode(made: Any) -> Tensor:
        block, scale, zero, packed = made
        codes = bitpacking.unpack(packed, 4, dim=-1)
        return ao.dequantize_affine(codes, block, scale, zero, torch.uint8, **options)

    return Codec(encode, decode, lambda made: _length([made[1], made[2], *made[3]]))


def torch_per_channel() -> Codec:
    """torch's own 8 bits with a scale a token."""

    def encode(x: Tensor) -> Tensor:
        x_RC = x.reshape(-1, x.shape[-1])
        scale_R = x_RC.abs().amax(1).clamp(min=1e-8) / 127
        zero_R = torch.zeros(len(x_RC), dtype=torch.int64)
        return torch.quantize_per_channel(x_RC, scale_R, zero_R, 0, torch.qint8)

    return Codec(encode, lambda made: made.dequantize(), lambda made: made.numel() + 4 * len(made))


def numpy_packbits() -> Codec:
    """4-bit codes with a scale a channel, packed by `numpy.unpackbits` and `packbits`."""

    def encode(x: Tensor) -> Any:
        x_RC = x.reshape(-1, x.shape[-1]).numpy()
        step_C = np.maximum(np.abs(x_RC).max(0), 1e-8) / 7
        codes_RC = (np.clip(np.rint(x_RC / step_C), -7, 7) + 8).astype(np.uint8)
        bits = np.unpackbits(codes_RC.reshape(-1, 1), axis=1)[:, 4:]
        return np.packbits(bits.reshape(-1)), step_C, x_RC.shape

    def decode(made: Any) -> Tensor:
        packed, step_C, shape = made
        nibbles = np.unpackbits(packed).reshape(-1, 4)
        wide = np.concatenate([np.zeros_like(nibbles), nibbles], axis=1)
        codes = np.packbits(wide, axis=1).reshape(shape).astype(np.float32) - 8
        return torch.from_numpy(codes * step_C)

    return Codec(encode, decode, lambda made: made[0].nbytes + made[1].nbytes)


def zstd_bfloat16() -> Codec:
    """zstd at level 1 on the bytes of bfloat16."""
    import zstandard

    packer, unpacker = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()

    def decode(made: bytes) -> Tensor:
        raw = bytearray(unpacker.decompress(made))
        return torch.frombuffer(raw, dtype=torch.bfloat16).to(torch.float32)

    def encode(x: Tensor) -> bytes:
        words = x.to(torch.bfloat16).reshape(-1).view(torch.int16).numpy()
        return packer.compress(memoryview(words).cast("B"))

    return Codec(encode, decode, len)


PEERS = {
    "bitsandbytes 8 bits, blockwise": bitsandbytes_8_bit,
    "bitsandbytes nf4, block 64": bitsandbytes_nf4,
    "torchao uint4, group 64": torchao_uint4,
    "torch quantize_per_channel, 8 bits a token": torch_per_channel,
    "numpy packbits, 4 bits a channel": numpy_packbits,
    "zstd level 1 on bfloat16": zstd_bfloat16,
}


def _length(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.itemsize for t in tensors)


def available() -> tuple[dict[str, Codec], dict[str, str]]:
    """The peers that work here, and of the others why not."""
    found, missing = {}, {}
    for title, make in PEERS.items():
        try:
            codec, x = make(), hidden_states(TINY, torch.float32, 0)
            error = codec.decode(codec.encode(x)).reshape(x.shape) - x
            if not error.norm() < _LARGEST_ERROR * x.norm():
                raise ValueError("decodes to something else")
        except Exception as error:
            missing[title] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            found[title] = codec
    return found, missing


def against(peer: Timed, ours: Timed, verb: str, also: str | None = None) -> list[float]:
    """Time of the peer over ours, of each round; ``also`` is a verb that counts to ours."""
    return spread(
        [
            theirs[verb]["cpu"] / (own[verb]["cpu"] + (own[also]["cpu"] if also else 0))
            for theirs, own in zip(peer.rounds, ours.rounds, strict=True)
        ]
    )


def compared(timed: Sequence[Timed]) -> list[dict[str, Any]]:
    """A row a peer and shape."""
    ours = {(t.case.labels["method"], t.case.shape.name): t for t in timed}
    rows = []
    for each in timed:
        row = {**row_of(each), "bits": round(_bits(each.case), 3)}
        if each.case.labels["method"] in PEERS:
            fixed, amaq = (ours[m.title, each.case.shape.name] for m in (FIXED, AMAQ))
            row["over_fixed"] = {v: against(each, fixed, v) for v in ("encode", "decode")}
            row["over_amaq"] = {
                "encode": against(each, amaq, "encode", also="observe"),
                "decode": against(each, amaq, "decode"),
            }
        rows.append(row)
    return rows


def _bits(case: Any) -> float:
    return 8 * case.num_bytes / case.shape.num_values


def measure(quick: bool) -> dict[str, Any]:
    """The part of the record."""
    shapes = [TINY] if quick else [LARGE, SMALL]
    found, missing = available()
    made: list[Any] = cases((FIXED, AMAQ), shapes, (_DTYPE,))
    made += [PeerCase(title, codec, shape) for shape in shapes for title, codec in found.items()]
    rows = compared(round_robin(made, 2 if quick else ROUNDS))
    return {"has_native": has_native(), "rows": rows, "skipped": missing}


if __name__ == "__main__":
    printed(measure)
