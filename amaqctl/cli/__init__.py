"""One thin file a command. Nothing here imports torch before a command runs."""
