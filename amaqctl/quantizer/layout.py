"""`Layout`: what a message of a quantizer looks like, declared by it and checked for it.

A receiver must not decode what its own options would never make: broadcasting turns a range of the
wrong shape into garbage without a word. So a quantizer declares the layout, and every channel
checks each message against it before anything is decoded, a stranger's like a built-in one's.

Legend: R rows and K columns of the code matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from amaqctl.bits import Axis, passes
from amaqctl.errors import QuantizationError
from amaqctl.quantizer.tensors import QuantizedTensor

Length = int | range
"""A length that a dimension must have, or all those that it may have."""


class LayoutError(QuantizationError):
    """A message is not laid out as its quantizer declares."""


@dataclass(frozen=True)
class CodesLayout:
    """The code matrix.

    Args:
        num_rows: R. num_columns: K.
        axis: what a column is.
        widths: bit-widths that a column may have.
        optional: a message may have no codes.
    """

    num_rows: Length
    num_columns: Length
    axis: Axis
    widths: Collection[int]
    optional: bool = False


@dataclass(frozen=True)
class SideLayout:
    """One side tensor.

    Args:
        dtype: as it travels.
        shape: of each dimension the length, or the lengths that it may have.
        optional: a message may go without it.
    """

    dtype: torch.dtype
    shape: tuple[Length, ...]
    optional: bool = False


@dataclass(frozen=True)
class Layout:
    """A whole message.

    Args:
        codes: None for a method without.
        side: its side tensors by name.
        together: names of optional side tensors that come all or not at all.
    """

    codes: CodesLayout | None
    side: Mapping[str, SideLayout] = field(default_factory=dict)
    together: Collection[frozenset[str]] = ()

    def check(self, quantized: QuantizedTensor) -> None:
        """Compare a message with the layout.

        Raises:
            LayoutError: codes or side tensors that are missing, too many, or of another shape,
                dtype, axis or width.
        """
        self._check_codes(quantized)
        for name, declared in self.side.items():
            if name not in quantized.side and not declared.optional:
                raise _refused(f"no side tensor '{name}'")
        for name, tensor in quantized.side.items():
            if name not in self.side:
                known = ", ".join(self.side) or "none"
                raise _refused(f"a side tensor '{name}' where there are {known}")
            _check_side(name, tensor, self.side[name])
        for group in self.together:
            missing = sorted(group - quantized.side.keys())
            if missing and len(missing) < len(group):
                raise _refused(f"no side tensor '{missing[0]}'")

    def _check_codes(self, quantized: QuantizedTensor) -> None:
        declared, codes = self.codes, quantized.codes
        if codes is None or declared is None:
            if codes is not None:
                raise _refused("codes where there are none")
            if declared is not None and not declared.optional:
                raise _refused("no codes")
            return
        allocation = codes.allocation
        for what, found, legal in (
            ("rows", codes.num_rows, declared.num_rows),
            ("columns", allocation.num_columns, declared.num_columns),
        ):
            if not _is_legal(found, legal):
                raise _refused(f"codes of {found} {what}; expected {_words(legal)}")
        if allocation.axis != declared.axis:
            raise _refused(f"codes by {allocation.axis}; expected by {declared.axis}")
        other = set(allocation.distinct) - set(declared.widths)
        if other:
            legal_widths = ", ".join(map(str, sorted(declared.widths)))
            raise _refused(f"codes of {min(other)} bits; expected {legal_widths}")


def check_finite(quantized: QuantizedTensor) -> None:
    """Refuse NaN and infinity in the side tensors, whoever made them.

    Raises:
        LayoutError: a side tensor of a float dtype is not finite.
    """
    for name, tensor in quantized.side.items():
        if tensor.is_floating_point() and not passes.all_finite(tensor):
            raise _refused(f"side tensor '{name}' holds NaN or infinity")


def _check_side(name: str, tensor: Tensor, declared: SideLayout) -> None:
    shape = tuple(tensor.shape)
    fits = len(shape) == len(declared.shape) and all(map(_is_legal, shape, declared.shape))
    if not fits or tensor.dtype != declared.dtype:
        expected = f"({', '.join(map(_words, declared.shape))}{',' * (len(declared.shape) == 1)})"
        raise _refused(
            f"side tensor '{name}' is {tensor.dtype} of shape {shape}; expected {declared.dtype} "
            f"of shape {expected}"
        )


def _is_legal(found: int, legal: Length) -> bool:
    return found in legal if isinstance(legal, range) else found == legal


def _words(legal: Length) -> str:
    if isinstance(legal, int):
        return str(legal)
    every = f" by {legal.step}" if legal.step != 1 else ""
    return f"{legal[0]} to {legal[-1]}{every}" if legal else "none"


def _refused(fault: str) -> LayoutError:
    return LayoutError(
        f"a message of another layout: {fault}",
        hint="sender and receiver need the same options of the same quantizer",
    )
