"""The channels that the stages of this process have an end of."""

from __future__ import annotations

from collections.abc import Mapping

from amaqctl.engine.link import Channel
from amaqctl.engine.stage import Stage


def channels_of(stages: Mapping[int, Stage]) -> dict[str, Channel]:
    """Each channel with an end here, once, by ``link<k>.<role>``, in the order of the links."""
    return {
        f"link{channel.address.link}.{channel.address.role}": channel
        for _, stage in sorted(stages.items())
        for link in (stage.incoming, stage.outgoing)
        if link is not None
        for channel in (link.activations, link.gradients)
    }


def sending_channels(stages: Mapping[int, Stage]) -> dict[str, Channel]:
    """Those of `channels_of` that send from here."""
    return {
        place: channel
        for place, channel in channels_of(stages).items()
        if "sender" in channel.quantizers.ends
    }
