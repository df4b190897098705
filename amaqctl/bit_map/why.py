"""Beside the width, what the quantizer measured: does the width follow the sensitivity?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amaqctl.bit_map.source import BitSource
from amaqctl.engine.bits_sensitivity import (
    Floats,
    Sensitivity,
    of_site,
)
from amaqctl.errors import InputError


@dataclass(frozen=True)
class WhySite:
    """One site's widths and measurements.

    Args:
        label, place: as shown, and as in the file.
        widths_C: bits.
        measured: range and gradient energy of each column.
    """

    label: str
    place: str
    widths_C: NDArray[np.uint8]
    measured: Sensitivity

    @property
    def asked_bits_C(self) -> Floats:
        """Widths that the sensitivity asks for at the same mean, without limits."""
        return self.measured.asked_bits_K(self.widths_C)

    def by_width(self) -> list[tuple[int, int, float, float, float]]:
        """For each width: how many measured columns, and medians of range, energy, asked bits."""
        is_measured_C = np.isfinite(self.asked_bits_C)
        rows = []
        for width in np.unique(self.widths_C[is_measured_C]).tolist():
            mask_C = is_measured_C & (self.widths_C == width)
            medians = [
                float(np.median(values_C[mask_C]))
                for values_C in (
                    self.measured.range_K,
                    self.measured.gradient_energy_K,
                    self.asked_bits_C,
                )
            ]
            rows.append((width, int(mask_C.sum()), *medians))
        return rows


def why_sites(source: BitSource) -> tuple[list[WhySite], list[str]]:
    """What was measured at the sites of the first snapshot, and labels of those without.

    Raises:
        InputError: nothing was kept at all, or it cannot be read, or the source is a trace.
    """
    if source.run is None:
        raise InputError(
            "a trace has widths, but not what its quantizers measured",
            where=str(source.path),
            hint="give the run for --why",
            error_id="INPUT-NO-SENSITIVITY",
        )
    snapshot = source.snapshots[0]
    if snapshot.reports is None:
        raise InputError(
            "the run keeps no range and gradient energy beside its bit-widths: it was saved by an "
            "earlier version",
            where=str(source.run.path / "bits" / f"{snapshot.name}.npz"),
            hint="maps show as before; for --why train again",
            error_id="INPUT-NO-SENSITIVITY",
        )
    found, without = [], []
    for site in snapshot.sites:
        label = source.label(site.link, site.role)
        measured = of_site(snapshot.report(site.link, site.role), site)
        if measured is None:
            without.append(label)
        else:
            found.append(WhySite(label, site.place, site.widths_C, measured))
    if not found:
        roles = {site.role for site in snapshot.sites} | {role for _, role, _ in snapshot.codeless}
        names = " and ".join(sorted({source.quantizers[role] for role in roles}))
        raise InputError(
            f"{names} kept no range and gradient energy",
            where=str(source.path),
            hint="--why needs a quantizer that measures them to choose its widths",
            error_id="INPUT-NO-SENSITIVITY",
        )
    return found, without


def why_lines(sites: Sequence[WhySite], is_ascii: bool) -> list[str]:
    """The answer for each site and a table by width."""
    formula = "1/2 log2(energy * range^2)" if is_ascii else "½ log2(energy · range²)"
    lines = [f"asked: {formula} moved to the mean width"]
    for site in sites:
        lines += ["", f"{site.label}  {correlation_words(site)}"]
        lines.append(f"{'bits':>6}{'columns':>9}{'range':>11}{'gradient energy':>17}{'asked':>8}")
        for width, count, spread, energy, asked in site.by_width():
            lines.append(f"{width:>6}{count:>9}{spread:>11.2e}{energy:>17.2e}{asked:>8.2f}")
    return lines


def correlation_words(site: WhySite) -> str:
    """Both coefficients, or why there are none."""
    spearman, pearson = site.measured.correlations(site.widths_C)
    if spearman is None or pearson is None:
        return "all widths or all sensitivities are equal: no correlation"
    return f"width to sensitivity: Spearman {spearman:.2f}, Pearson {pearson:.2f}"
