"""Named parts from entry points: listed without importing, loaded on use.

Quantizers, tasks and transports are all found here, built-in ones exactly like a stranger's.
The entry-point name is the name in profiles, messages and reports. This module never imports
torch, and listing never imports a plugin, so a broken one is still listed with its
distribution and version.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from amaqctl.errors import AmaqError, PeerError, PluginError
from amaqctl.nearest import nearest

QUANTIZERS = "amaqctl.quantizers"
TASKS = "amaqctl.tasks"
TRANSPORTS = "amaqctl.transports"

BUILT_IN_DISTRIBUTION = "amaqctl"

_KINDS = {QUANTIZERS: "quantizer", TASKS: "task", TRANSPORTS: "transport"}


@dataclass(frozen=True)
class Offer:
    """One entry point: a name, what it points to, and the distribution that offers it."""

    group: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def built_in(self) -> bool:
        """Whether amaqctl itself ships it."""
        return self.distribution == BUILT_IN_DISTRIBUTION

    def __str__(self) -> str:
        return f"{self.name} from {self.distribution} {self.version}"

    def fault(self, what: str, where: str | None = None) -> PluginError:
        """An error that says what this part did wrong: ``returned None from quantize``."""
        return PluginError(
            f"{_KINDS[self.group]} '{self.name}' of {self.distribution} {self.version} {what}",
            where=where,
            hint=f"the plugin is at fault: repair or uninstall {self.distribution}",
            error_id="PLUGIN-FAULT",
        )

    @contextlib.contextmanager
    def blamed(self, method: str, where: str | None = None) -> Iterator[None]:
        """Run a method of this part; whatever it raises by its own fault names it.

        A built-in part is none of a plugin author's, so its faults stay what they are.

        Args:
            method: as its author knows it. where: link and step, or what else is known.

        Raises:
            PluginError: for anything but an error that the contract allows, ``sys.exit`` included.
        """
        try:
            yield
        except (KeyboardInterrupt, MemoryError, GeneratorExit):
            raise
        except BaseException as error:
            # Only a transport may say that the network failed.
            is_allowed = self.group == TRANSPORTS or not isinstance(error, PeerError)
            if isinstance(error, AmaqError) and is_allowed:
                error.where = error.where or where
                raise
            if self.built_in or "out of memory" in str(error).lower():
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise self.fault(f"failed in {method}: {said}", where) from error


@cache
def _all_offers() -> tuple[Offer, ...]:
    from importlib.metadata import distributions  # slow to import, and --help needs none

    found: dict[tuple[str, str, str], Offer] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        for point in distribution.entry_points if name else ():  # a torn install has no name
            if point.group in _KINDS:
                offer = Offer(point.group, point.name, point.value, name, distribution.version)
                # The first copy on the path is the one an import would take.
                found.setdefault((point.group, point.name, name.lower()), offer)
    return tuple(sorted(found.values(), key=lambda o: (o.group, o.name, o.distribution)))


def offers(group: str) -> list[Offer]:
    """All parts offered in ``group``, sorted by name, third parties included.

    ``AMAQCTL_NO_PLUGINS=1`` leaves only the built-in ones, to tell whether a plugin is at fault.
    """
    only_built_in = os.environ.get("AMAQCTL_NO_PLUGINS", "") not in ("", "0")
    return [o for o in _all_offers() if o.group == group and (o.built_in or not only_built_in)]


def find(group: str, name: str) -> Offer:
    """The one offer of ``name``.

    Raises:
        PluginError: nobody offers it (the nearest names are given), or two distributions do.
    """
    by_name: dict[str, list[Offer]] = defaultdict(list)
    for offer in offers(group):
        by_name[offer.name].append(offer)
    kind = _KINDS[group]
    candidates = by_name.get(name, [])
    if not candidates:
        near = nearest(name, by_name)
        guess = f"did you mean '{near}'? " if near else ""
        raise PluginError(
            f"unknown {kind} '{name}'",
            hint=f"{guess}installed: {', '.join(by_name) or 'none'}",
            error_id="PLUGIN-UNKNOWN",
        )
    if len(candidates) > 1:
        both = " and ".join(f"{o.distribution} {o.version}" for o in candidates)
        raise PluginError(
            f"{kind} '{name}' is offered twice, by {both}",
            hint="uninstall one of them",
            error_id="PLUGIN-DUPLICATE",
        )
    return candidates[0]


def load(group: str, name: str) -> Any:
    """Import what ``name`` points to.

    Raises:
        PluginError: unknown, offered twice, or its import failed (the cause is chained).
    """
    from importlib.metadata import EntryPoint

    offer = find(group, name)
    try:
        return EntryPoint(offer.name, offer.target, offer.group).load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{_KINDS[group]} '{name}' of {offer.distribution} {offer.version} cannot be "
            f"imported: {type(error).__name__}: {error}",
            hint=f"repair or uninstall {offer.distribution}",
            error_id="PLUGIN-BROKEN",
        ) from error
