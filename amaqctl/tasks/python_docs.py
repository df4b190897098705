"""The reference text that Python itself ships, as language modelling: real prose, no download.

``pydoc_data.topics`` holds the pages that ``help("while")`` prints. Its text grows with the
Python version, so runs are comparable only where ``Task.fingerprint`` agrees.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping

from amaqctl.errors import InputError
from amaqctl.tasks.task import Metric, Split, Task
from amaqctl.tasks.windows import windows_of

_VALIDATION_SHARE = 0.1


class PythonDocsTask(Task):
    """Windows over Python's help topics, scored by perplexity.

    The last tenth of the topics, by name, is validation; no topic lies on both sides.
    """

    class Config(Task.Config):
        """The task ``python-docs`` has no options."""

    metric: Metric = "perplexity"

    def load(self) -> tuple[Split, Split]:
        """Split the topics, tokenize and cut them; see ``Task``."""
        train, validation = split_topics(read_topics())
        place = f"pydoc_data.topics of Python {platform.python_version()}"
        return (
            windows_of(self.tokenizer, train, max_length=self.max_length, place=place),
            windows_of(self.tokenizer, validation, max_length=self.max_length, place=place),
        )


def read_topics(module_name: str = "pydoc_data.topics") -> dict[str, str]:
    """Python's help topics, name to text.

    Raises:
        InputError: this Python was installed without them, or keeps them in another form.
    """
    try:
        topics = getattr(importlib.import_module(module_name), "topics", None)
    except ImportError:
        topics = None
    if not isinstance(topics, Mapping) or len(topics) < 2:
        raise InputError(
            f"Python {platform.python_version()} here has no help topics in {module_name}",
            where="task.name",
            hint="use a Python with its full standard library, or the task 'text'",
            error_id="INPUT-PYTHON-DOCS",
        )
    return {str(name): str(text) for name, text in topics.items()}


def split_topics(topics: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(train, validation) texts. A text that stands under two names counts once, at the first."""
    texts = list(dict.fromkeys(topics[name] for name in sorted(topics)))
    num_validation = max(1, round(_VALIDATION_SHARE * len(texts)))
    return texts[:-num_validation], texts[-num_validation:]
