"""The compiled codec (`codec.c`) where it was built; without it plain torch does the same.

It is loaded with `ctypes`, so one build serves every Python of a platform, and no lock is held
while it runs: large matrices are worked on by several threads, as many as torch may use, but none
of torch's own.

`AMAQCTL_NATIVE=0` in the environment leaves it out, and ``plain`` or ``avx2`` keeps it from using
more; `AMAQCTL_CODEC` names another build of it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

_VALUES_A_THREAD = 2**20
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_LEVELS = ("portable", "AVX2", "AVX2 and BMI2")
_SWITCHES = {"plain": 0, "avx2": 1}
_FUNCTIONS = {
    "amaqctl_init": [ctypes.c_int],
    "amaqctl_encode": [_POINTER, _POINTER, _POINTER, _INT, _INT],
    "amaqctl_decode": [_POINTER, _POINTER, _POINTER, _INT, _INT],
    "amaqctl_row_peaks": [_POINTER, _POINTER, _INT, _INT, _POINTER],
    "amaqctl_column_bounds": [_POINTER, _POINTER, _POINTER, _POINTER],
    "amaqctl_candidate_errors": [_POINTER],
    "amaqctl_pack_words": [_POINTER, _POINTER, _INT, _INT],
    "amaqctl_unpack_words": [_POINTER, _POINTER, _INT, _INT],
}


@cache
def loaded() -> ctypes.CDLL | None:
    """The compiled codec; None where there is none, or it is switched off."""
    if os.environ.get("AMAQCTL_NATIVE") == "0":
        return None
    chosen = os.environ.get("AMAQCTL_CODEC")
    built = sorted(Path(__file__).parent.glob("_codec*.so"))
    for path in [Path(chosen)] if chosen else built:
        try:
            opened = ctypes.CDLL(str(path))
            for name, arguments in _FUNCTIONS.items():
                getattr(opened, name).argtypes = arguments
            opened.amaqctl_init(_most())
        except (OSError, AttributeError):  # of another platform, or cut short
            continue
        return opened
    return None


_pretends = False


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Within it tensors take the way of those on a GPU without kernels, wherever they lie.

    For the contract kit, whose second device is one by name only.
    """
    global _pretends
    before, _pretends = _pretends, True
    try:
        yield
    finally:
        _pretends = before


def is_on_cpu(tensor: Tensor) -> bool:
    """Whether what reads memory of the CPU may read a tensor's."""
    return tensor.device.type == "cpu" and not _pretends


@cache
def has_triton() -> bool:
    """Whether kernels can be compiled for an NVIDIA GPU; what is switched off here is there too."""
    return os.environ.get("AMAQCTL_NATIVE") != "0" and find_spec("triton") is not None


def state() -> str:
    """In use or not, and why, in a few words."""
    if os.environ.get("AMAQCTL_NATIVE") == "0":
        return "switched off by AMAQCTL_NATIVE=0; plain torch serves"
    opened = loaded()
    if opened is None:
        return "not built: no C compiler at install; plain torch serves"
    return _LEVELS[opened.amaqctl_init(_most())]


def _most() -> int:
    """The best level that may be used."""
    return _SWITCHES.get(os.environ.get("AMAQCTL_NATIVE", ""), len(_LEVELS) - 1)


def required() -> ctypes.CDLL:
    """The compiled codec, where it is known to be there."""
    opened = loaded()
    assert opened is not None
    return opened


def in_threads(work: Callable[[int, int], object], num_blocks: int, num_values: int) -> None:
    """Do ``work(first, last)`` for all blocks, in as many threads as are worth their start."""
    num_threads = min(torch.get_num_threads(), num_values // _VALUES_A_THREAD, num_blocks)
    if num_threads < 2:
        work(0, num_blocks)
        return
    bounds = [num_blocks * i // num_threads for i in range(num_threads + 1)]
    for done in _pool().map(work, bounds[:-1], bounds[1:]):
        del done


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="amaqctl-codec")
