"""Does the width follow the sensitivity? What a quantizer measured of each column, and how its
widths relate to it.

Reverse water-filling gives a column b = const + 1/2 log2(e · r²) bits, where e is the energy of
the gradient and r the range (Cover and Thomas, Elements of Information Theory, 10.3; a uniform
quantizer of b bits makes an error of about r² 4^-b, which the loss feels e-fold). A quantizer that
keeps means ``harm.gradient_energy_K`` and ``harm.range_energy_K`` in its state can be asked. Needs
numpy only. Legend: K columns of a site.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amaqctl.engine.bits_history import FINAL, SiteWidths, Snapshot
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import InputError
from amaqctl.storage import check_regular

Floats = NDArray[np.float64]

_ENERGIES = ("harm.gradient_energy_K", "harm.range_energy_K")
_SENDER = re.compile(r"link\d+\.(activation|gradient)\.sender")


@dataclass(frozen=True)
class Sensitivity:
    """What one sender measured; NaN in columns that it never saw or that carry nothing.

    Args:
        range_K: root mean square of the column's range.
        gradient_energy_K: mean square of the loss gradient by one value of the column.
    """

    range_K: Floats
    gradient_energy_K: Floats

    @property
    def log_sensitivity_K(self) -> Floats:
        """1/2 log2(e · r²), in bits up to a constant."""
        log_K: Floats = 0.5 * np.log2(self.gradient_energy_K) + np.log2(self.range_K)
        return log_K

    def asked_bits_K(self, widths_K: NDArray[np.uint8]) -> Floats:
        """Widths that the sensitivity asks for at the mean that was given, without limits."""
        log_K = self.log_sensitivity_K
        measured = np.isfinite(log_K)
        if not measured.any():
            return np.full(widths_K.shape, np.nan)
        asked_K: Floats = log_K - log_K[measured].mean() + widths_K[measured].mean()
        return asked_K

    def correlations(self, widths_K: NDArray[np.uint8]) -> tuple[float | None, float | None]:
        """Spearman's and Pearson's, of width and 1/2 log2(e · r²); None where one is constant."""
        log_K = self.log_sensitivity_K
        measured = np.isfinite(log_K)
        x_K, y_K = widths_K[measured].astype(np.float64), log_K[measured]
        return pearson(ranks(x_K), ranks(y_K)), pearson(x_K, y_K)


def ranks(values_K: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, where, counts = np.unique(values_K, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    shared: Floats = (last - (counts - 1) / 2)[where]
    return shared


def pearson(x_K: Floats, y_K: Floats) -> float | None:
    """The correlation coefficient; None for fewer than two values or a constant."""
    if x_K.size < 2 or np.ptp(x_K) == 0 or np.ptp(y_K) == 0:
        return None
    return float(np.corrcoef(x_K, y_K)[0, 1])


def state_file(run: RunFolder, snapshot: Snapshot) -> Path:
    """The quantizers' state that belongs to a snapshot: its checkpoint's, else the run's last."""
    own = run.path / "checkpoints" / snapshot.name / "quantizer.safetensors"
    if snapshot.name != FINAL and own.exists():
        return own
    return run.path / "quantizer" / "quantizer.safetensors"


def read_sensitivities(path: Path) -> dict[tuple[int, str], Sensitivity]:
    """What every sender measured, by link and role; empty when its quantizers keep nothing.

    Raises:
        InputError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    found = {}
    try:
        check_regular(path)
        # Only what is asked for: the same file may hold the memory of every sample.
        with safe_open(path, framework="numpy") as tensors:
            names = set(tensors.keys())
            for place in sorted(_senders(names)):
                energies = [tensors.get_tensor(f"{place}.{key}") for key in _ENERGIES]
                link, role, _ = place.split(".")
                found[int(link.removeprefix("link")), role] = _sensitivity(*energies)
    except (InputError, OSError, SafetensorError, ValueError, TypeError) as error:
        raise InputError(
            f"the quantizers' state cannot be read: {(str(error) or repr(error)).splitlines()[0]}",
            where=str(path),
            hint="--why needs the state of a checkpoint that was kept, or of a finished run",
            error_id="INPUT-QUANTIZER-STATE",
        ) from error
    return {place: measured for place, measured in found.items() if measured is not None}


def of_site(
    sensitivities: dict[tuple[int, str], Sensitivity], site: SiteWidths
) -> Sensitivity | None:
    """The one that belongs to a site; None when there is none of its number of columns.

    A site by positions may be shorter than what was measured: its first positions count.
    """
    found = sensitivities.get((site.link, site.role))
    size = site.widths_C.size
    if found is None or found.range_K.size < size:
        return None
    if found.range_K.size > size and site.axis != "position":
        return None
    return Sensitivity(found.range_K[:size], found.gradient_energy_K[:size])


def _senders(names: set[str]) -> set[str]:
    """Places ``link<k>.<role>.sender`` that keep both energies."""
    places = {".".join(name.split(".")[:3]) for name in names}
    return {
        place
        for place in places
        if _SENDER.fullmatch(place) and all(f"{place}.{key}" in names for key in _ENERGIES)
    }


def _sensitivity(
    gradient_energy_K: NDArray[np.float32], range_energy_K: NDArray[np.float32]
) -> Sensitivity | None:
    """None where they don't fit together or nothing was measured."""
    energy_K = gradient_energy_K.astype(np.float64)
    square_K = range_energy_K.astype(np.float64)
    if energy_K.ndim != 1 or energy_K.shape != square_K.shape:
        return None
    is_measured_K = (energy_K > 0) & (square_K > 0)
    if not is_measured_K.any():
        return None
    range_K = np.sqrt(np.where(is_measured_K, square_K, np.nan))
    return Sensitivity(range_K, np.where(is_measured_K, energy_K, np.nan))
