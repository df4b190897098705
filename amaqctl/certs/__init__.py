"""A small authority of the run's own: who the parties are, and how they prove it."""
