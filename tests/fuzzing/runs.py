"""Finished runs with something broken in their folder, opened by every command that reads one."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from functools import partial

from fuzzing.json_files import break_json, break_lines
from fuzzing.odd_files import odd_files
from fuzzing.runner import Case
from fuzzing.seeds import OTHER, RUN, finished
from fuzzing.tensor_files import break_npz, break_safetensors
from fuzzing.values import Draw, break_bytes, break_text

Files = dict[str, bytes]
Prepare = Callable[[], None]
_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("runs",), ("runs", "--json"), ("runs", RUN), ("runs", RUN, "--json"), ("runs", "one"),
    ("compare", RUN, OTHER), ("compare", OTHER, RUN, "--json"),
    ("inspect-bits", RUN), ("inspect-bits", RUN, "--over-time", "--json"),
    ("inspect-bits", RUN, "--why"), ("inspect-bits", RUN, "--checkpoint", "2"),
    ("inspect-bits", RUN, "--against", OTHER), ("inspect-bits", RUN, "--export", "x.html"),
    ("inspect-bits", OTHER, "--against", RUN, "--export", "x.csv"),
    ("eval", RUN, "--limit", "1"), ("eval", RUN, "--limit", "1", "--boundary", "both", "--json"),
    ("eval", RUN, "--limit", "1", "--checkpoint", "2"),
    ("eval", RUN, "--limit", "1", "--checkpoint", "best"),
    ("train", "--resume", RUN, "--max-steps", "5"), ("train", "--resume", RUN),
    ("train", f"{RUN}/profile.yaml", "--out", "new", "--max-steps", "1"),
    ("export", RUN, "--to", "exported"), ("export", RUN, "--to", "exported", "--merge"),
    ("export", RUN, "--to", "exported", "--checkpoint", "2", "--json"),
    ("compress-trace", RUN, "-q", "fixed"),
)  # fmt: skip
# The first words of the commands that read a file; those that are not named here, all.
_READERS = {
    "bits": ("inspect-bits",),
    "eval": ("runs", "compare", "inspect-bits", "eval"),
    "metrics.jsonl": ("runs", "compare", "inspect-bits", "train"),
    "checkpoints": ("eval", "train", "export", "inspect-bits"),
    "quantizer": ("runs", "compare", "inspect-bits", "train", "eval"),
    "adapter": ("eval", "export", "train"),
    "environment.json": ("runs", "compare", "train", "eval"),
    "log.txt": ("train", "runs"),
}


def cases(seed: int) -> Iterator[Case]:
    """Cases without end."""
    draw = random.Random(seed)
    while True:
        files, told, prepares = dict(finished()), [], []
        for _ in range(draw.choice((1, 1, 1, 2))):
            if not any(name.startswith(f"{RUN}/") for name in files):
                break  # the change before took all
            path = _one_file(draw, files)
            how = draw.random()
            if how < 0.72:
                files[path], what = _broken(draw, path, files[path])
                told.append(f"{path}: {what}")
                _sign(draw, files, path)
            elif how < 0.86:
                told.append(_moved(draw, files, path))
            else:
                what, prepare = _odd(draw, files, path)
                told.append(what)
                prepares.append(prepare)
        yield Case("; ".join(told)[:250], _command(draw, path), files, partial(_all, prepares))


def _one_file(draw: Draw, files: Files) -> str:
    """A file of the run; each place of the folder is as likely as any other."""
    own = [path for path in files if path.startswith(f"{RUN}/")]
    place = draw.choice(sorted({_place(path) for path in own}))
    return draw.choice([path for path in own if _place(path) == place])


def _place(path: str) -> str:
    """Which part of the folder; files of a checkpoint are parts each."""
    parts = path.removeprefix(f"{RUN}/").split("/")
    return "/".join(parts[2:]) if parts[0] == "checkpoints" else parts[0]


def _command(draw: Draw, path: str) -> tuple[str, ...]:
    readers = _READERS.get(path.removeprefix(f"{RUN}/").split("/")[0])
    if readers is None or draw.random() < 0.15:
        return draw.choice(_COMMANDS)
    return draw.choice([command for command in _COMMANDS if command[0] in readers])


def _broken(draw: Draw, path: str, content: bytes) -> tuple[bytes, str]:
    """By what the file is, and seldom as mere bytes."""
    if draw.random() < 0.1:
        return break_bytes(draw, content[: draw.choice((None, len(content) // 2))])
    if path.endswith(".safetensors"):
        return break_safetensors(draw, content)
    if path.endswith(".npz"):
        return break_npz(draw, content)
    if path.endswith(".jsonl"):
        return break_lines(draw, content)
    if path.endswith((".json", "COMPLETE")):
        return break_json(draw, content)
    text, what = break_text(draw, content.decode("utf-8", "replace"))
    return text.encode("utf-8", "surrogatepass"), what


def _sign(draw: Draw, files: Files, path: str) -> None:
    """Mostly, the list of a checkpoint's files fits what is there: then the file itself is read."""
    folder = "/".join(path.split("/")[:4])
    complete = f"{folder}/COMPLETE"
    if "/checkpoints/" not in path or path == complete or draw.random() < 0.15:
        return
    try:
        manifest = json.loads(files[complete])
        data = files[path]
        digest = hashlib.sha256(data).hexdigest()
        manifest[path.removeprefix(f"{folder}/")] = {"bytes": len(data), "sha256": digest}
        files[complete] = json.dumps(manifest).encode()
    except (KeyError, ValueError, TypeError, RecursionError):
        return


def _moved(draw: Draw, files: Files, path: str) -> str:
    """A file or a whole step is missing, another one's, elsewhere, or more than there should be."""
    how, other = draw.randrange(7), draw.choice(list(files))
    if how == 0:
        del files[path]
        return f"{path} missing"
    if how == 1:
        files[path] = files[other]
        _sign(draw, files, path)
        return f"{path} is {other}"
    if how == 2:
        twin = path.replace(RUN, OTHER)
        files[path] = files.get(twin, b"")
        _sign(draw, files, path)
        return f"{path} is that of another run"
    steps = [f"{RUN}/checkpoints/step-000002/", f"{RUN}/checkpoints/step-000004/"]
    if how == 3:
        names = [name for name in files if name.startswith(steps[0])]
        for name in names:
            twin = steps[1] + name.removeprefix(steps[0])
            files[name], files[twin] = files.get(twin, b""), files[name]
        return "steps swapped"
    if how == 4:
        new = draw.choice(("step-000099", "step-9" * 9, "step-", "step-0000-4", "step-4", ".tmp-x",
                           "step-000004 ", "step-٤", "step-99999999999999999999"))  # fmt: skip
        for name in [name for name in files if name.startswith(steps[1])]:
            files[f"{RUN}/checkpoints/{new}/{name.removeprefix(steps[1])}"] = (
                files[name] if draw.random() < 0.5 else files.pop(name)
            )
        return f"a step called {new}"
    if how == 5:
        folder = path.rsplit("/", 1)[0] + "/"
        for name in [name for name in files if name.startswith(folder)]:
            del files[name]
        return f"{folder} missing"
    name = draw.choice(("bits/step-999999.npz", "bits/x.npz", "eval/x.json", "eval/é.json",
                        "checkpoints/x", "adapter/adapter_model.bin", "bits/s.npz"))  # fmt: skip
    files[f"{RUN}/{name}"] = files[path]
    return f"also {name}"


def _odd(draw: Draw, files: Files, path: str) -> tuple[str, Prepare]:
    """A file, or a folder with all that is below it, is no ordinary one."""
    parts = path.split("/")
    path = "/".join(parts[: draw.randrange(3, len(parts) + 1)])
    for name in [name for name in files if name == path or name.startswith(f"{path}/")]:
        del files[name]
    home = path.rsplit("/", 1)[0]
    what, prepare = draw.choice(odd_files())
    return f"{path} is {what}", partial(_make, home, prepare, path)


def _make(home: str, prepare: Callable[[str], None], path: str) -> None:
    import contextlib
    import os

    with contextlib.suppress(FileExistsError, NotADirectoryError):  # another change came first
        os.makedirs(home, exist_ok=True)
        if not os.path.lexists(path):
            prepare(path)


def _all(prepares: list[Prepare]) -> None:
    for prepare in prepares:
        prepare()
