"""One remembered tensor a training sample, in a bounded, memory-mapped, sparse file.

For any quantizer that keeps something for each sample: AQ-SGD has such a memory at each end of the
wire. A buffer of the same size would be written whole into every checkpoint; of this only the
visited part is. The file is anonymous (it has no name once opened), so a crash leaves nothing
behind.

Legend: N samples, T positions, C channels.
"""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from torch import Tensor, nn

from amaqctl.bits import passes
from amaqctl.errors import QuantizationError, ResourceError

_MIB = 2**20


class SampleMemory(nn.Module):
    """What was last decoded for each sample, and how often the sample was sent.

    Args:
        num_samples: N; ids outside 0 … N-1 are refused, so a peer cannot fill the disk.
        num_positions: T, the longest sequence.
        num_channels: C.
        dtype: two bytes a value, float16 or bfloat16.
        limit_mib: refuse a memory larger than this many MiB.

    Raises:
        ResourceError: N x T x C x 2 bytes are more than ``limit_mib``.
    """

    visits_N: Tensor

    def __init__(
        self,
        num_samples: int,
        num_positions: int,
        num_channels: int,
        dtype: torch.dtype,
        limit_mib: int,
    ) -> None:
        super().__init__()
        self._shape = (num_samples, num_positions, num_channels)
        self._dtype = dtype
        self._file: Tensor | None = None
        size_mib = self.size_bytes / _MIB
        if size_mib > limit_mib:
            raise ResourceError(
                f"the sample memory needs {size_mib:.0f} MiB an end ({num_samples} samples x "
                f"{num_positions} tokens x {num_channels} channels x 2 bytes), the limit is "
                f"{limit_mib} MiB",
                hint="raise memory_limit_mib, or train on fewer or shorter samples",
            )
        self.register_buffer("visits_N", torch.zeros(num_samples, dtype=torch.int32))

    @property
    def size_bytes(self) -> int:
        """N · T · C · 2, the file's size when every sample has been visited."""
        return int(np.prod(self._shape, dtype=np.int64)) * 2

    def visits(self, sample_id: int) -> int:
        """How often the sample has been stored; 0 for never."""
        self._check(sample_id)
        return int(self.visits_N[sample_id])

    def recall(self, sample_id: int, num_positions: int) -> Tensor:
        """The remembered tensor as float32, (num_positions, C); zeros where nothing was stored."""
        return self._values_NTC()[sample_id, :num_positions].to(torch.float32)

    def rounded(self, sample_id: int, values_TC: Tensor) -> Tensor:
        """Float32 values of T' <= T positions in the memory's dtype, fit to be stored.

        Raises:
            QuantizationError: the sample or the shape is outside the memory, or a value
                overflows its dtype.
        """
        self._check(sample_id)
        num_positions, num_channels = self._shape[1:]
        if values_TC.dim() != 2 or values_TC.shape[1] != num_channels:
            raise QuantizationError(
                f"values of shape {tuple(values_TC.shape)} do not fit a sample memory of "
                f"{num_channels} channels"
            )
        if len(values_TC) > num_positions:
            raise QuantizationError(
                f"{len(values_TC)} tokens do not fit a sample memory of {num_positions}"
            )
        rounded_TC = values_TC.to(self._dtype)
        if not passes.all_finite(rounded_TC):
            raise QuantizationError(
                f"sample {sample_id} overflows the memory's {self._dtype}",
                hint="set memory_dtype: bfloat16",
            )
        return rounded_TC

    def store(self, sample_id: int, rounded_TC: Tensor) -> None:
        """Remember what `rounded` gave, and count the visit."""
        self._values_NTC()[sample_id, : len(rounded_TC)] = rounded_TC.cpu()
        self.visits_N[sample_id] += 1

    def forget(self, sample_id: int) -> None:
        """Drop one sample; its next visit counts as the first."""
        self._check(sample_id)
        if self.visits_N[sample_id]:
            self.visits_N[sample_id] = 0
            self._values_NTC()[sample_id] = 0

    def get_extra_state(self) -> Tensor:
        """The visited samples' values (visited, T, C), in order of id."""
        visited_N = self.visits_N.cpu() > 0
        if not bool(visited_N.any()):
            return torch.empty((0, *self._shape[1:]), dtype=self._dtype)
        return self._values_NTC()[visited_N]

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` gave; the visits are loaded before this is called."""
        visited_N = self.visits_N.cpu() > 0
        if state.shape != (int(visited_N.sum()), *self._shape[1:]):
            raise QuantizationError(
                f"a sample memory of shape {tuple(state.shape)} does not fit {self._shape}"
            )
        self._file = None  # a fresh file is all zeros, and takes no disk until written
        if len(state):
            self._values_NTC()[visited_N] = state.to(self._dtype)

    def _check(self, sample_id: int) -> None:
        if not 0 <= sample_id < self._shape[0]:
            raise QuantizationError(f"sample id {sample_id} is outside 0 to {self._shape[0] - 1}")

    def _values_NTC(self) -> Tensor:
        """The mapped file, made on first use: a receiver that never learns needs no disk."""
        if self._file is None:
            # The mapping keeps the file alive after the handle is closed.
            with tempfile.TemporaryFile(prefix="amaqctl-") as handle:
                mapped = np.memmap(handle, dtype=np.int16, mode="w+", shape=self._shape)
            self._file = torch.from_numpy(mapped).view(self._dtype)
        return self._file
