"""A profile as every command reads it: what is cheap to find wrong is found before torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amaqctl.profile import LoadedProfile


def checked_profile(
    profile: str, overrides: Sequence[str], run: Path | None = None, *, has_data: bool = True
) -> LoadedProfile:
    """Read a profile, and look up what it names and whether the place of its run is free.

    Args:
        profile: a path or a shipped name. overrides: ``--set`` items.
        has_data: whether this process reads the data that it names.
        run: the run folder to be; None for one that is not there yet, or for no run.

    Raises:
        ProfileError, PluginError, InputError, UsageError: what can be told without torch.
    """
    from amaqctl.occupied import refuse_run
    from amaqctl.preflight import refuse_early
    from amaqctl.profile import load_profile

    loaded = load_profile(profile, overrides)
    refuse_early(loaded, has_data=has_data)
    if run is not None:
        refuse_run(run)
    return loaded
