"""Hostile profiles and data files, and overrides of profiles."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fuzzing.odd_files import odd_files
from fuzzing.runner import Case
from fuzzing.values import break_bytes, break_row, break_text, odd_text, odd_value

Draw = random.Random
_MOST_CHARACTERS = 4_000_000
"""Of a data file: what is larger takes longer because it is larger."""

_BASE: dict[str, Any] = {
    "amaqctl": 1,
    "description": "fuzzed",
    "model": {"id": "tiny", "dtype": "float32"},
    "split": {"cuts": [3]},
    "lora": {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj"]},
    "quantizers": {
        "activation": {"name": "amaq", "options": {"target_bits": 4}},
        "gradient": {"name": "group", "options": {"bits": 4, "group_size": 16}},
    },
    "optimizer": {"lr": 1e-3, "schedule": "linear", "warmup_steps": 1},
    "train": {"max_steps": 2, "batch_size": 2, "micro_batches": 1, "max_length": 48},
    "eval": {"every": 1, "max_examples": 2},
    "checkpoint": {"every": 1, "keep_last": 1},
    "transport": {"name": "loopback"},
    "output": {"root": "runs"},
}
_TASKS: dict[str, dict[str, Any]] = {
    "prompt-completion": {
        "prompt": "q",
        "completion": "a",
        "generate": {"max_new_tokens": 2, "answer_after": "#"},
    },
    "classification": {"text": ["t", "q"], "label": "label", "separator": "", "labels": [0, 1]},
    "text": {"column": "q"},
    "word-problems": {"num_train": 8, "num_validation": 4},
}


def cases(seed: int) -> Iterator[Case]:
    """Cases without end."""
    draw = Draw(seed)
    kinds: list[Callable[[Draw], Case]] = [profile_tree, profile_text, data_file, override, on_disk]
    while True:
        yield draw.choices(kinds, weights=(4, 3, 5, 2, 1))[0](draw)


def profile_tree(draw: Draw) -> Case:
    """A profile with a few of its keys and values replaced, moved, doubled or dropped."""
    tree, data = _good(draw)
    what = [_change(draw, tree) for _ in range(draw.choice((1, 1, 2, 4)))]
    return _case(f"profile {'; '.join(what)}"[:200], draw, _yaml(draw, tree), data)


def profile_text(draw: Draw) -> Case:
    """A profile whose text is broken as YAML or as UTF-8."""
    tree, data = _good(draw)
    text, what = break_text(draw, _yaml(draw, tree).decode())
    content, more = break_bytes(draw, text.encode("utf-8", "surrogatepass"))
    return _case(f"profile text {what} {more}", draw, content, data)


def data_file(draw: Draw) -> Case:
    """A data file with broken rows."""
    tree, data = _good(draw, broken=True)
    return _case(f"data of {tree['task']['name']}", draw, _yaml(draw, tree), data)


def override(draw: Draw) -> Case:
    """``--set`` of odd keys and values."""
    tree, data = _good(draw)
    paths = [".".join(map(str, path)) for path, _ in _places(tree)]
    items = []
    for _ in range(draw.choice((1, 2, 3))):
        path = draw.choice([*paths, odd_text(draw)[:2000]])
        value = json.dumps(odd_value(draw), ensure_ascii=draw.random() < 0.5)[:100_000]
        items += ["--set", f"{path}={value if draw.random() < 0.7 else odd_text(draw)[:100_000]}"]
    # An argument of a program holds no NUL, and is UTF-8 by way of its surrogates.
    items = [item.replace("\0", "").encode("utf-8", "replace").decode() for item in items]
    case = _case(f"--set {items[1][:80]!r}", draw, _yaml(draw, tree), data)
    return Case(case.name, (*case.arguments, *items), case.files)


def on_disk(draw: Draw) -> Case:
    """A profile or data file that is no ordinary file."""
    tree, data = _good(draw)
    path = draw.choice(["p.yaml", *data])
    what, prepare = draw.choice(odd_files())
    case = _case(f"{path} is {what}", draw, _yaml(draw, tree), data)
    files = {name: content for name, content in case.files.items() if name != path}
    return Case(case.name, case.arguments, files, partial(prepare, path))


def _case(name: str, draw: Draw, profile: bytes, data: dict[str, bytes]) -> Case:
    command = draw.choices(
        (("train", "p.yaml", "--dry-run"), ("profile", "check", "p.yaml"),
         ("profile", "show", "p.yaml", "--resolved"), ("eval", "p.yaml", "--limit", "2")),
        weights=(6, 2, 1, 1),
    )[0]  # fmt: skip
    more = ("--json",) if draw.random() < 0.2 else ()
    if command[0] in ("train", "eval"):
        # What a profile without a model gets is the packaged one, which takes its time.
        more += ("--set", "model.id=tiny")
    return Case(name, (*command, *more), {"p.yaml": profile, **data})


def _good(draw: Draw, broken: bool = False) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A profile that trains, as a tree, and its data files; with ``broken`` rows, perhaps."""
    name = draw.choice(list(_TASKS)[: 3 if broken else 4])
    tree: dict[str, Any] = json.loads(json.dumps(_BASE))
    options: dict[str, Any] = json.loads(json.dumps(_TASKS[name]))
    tree["task"] = {"name": name, "options": options}
    if name == "word-problems":
        return tree, {}
    suffix = draw.choice(("jsonl", "jsonl", "csv", "json") + (("txt",) if name == "text" else ()))
    if suffix == "txt":
        options["column"] = None
    if suffix == "csv" and "labels" in options:
        options["labels"] = None
    options["train"] = f"d.{suffix}"
    options["validation"] = draw.choice((0.3, 0.5, f"d.{suffix}"))
    return tree, {f"d.{suffix}": _rows(draw, suffix, broken)}


def _rows(draw: Draw, suffix: str, broken: bool) -> bytes:
    rows: list[Any] = [
        {"q": f"Q {i}?", "a": f"A # {i % 7}", "t": "text", "label": i % 2} for i in range(12)
    ]
    if broken and draw.random() < 0.7:
        for _ in range(draw.choice((1, 1, 3, 20))):
            break_row(draw, rows)
    if suffix == "csv":
        lines = ["q,a,t,label"]
        for row in rows:
            values = list(row.values()) if isinstance(row, dict) else [row]
            lines.append(",".join('"' + str(v).replace('"', '""') + '"' for v in values))
    elif suffix == "txt":
        lines = [str(row) for row in rows]
    else:
        lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows]
    text = ("\n".join(lines) + "\n")[:_MOST_CHARACTERS]
    if broken and draw.random() < 0.4:
        text, _ = break_text(draw, text)
    content = text.encode("utf-8", "surrogatepass")
    return break_bytes(draw, content)[0] if broken else content


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Every path of a tree and what stands there, the root left out."""
    found = [(path, tree)] if path else []
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += _places(value, (*path, key))
    return found


def _change(draw: Draw, tree: dict[str, Any]) -> str:
    path, old = draw.choice(_places(tree) or [(("task",), None)])
    home = tree
    for part in path[:-1]:
        home = home[part]
    key, how = path[-1], draw.randrange(6)
    if how == 0:
        home.pop(key, None)
    elif how == 1:
        home[odd_text(draw)[:3000]] = home.pop(key, None)
    elif how == 2:
        other = draw.choice(list(tree) or ["x"])
        tree[other] = old
    elif how == 3 and isinstance(old, dict):
        old.update({f"{key}{i}": i for i in range(draw.choice((1, 30, 3000)))})
    elif how == 4 and isinstance(old, list):
        home[key] = old * draw.choice((0, 2, 3000))
    else:
        home[key] = odd_value(draw)
    return f"{'.'.join(map(str, path))[:60]} ({how})"


def _yaml(draw: Draw, tree: Any) -> bytes:
    """``tree`` as flow YAML on one line a section; JSON is YAML but for what it escapes."""
    lines = [
        f"{json.dumps(str(key))}: {json.dumps(value, ensure_ascii=draw.random() < 0.5)}"
        for key, value in tree.items()
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
