"""What `amaqctl doctor` finds out: `installation` without torch, `examination` in full."""
