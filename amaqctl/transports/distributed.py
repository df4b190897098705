"""`distributed`: frames over torch.distributed (gloo), for processes of one owner's cluster.

Started by torchrun or any other launcher that sets the same variables. Nothing is encrypted and
nobody is asked for a certificate: for networks whose every machine is trusted. Ranks change with
each start, so parties find each other by name, through the store of the rendezvous.
"""

from __future__ import annotations

from datetime import timedelta

from amaqctl.transports.connection_state import OnStatus, unwatched
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.party_settings import PartySettings, TrafficLimits, given
from amaqctl.transports.patience import PatienceConfig
from amaqctl.transports.routed import RoutedTransport
from amaqctl.transports.session import Session
from amaqctl.transports.watch import Watch

_WHERE = "transport 'distributed'"
_MARGIN_SECONDS = 60.0  # an operation of gloo's own must never run out before the lease


class DistributedTransport(RoutedTransport):
    """Within one cluster: torch.distributed (gloo) under torchrun. Nothing is encrypted.

    It waits, when made, until all processes of the launch are there.

    Args:
        config: what both sides have in their profile.
        party: this machine's own settings; places and certificates mean nothing here.
        limits: what peers may send until `allow` says what was agreed.
        on_status: told how it stands with each peer.

    Raises:
        UsageError: no party is given; one process alone needs no network.
        InputError: no launcher has started this, the processes do not meet, or their names are
            not those of the holders.
    """

    class Config(PatienceConfig):
        """How patient all sides are with each other."""

    def __init__(
        self,
        config: DistributedTransport.Config,
        party: PartySettings | None = None,
        limits: TrafficLimits | None = None,
        on_status: OnStatus = unwatched,
    ) -> None:
        party = given(party, _WHERE)
        # Both import torch, which a mere look at the options must not.
        from amaqctl.transports.gloo_meeting import meet
        from amaqctl.transports.gloo_pair import GlooPair

        self.config = config
        mailbox = Mailbox(party.route, limits or TrafficLimits(), config.timeout_seconds)
        sessions = {
            peer: Session(peer, mailbox, config.patience, on_status, has_one_connection=True)
            for peer in party.route.peers
        }
        super().__init__(mailbox, sessions)
        timeout = timedelta(seconds=config.lease_seconds + _MARGIN_SECONDS)
        ranks = meet(party, timeout, _WHERE)
        self._pairs = [GlooPair(session, ranks[peer]) for peer, session in sessions.items()]
        self._watch = Watch(sessions.values())
        self._opened()

    def _release(self) -> None:
        import torch.distributed as dist

        self._watch.stop()
        # One that is still read from has died or hangs; the group cannot be taken down then, and
        # goes with the process.
        are_done = [pair.stop() for pair in self._pairs]
        if all(are_done):
            dist.destroy_process_group()
