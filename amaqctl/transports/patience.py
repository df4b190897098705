"""How patient a session is. Both sides have it alike, so it is part of the profile."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Patience:
    """How long a peer may be quiet.

    Args:
        silence_seconds: without a frame for so long, the connection counts as lost.
        lease_seconds: without a connection for so long, the peer does.
    """

    silence_seconds: float
    lease_seconds: float

    @property
    def beat_seconds(self) -> float:
        """A party with nothing to say gives a sign of life so often."""
        return self.silence_seconds / 4


class PatienceConfig(BaseModel):
    """Options of every transport between machines."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    silence_seconds: float = Field(
        1.5, gt=0, le=3600, description="A peer that is silent for so long is held to be cut off."
    )
    lease_seconds: float = Field(
        60.0, gt=0, le=86400, description="A peer that is cut off for so long is lost."
    )
    timeout_seconds: float = Field(
        3600.0, gt=0, description="Longest wait for one message of a peer that is alive."
    )

    @property
    def patience(self) -> Patience:
        """The same for one session."""
        return Patience(self.silence_seconds, self.lease_seconds)
