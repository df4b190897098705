"""A stranger's task or transport that breaks its contract ends with exit 5, named."""

import sys

import pytest
from installed_plugins import install
from typer.testing import CliRunner

from amaqctl import registry
from amaqctl.cli.main import app

TASK = """
import sys
from amaqctl.tasks.encode import Pair, encode_pairs, end_id
from amaqctl.tasks.task import Example, Split, Task

def pairs(tokenizer, max_length, n=8):
    made = (Pair(f"q{i} ", f"a{i}", "here", answer=f"a{i}") for i in range(n))
    return encode_pairs(made, tokenizer, max_length=max_length, truncation="drop",
                        ending=(end_id(tokenizer),), place="here")

class Mine(Task):
    metric = "exact_match"
    max_new_tokens = 2
    def load(self):
        return pairs(self.tokenizer, self.max_length), pairs(self.tokenizer, self.max_length, 3)
{more}
"""
TRANSPORT = """
import sys
from amaqctl.errors import TransportError
from amaqctl.transports.loopback import LoopbackTransport

class Mine(LoopbackTransport):
    pass
{more}
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._all_offers.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for module in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[module]
    registry._all_offers.cache_clear()


def dry_run(site, kind, code, more):
    install(
        site,
        "acme-part",
        {"acme_part.py": code.replace("{more}", more)},
        {f"amaqctl.{kind}s": {"mine": "acme_part:Mine"}},
    )
    arguments = ["train", "quickstart", "--dry-run", "--set", "model.id=tiny"]
    arguments += ["--set", f"{kind}={{name: mine}}", "--set", "train.batch_size=2"]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def method(name, *body):
    return f"    def {name}:\n" + "".join(f"        {line}\n" for line in body)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (method("load(self)", "raise KeyError('x')"), "failed in __init__: KeyError: 'x'"),
        (method("load(self)", "sys.exit(3)"), "failed in __init__: SystemExit: 3"),
        (method("load(self)", "return None"), "Mine.load returned something else than two Splits"),
        (method("load(self)", "return Split([1], 'h'), Split([2], 'h')"), "is no Example"),
        (method("load(self)", "e = Example(0, (1.5, 2), (1, 2))", "return Split([e], 'h'), None"),
         "returned something else than two Splits"),
        (method("load(self)", "s = Split([Example(0, (1.5, 2), (1, 2))], 'h')", "return s, s"),
         "holds something else than whole numbers"),
        (method("load(self)", "s = Split([Example(0, (-1, 2), (1, 2))], 'h')", "return s, s"),
         "has a negative token or sample_id"),
        (method("__init__(self, *a, **k)", "pass"), "failed in __init__: AttributeError: "),
        (method("is_match(self, e, t)", "return 1 / 0"),
         "failed in is_match: ZeroDivisionError: division by zero"),
        (method("is_match(self, e, t)", "return None"),
         "returned NoneType, not bool, from is_match"),
        (method("text_of(self, ids)", "return b''"), "returned bytes, not str, from text_of"),
        ("    metric = 'bleu'\n", "has the metric 'bleu', not one of perplexity, accuracy"),
        ("    metric = 'accuracy'\n", "has no legal choice in validation example 0"),
        ("    max_new_tokens = 0\n", "is scored by exact match and has max_new_tokens 0"),
        ("    Config = None\n", "failed in Config: TypeError: "),
        ("Mine = lambda *a: None\n", "failed in Config: AttributeError: "),
        ("class Mine:\n    Config = Task.Config\n", "is no subclass of amaqctl.tasks.task.Task"),
    ],
)  # fmt: skip
def test_a_task(site, more, words):
    result = dry_run(site, "task", TASK, more)
    assert result.exit_code == 5, result.output
    assert words in result.output
    assert "task 'mine' of acme-part 1.2" in result.output


def test_a_task_that_keeps_the_contract(site):
    result = dry_run(site, "task", TASK, "")
    assert result.exit_code == 0, result.output
    assert "8 train, 3 validation" in result.output


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (method("__init__(self, config)", "raise RuntimeError('no port')"),
         "failed in __init__: RuntimeError: no port"),
        (method("__init__(self, config)", "sys.exit()"), "failed in __init__: SystemExit:"),
        (method("send(self, address, data)", "raise OSError('gone')"),
         "failed in send: OSError: gone"),
        (method("receive(self, address)", "return None"),
         "returned NoneType, not bytes, from receive"),
        ("    receive = None\n", "has no method 'receive'"),
        ("class Mine:\n    Config = LoopbackTransport.Config\n",
         "failed in __init__: TypeError"),
        ("Mine = 3\n", "failed in Config: AttributeError: "),
    ],
)  # fmt: skip
def test_a_transport(site, more, words):
    result = dry_run(site, "transport", TRANSPORT, more)
    assert result.exit_code == 5, result.output
    assert f"transport 'mine' of acme-part 1.2 {words}" in result.output


def test_what_the_network_does_wrong_is_not_the_transport_s_fault(site):
    more = method("receive(self, address)", "raise TransportError('no message came', where='x')")
    result = dry_run(site, "transport", TRANSPORT, more)
    assert result.exit_code == 10
    assert "error: x: no message came" in result.output
