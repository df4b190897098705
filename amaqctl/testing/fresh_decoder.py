"""Decodes messages in a process that knows a quantizer's options, its saved state and their bytes.

``python -m amaqctl.testing.fresh_decoder`` waits for requests on stdin and answers on stdout, each
an eight-byte length, little-endian, and JSON. It imports torch once and the plugin never: where the
system can, every request is answered by a fork that imports it anew.
"""

from __future__ import annotations

import atexit
import base64
import functools
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from amaqctl.quantizer import QuantizerConfig
from amaqctl.testing.subject import Subject

TIME_LIMIT_SECONDS = 60.0


class FreshDecoderError(Exception):
    """The other process could not decode; says why."""


def decode_elsewhere(
    subject: Subject, state: bytes, messages: Sequence[bytes], limit: float = TIME_LIMIT_SECONDS
) -> list[Tensor]:
    """What a receiver in another process makes of messages.

    Args:
        subject: whose class another process can import.
        state: the receiver's state before the first message, as safetensors.
        messages: whole messages, in order.
        limit: seconds to wait for all of them.

    Raises:
        FreshDecoderError: it fails there, in its own words, or takes longer.
    """
    request = {
        "path": sys.path,
        "class": [subject.cls.__module__, subject.cls.__qualname__],
        "name": subject.name,
        "role": subject.role,
        "options": subject.config().model_dump_json(),
        "state": _text(state),
        "messages": [_text(message) for message in messages],
    }
    process = _process()
    answer = process.ask(request, limit)
    if answer is None:
        process.end()
        _process.cache_clear()
        raise FreshDecoderError(f"no answer within {limit:g} seconds")
    if "error" in answer:
        raise FreshDecoderError(answer["error"])
    return [load(base64.b64decode(text))["decoded"] for text in answer["decoded"]]


class _Process:
    """The waiting process and the thread that reads its answers."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what a plugin prints there is not the kit's
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        atexit.register(self.end)

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any] | None:
        """The answer; None when there is none in time, or ever."""
        assert self._child.stdin is not None
        try:
            _write(self._child.stdin, request)
            return self._answers.get(timeout=limit)
        except (queue.Empty, OSError):
            return None

    def end(self) -> None:
        """Kill it."""
        self._child.kill()
        self._child.wait()

    def _read(self) -> None:
        assert self._child.stdout is not None
        answer: dict[str, Any] | None = {}
        while answer is not None:
            answer = _read(self._child.stdout)
            self._answers.put(answer)


@functools.cache
def _process() -> _Process:
    return _Process()


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plugin prints must not be taken for an answer
    while (request := _read(sys.stdin.buffer)) is not None:
        child = os.fork() if hasattr(os, "fork") else 0
        if child:
            os.waitpid(child, 0)
            continue
        _write(answers, _answer(request))
        if hasattr(os, "fork"):
            os._exit(0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"decoded": [_text(save({"decoded": t.contiguous()})) for t in _decoded(request)]}
    except BaseException as error:  # sys.exit of a plugin included: the asker is told
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _decoded(request: dict[str, Any]) -> list[Tensor]:
    sys.path[:] = request["path"]
    module, name = request["class"]
    cls: Any = importlib.import_module(module)
    for part in name.split("."):
        cls = getattr(cls, part)
    config: QuantizerConfig = cls.Config.model_validate_json(request["options"])
    subject = Subject(request["name"], cls, config.model_dump(), request["role"])
    receiver = subject.receiver()
    receiver.load_state_dict(load(base64.b64decode(request["state"])))
    torch.set_num_threads(1)
    return [subject.receive(receiver, base64.b64decode(m)) for m in request["messages"]]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _write(stream: IO[bytes], document: dict[str, Any]) -> None:
    data = json.dumps(document).encode("utf-8")
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _read(stream: IO[bytes]) -> dict[str, Any] | None:
    head = stream.read(8)
    if len(head) < 8:
        return None
    document: dict[str, Any] = json.loads(stream.read(int.from_bytes(head, "little")))
    return document


if __name__ == "__main__":
    main()
