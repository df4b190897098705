"""Move whole byte strings and never look inside. Found through entry points."""
