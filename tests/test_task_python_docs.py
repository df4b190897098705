from __future__ import annotations

import sys
import types

import pytest
from test_task_encode import EOS, PLAIN

from amaqctl.errors import InputError
from amaqctl.tasks.python_docs import PythonDocsTask, read_topics, split_topics


def test_split_by_name_with_repeats_taken_once() -> None:
    topics = {name: name.upper() for name in "tsrqponmlkjihgfedcba"} | {"zz": "A", "zy": "B"}
    train, validation = split_topics(topics)
    assert train == list("ABCDEFGHIJKLMNOPQR")
    assert validation == ["S", "T"]


def test_real_topics_lie_on_one_side_only() -> None:
    topics = read_topics()
    train, validation = split_topics(topics)
    assert set(train).isdisjoint(validation)
    assert set(train) | set(validation) == set(topics.values())
    assert topics["assert"] in train
    assert topics["yield"] in validation
    assert len(validation) == round(0.1 * (len(train) + len(validation)))


def test_real_task() -> None:
    task = PythonDocsTask(PythonDocsTask.Config(), PLAIN, max_length=512, seed=1)
    train, validation = split_topics(read_topics())
    stream = [token for example in task.train for token in example.input_ids]
    # A last window of one token is left out, so the end of the stream may lack the last EOS.
    expected = b"".join(text.encode() + b"\0" for text in train)
    assert bytes(0 if token == EOS else token for token in stream) in (expected, expected[:-1])
    assert {len(example.input_ids) for example in task.train[:-1]} == {512}
    num_bytes = sum(len(text.encode()) + 1 for text in validation)
    assert len(task.validation) in (num_bytes // 512, num_bytes // 512 + 1)
    assert task.metric == "perplexity"


@pytest.mark.parametrize("content", [{}, {"topics": {}}, {"topics": ["a", "b"]}])
def test_topics_in_another_form(
    content: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("other_topics")
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, "other_topics", module)
    check_refused("other_topics")


def test_no_topics_at_all() -> None:
    check_refused("amaqctl_has_no_such_module")


def check_refused(module_name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_topics(module_name)
    version = ".".join(str(part) for part in sys.version_info[:3])
    assert str(caught.value) == (
        f"task.name: Python {version} here has no help topics in {module_name}"
    )
    assert caught.value.hint == "use a Python with its full standard library, or the task 'text'"
    assert caught.value.error_id == "INPUT-PYTHON-DOCS"
    assert caught.value.exit_code == 4
