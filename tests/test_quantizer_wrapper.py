"""A quantizer in front of another: options at their own path, values, state, layout, blame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from compositions import Delta, ErrorFeedback, Hadamard, hadamard
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from amaqctl.errors import PluginError, QuantizationError
from amaqctl.quantizer import (
    LayoutError,
    Quantizer,
    QuantizerChoice,
    QuantizerEnd,
    Site,
    TensorContext,
    Wrapper,
    resolve_quantizer,
)
from amaqctl.registry import Offer
from amaqctl.testing import CLAUSES, Subject, check_clauses
from amaqctl.wire import Message

NUM_CHANNELS, NUM_SAMPLES = 16, 4
INNER: list[dict[str, Any]] = [
    {"name": "amaq", "options": {"target_bits": 3}},
    {"name": "amaq", "options": {"allocation": "learned"}},
    {"name": "fixed", "options": {"bits": 2, "scale": "token"}},
    {"name": "group", "options": {"group_size": 5}},
    {"name": "aq-sgd", "options": {"memory_dtype": "bfloat16"}},
    {"name": "none"},
    {"name": "hadanorm"},
    {"name": "ternary"},
]


def site(end: Any = "sender", role: Any = "activation", num_channels: int = NUM_CHANNELS) -> Site:
    return Site(0, role, num_channels, 16, NUM_SAMPLES, 17, end=end)


def end_of(cls: type[Wrapper], inner: dict[str, Any], where: Site) -> QuantizerEnd:
    offer = Offer("amaqctl.quantizers", cls.__name__.lower(), "", "wrapper-under-test", "1.0")
    return QuantizerEnd(offer, cls(cls.Config(inner=inner), where))


def context(step: int, x: Tensor, role: Any = "activation", **others: Any) -> TensorContext:
    ids = tuple((2 * step + i) % NUM_SAMPLES for i in range(len(x)))
    return TensorContext(role, 0, step, 20, sample_ids=ids, **others)


def tensor(seed: int, dtype: torch.dtype = torch.float32, tokens: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale_C = torch.logspace(-1, 1, NUM_CHANNELS)
    return (torch.randn((2, tokens, NUM_CHANNELS), generator=generator) * scale_C).to(dtype)


def sent(sender: QuantizerEnd, receiver: QuantizerEnd, x: Tensor, about: TensorContext) -> Tensor:
    data = Message("w", about, sender.quantize(x, about)).to_bytes()
    return receiver.dequantize(Message.from_bytes(data).quantized, about)


# --- the contract, whole


WRAPPED = [(Hadamard, inner) for inner in INNER]
WRAPPED += [(Delta, inner) for inner in INNER if inner["name"] in ("amaq", "aq-sgd", "hadanorm")]
WRAPPED += [(ErrorFeedback, inner) for inner in INNER if inner["name"] in ("fixed", "hadanorm")]


@pytest.mark.parametrize(
    ("cls", "inner"), WRAPPED, ids=[f"{cls.__name__}-{inner['name']}" for cls, inner in WRAPPED]
)
def test_a_wrapper_of_any_quantizer_keeps_the_contract(
    cls: type[Wrapper], inner: dict[str, Any]
) -> None:
    role = "gradient" if cls is ErrorFeedback else "activation"
    subject = Subject(cls.__name__, cls, {"inner": inner}, role)
    clauses = [c for c in CLAUSES if c.name != "training"]  # that needs a registered name
    findings = [str(done.finding) for done in check_clauses([subject], clauses) if done.finding]
    assert not findings, "\n".join(findings)


# --- values


def test_hadamard_lowers_the_error_of_unlike_channels_and_none_is_none_of_it() -> None:
    x, about = tensor(0), context(0, tensor(0))
    x = x / x.abs().amax((0, 1))
    x[..., 0] = 8.0
    inner = {"name": "fixed", "options": {"bits": 3, "scale": "token"}}
    plain_ends = [resolve_quantizer("fixed", inner["options"]).end(site()) for _ in range(2)]
    rotated_ends = [end_of(Hadamard, inner, site()) for _ in range(2)]
    plain, rotated = (sent(*ends, x, about) for ends in (plain_ends, rotated_ends))
    assert float((rotated - x).norm()) < 0.8 * float((plain - x).norm())
    # What is decoded is the rotation of what the inner quantizer decodes, bit for bit.
    alone = sent(*plain_ends, hadamard(x), about)
    assert torch.equal(rotated, hadamard(alone))


def test_delta_sends_ever_smaller_changes_of_a_sample_that_comes_again() -> None:
    sender, receiver = (end_of(Delta, {"name": "fixed"}, site(e)) for e in ("sender", "receiver"))
    x, errors = tensor(1), []
    for step in range(0, 8, 2):  # the same two samples
        decoded = sent(sender, receiver, x, context(step, x))
        errors.append(float((decoded - x).norm()))
    assert errors[1] < 0.2 * errors[0]
    assert errors[3] < errors[1]
    for end in (sender, receiver):
        assert end.quantizer.memory.visits_N.tolist() == [4, 4, 0, 0]
    values = [
        torch.stack([e.quantizer.memory.recall(i, 5) for i in (0, 1)]) for e in (sender, receiver)
    ]
    assert torch.equal(*values)


def test_error_feedback_makes_the_mean_of_what_arrives_right() -> None:
    inner = {"name": "fixed", "options": {"bits": 2}}
    about = [context(step, tensor(2), role="gradient") for step in range(0, 60, 2)]
    x, means = tensor(2), []
    for cls in (Hadamard, ErrorFeedback):  # a rotation remembers nothing
        ends = [end_of(cls, inner, site(e, "gradient")) for e in ("sender", "receiver")]
        means.append(torch.stack([sent(*ends, x, a) for a in about]).mean(0))
    without, with_feedback = (float((mean - x).norm() / x.norm()) for mean in means)
    assert with_feedback < 0.25 * without


def test_sender_and_receiver_decode_the_same_bits_and_the_twin_does_not_learn() -> None:
    inner = {"name": "amaq", "options": {"allocation": "learned", "target_bits": 3}}
    sender, receiver = (end_of(Delta, inner, site(e)) for e in ("sender", "receiver"))
    for step in range(6):
        x = tensor(step)
        sent(sender, receiver, x, context(step, x))
    names = [name for name, _ in sender.quantizer.named_parameters()]
    assert names == ["inner.gates_K"]
    (group,) = sender.param_groups()
    assert [id(p) for p in group["params"]] == [id(sender.quantizer.inner.gates_K)]
    kept = [end.quantizer.memory.get_extra_state() for end in (sender, receiver)]
    assert torch.equal(*kept)


class Forgetful(Quantizer):
    """Decodes by what was decoded before, changed at once: written before there was a hand-in."""

    def __init__(self, config: Any, where: Site) -> None:
        super().__init__(config, where)
        self.behind = resolve_quantizer("fixed", {}).build(where)
        self.register_buffer("num_decoded", torch.zeros((), dtype=torch.int64))

    def quantize(self, x: Tensor, about: TensorContext) -> Any:
        return self.behind.quantize(x, about)

    def dequantize(self, quantized: Any, about: TensorContext) -> Tensor:
        if about.training:
            self.num_decoded += 1
        return self.behind.dequantize(quantized, about) * float(self.num_decoded)


def test_the_twin_follows_a_receiver_with_state_and_is_saved() -> None:
    sender, receiver = (Forgetful(Forgetful.Config(), site(e)) for e in ("sender", "receiver"))
    for step in range(5):
        if step == 3:  # through a checkpoint, into fresh instances
            states = [load(save(dict(q.state_dict()))) for q in (sender, receiver)]
            sender, receiver = (
                Forgetful(Forgetful.Config(), site(e)) for e in ("sender", "receiver")
            )
            for fresh, state in zip((sender, receiver), states, strict=True):
                fresh.load_state_dict(state)
        x = tensor(step)
        message = sender.quantize(x, context(step, x))
        expected = receiver.dequantize(message, context(step, x))
        assert torch.equal(sender.decoded(message, context(step, x)), expected)
    assert int(sender.num_decoded) == 0  # only its twin decodes
    assert sender.state_dict()["decoder_twin.num_decoded"].item() == 5
    assert "decoder_twin.num_decoded" not in receiver.state_dict()
    assert list(sender.parameters()) == []


# --- options


@pytest.mark.parametrize(
    ("options", "place", "words"),
    [
        ({"inner": {"name": "amak"}}, ("inner", "name"), "did you mean 'amaq'"),
        (
            {"inner": {"optoins": {}, "name": "amaq"}},
            ("inner", "optoins"),
            "did you mean 'options'",
        ),
        ({"inner": {}}, ("inner", "name"), "required"),
        (
            {"inner": {"name": "amaq", "options": {"target_bit": 3}}},
            ("inner", "options", "target_bit"),
            "unknown option of amaq, did you mean 'target_bits'?",
        ),
        (
            {"inner": {"name": "fixed", "options": {"scale": "row"}}},
            ("inner", "options", "scale"),
            "'tensor', 'token' or 'channel'",
        ),
        ({"inner": {"name": "fixed", "bits": 3}}, ("inner", "bits"), "known here: name, options"),
    ],
)
def test_a_fault_of_the_inner_one_names_its_own_key(
    options: dict[str, Any], place: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Hadamard.Config(**options)
    (detail,) = caught.value.errors()
    assert detail["loc"] == place
    assert words in detail["msg"].replace("Field required", "required")


def test_an_inner_choice_holds_every_default_and_survives_json() -> None:
    config = Hadamard.Config(inner={"name": "fixed", "options": {"bits": 3}})
    assert config.inner.options["scale"] == "channel"
    assert Hadamard.Config.model_validate_json(config.model_dump_json()) == config
    assert Hadamard.Config().inner == QuantizerChoice(name="amaq", options={})
    nested = Hadamard.Config(inner={"name": "amaq", "options": {"mode": "paper"}})
    assert nested.inner.resolved().config.beta == 1.0


# --- what arrives


def test_a_layout_is_the_inner_ones_with_its_names_in_front() -> None:
    sender, receiver = (
        end_of(Hadamard, {"name": "group", "options": {"group_size": 4}}, site(e))
        for e in ("sender", "receiver")
    )
    x, about = tensor(0), context(0, tensor(0))
    good = sender.quantize(x, about)
    assert list(good.side) == ["inner.range"]
    bad = replace(good, side={"inner.range": good.side["inner.range"][:, :1]})
    with pytest.raises(LayoutError, match=r"'inner.range' .* expected .* of shape \(10, 4\)"):
        receiver.dequantize(bad, about)
    with pytest.raises(LayoutError, match="a side tensor 'range' where there are inner"):
        receiver.dequantize(
            replace(good, side={**good.side, "range": good.side["inner.range"]}), about
        )


class Picky(Delta):
    """Refuses what it is told to, after the inner quantizer has decoded."""

    refuses = False

    def inverse(self, y: Tensor, side: Any, about: TensorContext) -> Tensor:
        if self.refuses:
            raise QuantizationError("not this one")
        return super().inverse(y, side, about)


def test_what_the_outer_one_refuses_leaves_the_inner_one_as_it_was() -> None:
    sender, receiver = (end_of(Picky, {"name": "aq-sgd"}, site(e)) for e in ("sender", "receiver"))
    x, about = tensor(0), context(0, tensor(0))
    first = sender.quantize(x, about)
    before = {k: v.clone() for k, v in receiver.state_dict().items()}
    receiver.quantizer.refuses = True
    with pytest.raises(QuantizationError, match="not this one"):
        receiver.dequantize(first, about)
    after = receiver.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert receiver.quantizer.inner.memory.visits_N.tolist() == [0, 0, 0, 0]
    receiver.quantizer.refuses = False
    decoded = receiver.dequantize(first, about)
    assert torch.equal(decoded, x.half().float())  # a first visit comes in full
    assert receiver.quantizer.inner.memory.visits_N.tolist() == [1, 1, 0, 0]


class Broken(Quantizer):
    def quantize(self, x: Tensor, about: TensorContext) -> Any:
        raise ZeroDivisionError("inside")

    def dequantize(self, quantized: Any, about: TensorContext) -> Tensor:
        raise AssertionError

    def layout(self, *about: Any) -> Any:
        return "anything"


def test_the_fault_of_an_inner_plugin_is_told_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = Offer("amaqctl.quantizers", "broken", "", "inner-plugin", "3.1")
    monkeypatch.setattr("amaqctl.registry._all_offers", lambda: (offer,))
    monkeypatch.setattr("amaqctl.registry.load", lambda group, name: Broken)
    end = end_of(Hadamard, {"name": "broken"}, site())
    x, about = tensor(0), context(0, tensor(0))
    with pytest.raises(PluginError, match=r"'broken' of inner-plugin 3.1 failed in quantize"):
        end.quantize(x, about)
    with pytest.raises(PluginError, match=r"'broken' of inner-plugin 3.1 returned a str"):
        end.layout((2, 5, NUM_CHANNELS), torch.float32, about, None)
