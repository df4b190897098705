"""Tasks: data, prompt and score, one file each, found through the entry points ``amaqctl.tasks``.

Importing this package imports nothing; only ``batch`` needs torch.
"""
