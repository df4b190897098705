"""A profile as every command reads it: what is cheap to find wrong is found before torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amaqctl.profile import LoadedProfile


def checked_profile(
    profile: str, overrides: Sequence[str], run: Path | None = None
) -> LoadedProfile:
    """Read a profile, and look up what it names and whether the place of its run is free.

    Args:
        profile: a path or a shipped name. overrides: ``--set`` items.
        run: the run folder to be; None for one that is not there yet, or for no run.

    Raises:
        ProfileError, PluginError, InputError, UsageError: what can be told without torch.
    """
    from amaqctl.occupied import refuse_run
    from amaqctl.preflight import refuse_early
    from amaqctl.profile import load_profile

    loaded = load_profile(profile, overrides)
    refuse_early(loaded)
    if run is not None:
        refuse_run(run)
    return loaded
