"""Commands in pages, run as written: blocks marked for it, in order, in one empty folder.

A fenced `sh` block below ``<!-- run -->`` is run by bash; ``<!-- run, exit 3 -->`` expects that
exit code. A fenced block below ``<!-- screen -->`` shows what the last command printed on a
terminal of 80 columns, ``<!-- screen of stderr -->`` what it printed on stderr.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^<!-- (?P<mark>run|screen)(?:, exit (?P<exit>\d+))?(?P<stderr> of stderr)? -->\n"
    r"(?P<fence>```\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MASKS = (
    (re.compile(r"\d{8}T\d{6}Z(-[0-9a-f]{4})?"), "STAMP"),
    (re.compile(r"(?<=amaqctl eval )[0-9a-f]{4}\b"), "ID"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b"), "HASH"),
    (re.compile(r"\b\d+ (s|min|h)\b"), "AGE"),
    (re.compile(r"[▁▂▃▄▅▆▇█]+"), ""),
    (re.compile(r"[+-]?\d[\d.,:]*(e[+-]?\d+)?"), "0"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Ran:
    """What a block did: its exit code, and what it printed where."""

    code: int
    stdout: str
    stderr: str


def has_blocks(page: str) -> bool:
    """Whether the page has anything to run."""
    return "<!-- run" in page


def walk(page: str, folder: Path, seen: Callable[[str, str], None]) -> str:
    """Run a page's blocks in ``folder``; return the page with the real screens in it.

    Args:
        seen: called with each screen of the page and the real one.

    Raises:
        RuntimeError: a block ended with another exit code than the page says.
    """
    last = Ran(0, "", "")

    def replaced(found: re.Match[str]) -> str:
        nonlocal last
        if found["mark"] == "run":
            last = run(found["text"], folder)
            if last.code != int(found["exit"] or 0):
                raise RuntimeError(f"exit code {last.code}:\n{found['text']}\n{last.stderr}")
            return found[0]
        real = last.stderr if found["stderr"] else last.stdout
        seen(found["text"], real)
        head = found[0].partition("\n")[0]
        return f"{head}\n{found['fence']}\n{real}```"

    return _BLOCK.sub(replaced, page)


def shape(screen: str) -> str:
    """A screen without what differs from run to run: numbers, times, ids, bars, padding."""
    for pattern, word in _MASKS:
        screen = pattern.sub(word, screen)
    return screen.strip()


def run(code: str, folder: Path) -> Ran:
    """Run ``code`` by bash as a user would: stdout a terminal of 80 columns, no colour."""
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    programs = Path(sys.executable).parent
    environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', '')}"
    environment |= {"NO_COLOR": "1", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with tempfile.TemporaryFile() as errors:
        started = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=errors,
        )
        os.close(theirs)
        printed = _all_of(ours)
        exit_code = started.wait()
        errors.seek(0)
        return Ran(exit_code, _plain(printed), _plain(errors.read()))


def _all_of(terminal: int) -> bytes:
    chunks = []
    try:
        while chunk := os.read(terminal, 65536):
            chunks.append(chunk)
    except OSError:  # Linux's way to say that the other side is closed
        pass
    finally:
        os.close(terminal)
    return b"".join(chunks)


def _plain(printed: bytes) -> str:
    return _ANSI.sub("", printed.decode("utf-8").replace("\r\n", "\n"))
