"""How the processes of one launch find each other: by the names of their parties."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from amaqctl.errors import InputError
from amaqctl.transports.party_settings import PartySettings

_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
_FAREWELL_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


def meet(party: PartySettings, timeout: timedelta, where: str) -> dict[str, int]:
    """Join the launch's processes; the rank of each party.

    Raises:
        InputError: no launcher has started this, the processes do not meet, or their names are
            not those of the holders.
    """
    missing = [name for name in _RENDEZVOUS if name not in os.environ]
    if missing:
        raise InputError(
            f"no launcher has set {', '.join(missing)}",
            where=where,
            hint="start the processes with torchrun",
            error_id="INPUT-LAUNCHER",
        )
    try:
        store, rank, num_processes = next(rendezvous("env://", timeout=timeout))
        # A launcher keeps its store when it starts processes again, with the places of dead ones.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        own_store = PrefixStore(f"amaqctl/attempt-{attempt}", store)
        ranks = _ranks(own_store, party, rank, num_processes, where)
        dist.init_process_group(
            "gloo", store=own_store, rank=rank, world_size=num_processes, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(
            f"the processes of this launch do not meet: {first_line}",
            where=where,
            hint="look at what the launcher says of the others",
            error_id="INPUT-LAUNCHER",
        ) from error
    return ranks


def _ranks(
    store: Store, party: PartySettings, rank: int, num_processes: int, where: str
) -> dict[str, int]:
    """Tell this party's name and learn the others'."""
    store.set(f"party-{rank}", party.name)
    names = [store.get(f"party-{other}").decode() for other in range(num_processes)]
    num_informed = store.add("informed", 1)
    if sorted(names) != sorted(set(party.holders)):
        end = time.monotonic() + _FAREWELL_SECONDS
        # The first process may keep the store, which goes with it: it is the last to leave.
        while rank == 0 and num_informed < num_processes and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)
            num_informed = store.add("informed", 0)
        raise InputError(
            f"the processes are {', '.join(names)} where {', '.join(dict.fromkeys(party.holders))} "
            "hold the stages",
            where=where,
            hint="give each process its own party's settings, by machine and not by rank",
            error_id="INPUT-PARTY",
        )
    return {name: other for other, name in enumerate(names)}
