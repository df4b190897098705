"""`Message`: one quantized tensor, self-describing, to and from bytes.

Body sections, in this order and with no holes:

1. widths, only when columns differ: four bits a column, low half first, 15 for width 16, an odd
   last half zero;
2. side tensors, in the order of the header, raw little-endian;
3. codes, in the layout of `amaqctl.bits.packing`.

Every length follows from the header (and the widths), and must add up to the body before a side
tensor or the codes are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from pydantic import ValidationError
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.errors import QuantizationError, WireError
from amaqctl.quantizer import DTYPE_NAMES, DTYPES, QuantizedTensor, TensorContext
from amaqctl.wire.frame import KIND_MESSAGE, read_frame, write_frame
from amaqctl.wire.header import (
    CodesHeader,
    MessageHeader,
    SideHeader,
    codes_header,
    packed_length,
)

_NIBBLE_OF_16 = 15
_DEFAULT_MAX_BYTES = 2**31
_DEFAULT_MAX_VALUES = 2**28


@dataclass(frozen=True)
class Limits:
    """What a receiver is ready to allocate.

    Args:
        max_bytes: longest legal message.
        max_values: most values of the tensor, of the code matrix and of each side tensor, a
            length of 0 counted as 1. Empty tensors and columns of width 0 take no bytes, so the
            message's length alone would not bound them.
    """

    max_bytes: int = _DEFAULT_MAX_BYTES
    max_values: int = _DEFAULT_MAX_VALUES


@dataclass(frozen=True)
class SizeBreakdown:
    """Bytes of one message by what they are for; they add up to its length."""

    codes: int
    widths: int
    side: int
    header: int

    @property
    def total(self) -> int:
        """The message's length in bytes."""
        return self.codes + self.widths + self.side + self.header


@dataclass(frozen=True)
class Message:
    """One tensor on its way.

    Args:
        quantizer: the registered name of what made it.
        context: of the tensor; its ``allocation`` does not travel.
        quantized: codes and side tensors.
        sequence: number of the message on its channel, from 0.
        session: identity of the run; empty in one process.
    """

    quantizer: str
    context: TensorContext
    quantized: QuantizedTensor
    sequence: int = 0
    session: str = ""

    def to_bytes(self) -> bytes:
        """The whole message.

        Raises:
            QuantizationError: too large for the format, or something that its header cannot say.
        """
        return self.to_bytes_and_sizes()[0]

    def to_bytes_and_sizes(self, limits: Limits | None = None) -> tuple[bytes, SizeBreakdown]:
        """The message and what its bytes are for.

        Args:
            limits: of the receiver, where they are known.

        Raises:
            QuantizationError: as `to_bytes`, or more than the receiver is ready for.
        """
        codes = self.quantized.codes
        widths: bytes | memoryview = b""
        if codes is not None and codes.allocation.uniform_width is None:
            widths = _widths_to_bytes(codes.allocation.widths_C)
        side = [_tensor_to_bytes(t) for t in self.quantized.side.values()]
        packed = b"" if codes is None else _tensor_to_bytes(codes.data)
        try:
            header = self._header()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise QuantizationError(
                f"'{self.quantizer}' asks for what a message cannot carry: {place}: {first['msg']}"
            ) from error
        data = write_frame(KIND_MESSAGE, header, widths, *side, packed)
        if limits is not None:
            self._check_within(limits, len(data))
        num_side = sum(map(len, side))
        num_header = len(data) - len(widths) - num_side - len(packed)
        return data, SizeBreakdown(len(packed), len(widths), num_side, num_header)

    def _check_within(self, limits: Limits, num_bytes: int) -> None:
        """Refuse at the sender what every receiver would refuse.

        Raises:
            QuantizationError: the message, or one of its tensors, is larger than ``limits``.
        """
        quantized = self.quantized
        try:
            _check_size("tensor", quantized.shape, limits)
            if quantized.codes is not None:
                columns = quantized.codes.allocation.num_columns
                _check_size("code matrix", (quantized.codes.num_rows, columns), limits)
            for name, tensor in quantized.side.items():
                _check_size(f"side tensor '{name}'", tuple(tensor.shape), limits)
        except WireError as error:
            raise QuantizationError(f"'{self.quantizer}' made {error.message}") from error
        if num_bytes > limits.max_bytes:
            raise QuantizationError(
                f"'{self.quantizer}' made a message of {num_bytes} bytes, at most "
                f"{limits.max_bytes} are legal"
            )

    def _header(self) -> MessageHeader:
        context, quantized = self.context, self.quantized
        codes = quantized.codes
        return MessageHeader(
            quantizer=self.quantizer,
            role=context.role,
            link=context.link,
            step=context.step,
            total_steps=context.total_steps,
            shape=quantized.shape,
            dtype=DTYPE_NAMES[quantized.dtype],  # type: ignore[arg-type]
            sequence=self.sequence,
            session=self.session,
            micro_batch=context.micro_batch,
            sample_ids=context.sample_ids,
            lengths=context.lengths,
            left_padded=context.left_padded,
            first_position=context.first_position,
            training=context.training,
            codes=None if codes is None else codes_header(codes.num_rows, codes.allocation),
            side=tuple(
                SideHeader(name=name, dtype=DTYPE_NAMES[t.dtype], shape=tuple(t.shape))  # type: ignore[arg-type]
                for name, t in quantized.side.items()
            ),
        )

    @classmethod
    def from_bytes(cls, data: bytes, limits: Limits | None = None) -> Message:
        """Read a message that a peer sent.

        Raises:
            WireError: anything that is not a legal message within ``limits``; nothing else.
        """
        limits = limits or Limits()
        header, body = read_frame(data, KIND_MESSAGE, MessageHeader, limits.max_bytes)
        try:
            quantized = _read_body(header, body, limits)
        except QuantizationError as error:
            raise WireError(f"illegal message: {error.message}") from error
        return cls(
            quantizer=header.quantizer,
            context=header.context(),
            quantized=quantized,
            sequence=header.sequence,
            session=header.session,
        )

    def with_context(self, context: TensorContext) -> Message:
        """The same message under another context (for replay)."""
        return replace(self, context=context)


def _read_body(header: MessageHeader, body: memoryview, limits: Limits) -> QuantizedTensor:
    _check_size("tensor", header.shape, limits)
    if len({side.name for side in header.side}) != len(header.side):
        raise WireError("illegal message: two side tensors have one name")
    for entry in header.side:
        _check_size(f"side tensor '{entry.name}'", entry.shape, limits)
    allocation, position = _read_widths(header.codes, body, limits)
    codes_length = 0
    if header.codes is not None and allocation is not None:
        total_width = int(allocation.widths_C.sum(dtype=torch.int64))
        codes_length = packed_length(header.codes, total_width)
    side_length = sum(_num_bytes(entry.shape, DTYPES[entry.dtype]) for entry in header.side)
    if position + side_length + codes_length != len(body):
        raise WireError(
            f"a body of {len(body)} bytes where the header asks for "
            f"{position + side_length + codes_length}"
        )
    side = {}
    for entry in header.side:
        side[entry.name] = _read_tensor(body, position, entry.shape, DTYPES[entry.dtype])
        position += _num_bytes(entry.shape, DTYPES[entry.dtype])
    codes = None
    if header.codes is not None and allocation is not None:
        packed = _read_tensor(body, position, (codes_length,), torch.uint8)
        codes = PackedCodes(packed, header.codes.rows, allocation)
    return QuantizedTensor(header.shape, DTYPES[header.dtype], codes, side)


def _read_widths(
    codes: CodesHeader | None, body: memoryview, limits: Limits
) -> tuple[BitAllocation | None, int]:
    """The allocation and the number of bytes it took from the body."""
    if codes is None:
        return None, 0
    _check_size("code matrix", (codes.rows, codes.columns), limits)
    if codes.width is not None:
        return BitAllocation.uniform(codes.width, codes.columns, codes.axis), 0
    length = -(-codes.columns // 2)
    if length > len(body):
        raise WireError(f"a body of {len(body)} bytes where the widths alone take {length}")
    packed = _read_tensor(body, 0, (length,), torch.uint8)
    nibbles = torch.stack([packed & 15, packed >> 4], dim=1).reshape(-1)
    if codes.columns % 2 and int(nibbles[-1]):
        raise WireError("illegal message: the unused half of the last width is not zero")
    widths_C = nibbles[: codes.columns]
    allocation = BitAllocation(torch.where(widths_C == _NIBBLE_OF_16, 16, widths_C), codes.axis)
    if allocation.uniform_width is not None:
        raise WireError("illegal message: equal widths belong in the header")
    return allocation, length


def _widths_to_bytes(widths_C: Tensor) -> bytes | memoryview:
    nibbles = torch.where(widths_C == 16, _NIBBLE_OF_16, widths_C)
    if nibbles.numel() % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return _tensor_to_bytes(nibbles[0::2] | (nibbles[1::2] << 4))


def _tensor_to_bytes(tensor: Tensor) -> bytes | memoryview:
    """Its bytes in place, which are copied once: into the frame."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _read_tensor(
    body: memoryview, position: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    end = position + _num_bytes(shape, dtype)
    if end == position:
        return torch.empty(shape, dtype=dtype)
    # A copy: side tensors may start at an odd offset, and the sender's bytes stay untouched.
    raw = torch.frombuffer(bytearray(body[position:end]), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def _check_size(what: str, shape: tuple[int, ...], limits: Limits) -> None:
    num_values = 1
    for length in shape:
        num_values *= max(length, 1)  # an empty tensor's other lengths count too
    if num_values > limits.max_values:
        raise WireError(f"a {what} of {num_values} values, at most {limits.max_values} are legal")
