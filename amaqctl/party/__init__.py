"""Several parties, each with its stages in a process of its own: one leads, the others follow."""
