"""A follower's run, beside that of the party with the data: one leader, or several clients."""

from amaqctl.following.follow import Followed, join_as_follower
from amaqctl.following.serve import Served, serve

__all__ = ["Followed", "Served", "join_as_follower", "serve"]
