"""The streams of real processes: pipes that close, full ones, none at all, and signals."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amaqctl.engine.checkpoint_folder import good_checkpoints

AMAQCTL = [sys.executable, "-m", "amaqctl.cli.main"]
LONG_RUN = ["train", "quickstart", "--set", "model.id=tiny", "--set", "eval.max_examples=1"]
LONG_RUN += ["--max-steps", "20000", "--set", "checkpoint.every=20000", "--out", "run"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def listen_to_signals() -> None:
    """A background job or nohup, as CI may be, starts its children with signals ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def shell(line: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run by bash; `amaqctl` in the line is this package's."""
    line = line.replace("amaqctl ", " ".join(AMAQCTL) + " ")
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=cwd, env=environment(**more)
    )


@pytest.mark.parametrize("what", ["profile list", "profile schema --json", "--help", "plugins"])
def test_a_reader_that_left_ends_the_command_without_a_word(what, tmp_path):
    done = shell(f"amaqctl {what} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_first_line_for_head(tmp_path):
    done = shell("amaqctl profile schema | head -1; exit ${PIPESTATUS[0]}", tmp_path)
    assert done.stdout == "{\n"
    assert (done.returncode in (0, 141), done.stderr) == (True, "")


@pytest.mark.parametrize("what", ["profile list", "profile list --json", "--help"])
def test_a_full_stdout_is_an_error(what, tmp_path):
    done = shell(f"amaqctl {what} >/dev/full", tmp_path)
    assert done.returncode == 7
    errors = [line for line in done.stderr.splitlines() if not line.startswith("hint: ")]
    assert len(errors) == 1
    assert errors[0].endswith("No space left on device")
    assert "stdout" in errors[0]


def test_an_error_keeps_its_code_where_nobody_listens(tmp_path):
    for streams in (">/dev/full", "2>/dev/full", ">&-", "2>&-", ">&- 2>&-", "<&-"):
        done = shell(f"amaqctl profile check nowhere --json {streams}", tmp_path)
        assert done.returncode == 4, streams
        assert "Traceback" not in done.stderr
        if streams in ("2>/dev/full", "2>&-", "<&-"):
            assert json.loads(done.stdout)["error"]["id"] == "INPUT-PROFILE"
    assert shell("amaqctl profile list >&-", tmp_path).returncode == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "cp1252"},
        {"TERM": "dumb"},
        {"NO_COLOR": "1"},
        {"COLUMNS": "60"},
        {"COLUMNS": "x"},
    ],
    ids=str,
)
def test_the_surroundings_change_nothing_in_a_pipe(settings, tmp_path):
    usual = shell("amaqctl plugins", tmp_path)
    assert usual.returncode == 0
    assert shell("amaqctl plugins", tmp_path, **settings).stdout == usual.stdout
    (tmp_path / "é.yaml").write_text("amaqctl: 1\nmodel: {id: tiny, é: 1}\n")
    wrong = shell("amaqctl profile check é.yaml", tmp_path, **settings)
    assert (wrong.returncode, wrong.stdout) == (3, "")
    assert ".yaml:2:19: model.é: unknown key" in wrong.stderr


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until the file holds a line of training."""
    for _ in range(1200):
        if path.exists() and '"train"' in path.read_text():
            return
        assert process.poll() is None, "it ended too early"
        time.sleep(0.05)
    raise AssertionError("it never began to train")


def test_ctrl_c_while_loading_is_one_line(tmp_path):
    with subprocess.Popen(
        [*AMAQCTL, *LONG_RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
        preexec_fn=listen_to_signals,
    ) as process:
        assert process.stderr.readline() == "loading …\n"
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert error == "error: stopped at once; what was saved before is whole\n"
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_goes_away_saves_the_run(tmp_path):
    """SIGHUP, with a stderr that takes nothing any more."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*AMAQCTL, *LONG_RUN],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env=environment(TERM="dumb"),
        start_new_session=True,
        preexec_fn=listen_to_signals,
    ) as process:
        os.close(theirs)
        wait_for(tmp_path / "run/metrics.jsonl", process)
        shown = os.read(ours, 65536)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 129
    assert b"\x1b[" not in shown  # a dumb terminal gets lines
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert (run["status"], run["exit_code"]) == ("interrupted", 129)
    assert len(good_checkpoints(tmp_path / "run/checkpoints")) == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("ModuleNotFoundError(\"No module named 'peft'\", name='peft')", 4, "package peft cannot"),
        ("ImportError('libtorch.so: failed to map segment: Cannot allocate memory')", 7, "memory"),
        ("MemoryError()", 7, "out of memory"),
        ("RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED')", 7, "out of memory"),
    ],
)
def test_what_fails_while_a_command_imports_is_told(error, code, said):
    program = (
        "import sys\n"
        "class Failing:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'torch': raise {error}\n"
        "sys.meta_path.insert(0, Failing())\n"
        "from amaqctl.cli.main import main\n"
        "sys.argv = ['amaqctl', 'train', 'quickstart', '--set', 'model.id=tiny']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
