"""A profile as every command reads it: what is cheap to find wrong is found before torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amaqctl.profile import LoadedProfile


def checked_profile(profile: str, overrides: Sequence[str]) -> LoadedProfile:
    """Read a profile and look up what it names.

    Raises:
        ProfileError, PluginError, InputError, UsageError: what can be told without torch.
    """
    from amaqctl.preflight import refuse_early
    from amaqctl.profile import load_profile

    loaded = load_profile(profile, overrides)
    refuse_early(loaded)
    return loaded
