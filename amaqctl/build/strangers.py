"""Tasks and transports of strangers: what they do wrong is told as theirs, with distribution.

Whatever such a part raises that is no error of ours, and whatever it returns that its contract
does not allow, ends with exit code 5. A built-in part is let through: its faults are bugs of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from amaqctl import registry
from amaqctl.errors import PluginError
from amaqctl.registry import Offer
from amaqctl.tasks.task import Example, Task
from amaqctl.transports.transport import Address, Transport

_T = TypeVar("_T")


def read_options(group: str, name: str, cls: Any, options: dict[str, Any]) -> Any:
    """The part's ``Config`` made from options.

    Raises:
        pydantic.ValidationError: options are wrong.
        PluginError: the part has no such class, or its own code fails.
    """
    with registry.find(group, name).blamed("Config"):
        try:
            return cls.Config(**options)
        except ValidationError as error:
            found = error
    raise found


def make_task(name: str, cls: Any, config: Any, tokenizer: Any, **settings: Any) -> Task:
    """Make a task, and have its scoring blamed too.

    Raises:
        AmaqError: as the task's own; PluginError where it keeps no contract.
    """
    offer = registry.find(registry.TASKS, name)
    if offer.built_in:
        return cls(config, tokenizer, **settings)  # type: ignore[no-any-return]
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise offer.fault("is no subclass of amaqctl.tasks.task.Task")
    with offer.blamed("__init__"):
        try:
            task = cls(config, tokenizer, **settings)
            fault = _task_fault(task)
        except PluginError as error:  # what the base class found
            fault = f"broke its contract: {error}"
    if fault:
        raise offer.fault(fault)
    _score_blamed(offer, task)
    return task


def make_transport(name: str, cls: Any, config: Any) -> Transport:
    """Make a transport, and have what it does blamed.

    Raises:
        AmaqError: as the transport's own; PluginError where it keeps no contract.
    """
    offer = registry.find(registry.TRANSPORTS, name)
    if offer.built_in:
        return cls(config)  # type: ignore[no-any-return]
    with offer.blamed("__init__"):
        return _BlamedTransport(offer, cls(config))


class _BlamedTransport:
    """A stranger's transport whose faults are told as its own."""

    def __init__(self, offer: Offer, transport: Any) -> None:
        for verb in ("send", "receive"):
            if not callable(getattr(transport, verb, None)):
                raise offer.fault(f"has no method '{verb}'")
        self.is_local = bool(getattr(transport, "is_local", False))
        self._offer, self._transport = offer, transport

    def send(self, address: Address, data: bytes) -> None:
        with self._offer.blamed("send", _place(address)):
            self._transport.send(address, data)

    def receive(self, address: Address) -> bytes:
        with self._offer.blamed("receive", _place(address)):
            data = self._transport.receive(address)
        if not isinstance(data, bytes):
            words = f"returned {type(data).__name__}, not bytes, from receive"
            raise self._offer.fault(words, _place(address))
        return data


def _score_blamed(offer: Offer, task: Task) -> None:
    """Put guards before the two methods that are called long after the task was made."""
    text_of, is_match = task.text_of, task.is_match

    def guarded_text_of(token_ids: Sequence[int]) -> str:
        with offer.blamed("text_of"):
            text = text_of(token_ids)
        return _of_type(offer, "text_of", text, str)

    def guarded_is_match(example: Example, generated_text: str) -> bool:
        with offer.blamed("is_match"):
            is_right = is_match(example, generated_text)
        return _of_type(offer, "is_match", is_right, bool)

    task.text_of, task.is_match = guarded_text_of, guarded_is_match  # type: ignore[method-assign]


def _of_type(offer: Offer, method: str, value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        words = f"returned {type(value).__name__}, not {kind.__name__}, from {method}"
        raise offer.fault(words)
    return value


def _task_fault(task: Task) -> str | None:
    """What of the task's attributes is not as the evaluator needs it; None where all is."""
    metrics = ("perplexity", "accuracy", "exact_match")
    if task.metric not in metrics:
        return f"has the metric {task.metric!r}, not one of {', '.join(metrics)}"
    checks: dict[str, Callable[[Example], bool]] = {
        "accuracy": lambda e: e.choice in range(len(task.choice_token_ids)),
        "exact_match": lambda e: isinstance(e.answer, str),
        "perplexity": lambda e: True,
    }
    if task.metric == "exact_match" and not task.max_new_tokens > 0:
        return "is scored by exact match and has max_new_tokens 0"
    for index, example in enumerate(task.validation):
        if not checks[task.metric](example):
            needed = "choice" if task.metric == "accuracy" else "answer"
            return f"has no legal {needed} in validation example {index}"
        if task.metric != "perplexity" and not 1 <= example.prompt_length < len(example.input_ids):
            return f"has the prompt_length {example.prompt_length} in validation example {index}"
    tuple(task.warnings)
    task.fingerprint()
    return None


def _place(address: Address) -> str:
    return f"link {address.link} {address.role}"
