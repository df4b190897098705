"""What a sender said of itself when widths were saved: kept beside them in ``bits/*.npz``.

The file holds, beside the widths ``link<k>.<role>.<axis>``, what was measured, float32 (K,), as
``link<k>.<role>.range_K`` and ``link<k>.<role>.gradient_energy_K``, and as ``report`` the rest, the
bytes of a JSON document. So a run is read without the quantizer, its plugin or its state.
Needs numpy only. Legend: K columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

REPORT = "report"
MEASURED = ("range_K", "gradient_energy_K")


@dataclass(frozen=True)
class SiteReport:
    """One sender.

    Args:
        bits_a_value: of its last training message, header and all.
        has_codes: it sends codes with widths; what has none is no part of a map.
        target_bits: mean width that is aimed at.
        column: what a column is where the axis does not say it: ``rotated channel``.
        legal_bits: least and largest width that it declares.
        range_K, gradient_energy_K: as measured, 0 where nothing was; None where it measures none.
    """

    bits_a_value: float
    has_codes: bool
    target_bits: float | None = None
    column: str | None = None
    legal_bits: tuple[int, int] | None = None
    range_K: Vector | None = None
    gradient_energy_K: Vector | None = None


Reports = Mapping[tuple[int, str], SiteReport]
"""By link and role."""


def report_arrays(reports: Reports) -> dict[str, NDArray[np.generic]]:
    """The members of the file that hold the reports."""
    arrays: dict[str, NDArray[np.generic]] = {}
    said = {}
    for (link, role), report in reports.items():
        place = f"link{link}.{role}"
        said[place] = {
            "bits_a_value": report.bits_a_value,
            "has_codes": report.has_codes,
            "target_bits": report.target_bits,
            "column": report.column,
            "legal_bits": report.legal_bits,
        }
        for name in MEASURED:
            if (values_K := getattr(report, name)) is not None:
                arrays[f"{place}.{name}"] = values_K
    text = json.dumps(said, allow_nan=False).encode()
    return {**arrays, REPORT: np.frombuffer(text, np.uint8)}


def read_reports(text: bytes, measured: Mapping[str, Vector]) -> dict[tuple[int, str], SiteReport]:
    """The reports in the members of a file.

    Args:
        text: the JSON document. measured: vectors by name.

    Raises:
        ValueError: something else stands there.
    """
    from pydantic import ValidationError

    from amaqctl.engine.run_documents import BitsDocument  # slow, and `--help` comes by here
    from amaqctl.storage.reading import first_fault

    try:
        document = BitsDocument.model_validate_json(text).root
    except ValidationError as error:
        raise ValueError(f"{REPORT}: {first_fault(error)}") from error
    found = {}
    for place, said in document.items():
        link, role = place.removeprefix("link").split(".")
        legal = None if said.legal_bits is None else (said.legal_bits[0], said.legal_bits[1])
        vectors = (measured.get(f"{place}.{name}") for name in MEASURED)
        found[int(link), role] = SiteReport(
            said.bits_a_value, said.has_codes, said.target_bits, said.column, legal, *vectors
        )
    return found
