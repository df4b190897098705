"""Profiles: one validated YAML file says everything about one run.

Reading order: ``schema`` (what may be written), ``tree`` and ``yaml12`` (text to a tree that
knows positions), ``overrides`` (``--set``), ``faults`` (what pydantic found, in our words),
``document`` (the object that the rest of the program holds). Nothing here imports torch.
"""

from amaqctl.profile.document import LoadedProfile, load_profile, load_settings
from amaqctl.profile.faults import profile_error
from amaqctl.profile.schema import PluginChoice, Profile, profile_schema
from amaqctl.profile.shipped import locate, shipped_names

__all__ = [
    "LoadedProfile",
    "PluginChoice",
    "Profile",
    "load_profile",
    "load_settings",
    "locate",
    "profile_error",
    "profile_schema",
    "shipped_names",
]
