"""Files of ours: how each is written, swept and read. Nothing else opens one.

What is written appears whole or not at all, and is never torn by a second process
(`writing`, `workplace`); what a killed process left is swept by the next one that writes there;
what is read is a regular file of a bounded size (`reading`).
"""

from amaqctl.storage.faults import disk_error, explained
from amaqctl.storage.reading import (
    check_regular,
    open_regular,
    read_bytes,
    read_document,
    read_json,
)
from amaqctl.storage.workplace import sweep
from amaqctl.storage.writing import (
    AlreadyThere,
    open_to_append,
    remove_folder,
    sync,
    write_file,
    write_folder,
    write_json,
    write_secret,
    write_text,
)

__all__ = [
    "AlreadyThere",
    "check_regular",
    "disk_error",
    "explained",
    "open_regular",
    "open_to_append",
    "read_bytes",
    "read_document",
    "read_json",
    "remove_folder",
    "sweep",
    "sync",
    "write_file",
    "write_folder",
    "write_json",
    "write_secret",
    "write_text",
]
