"""Replay: real bytes, errors worked out apart, learned widths, and planted faults found."""

import math
from dataclasses import replace

import pytest
import torch
from trace_parts import CHANNELS, context_of, site_of, spread_tensor, steps_of, write_trace

from amaqctl import registry
from amaqctl.cli.quantizer_text import name_and_options
from amaqctl.errors import CheckError, PluginError, QuantizationError, UsageError
from amaqctl.quantizer import QuantizedTensor, Quantizer, ResolvedQuantizer
from amaqctl.registry import Offer
from amaqctl.trace.choice import Choice, choice_of, usual_choices
from amaqctl.trace.report import replay_trace
from amaqctl.wire import Message

FIXED = registry.load(registry.QUANTIZERS, "fixed")


def whole_rows(report):
    return {(row.quantizer, row.role): row for row in report.rows if row.part == "all"}


def test_numbers_are_those_of_the_real_messages(tmp_path):
    sent = steps_of(3)
    report = replay_trace(write_trace(tmp_path / "a.trace", sent), [chosen("fixed:bits=3")])
    row = whole_rows(report)["fixed:bits=3", "activation"]
    quantizer = FIXED(FIXED.Config(bits=3), site_of(0, "activation"))
    activations = [(c, x) for c, x in sent if c.role == "activation"]
    data, decoded = [], []
    for sequence, (context, x) in enumerate(activations):
        quantized = quantizer.quantize(x, context)
        data.append(Message("fixed", context, quantized, sequence=sequence).to_bytes())
        decoded.append(quantizer.dequantize(quantized, context))
    x_all = torch.stack([x for _, x in activations]).double()
    decoded_all = torch.stack(decoded).double()
    num_bytes = sum(map(len, data))
    assert row.bytes == num_bytes
    assert row.bits == 8 * num_bytes / x_all.numel()
    assert row.ratio == 2 * x_all.numel() / num_bytes
    error = (x_all - decoded_all).norm() / x_all.norm()
    assert row.relative_error == pytest.approx(float(error), rel=1e-12)
    cosine = torch.cosine_similarity(x_all.flatten(), decoded_all.flatten(), dim=0)
    assert row.cosine == pytest.approx(float(cosine), rel=1e-12)
    assert (row.messages, row.values) == (3, x_all.numel())
    assert report.num_messages == 6
    assert report.has_revisits


def test_the_split_of_bytes_adds_up_to_the_messages(tmp_path):
    trace = write_trace(tmp_path / "a.trace", steps_of(4))
    report = replay_trace(trace, usual_choices())
    assert len(report.rows) > 8
    for row in report.rows:
        parts = row.codes_bytes + row.widths_bytes + row.scales_bytes + row.header_bytes
        assert parts == row.bytes == pytest.approx(row.bits * row.values / 8)
    amaq = whole_rows(report)["amaq:target_bits=4", "activation"]
    assert amaq.widths_bytes == 4 * CHANNELS // 2  # they differ from the first step on


def test_none_is_lossless_and_has_no_decibels(tmp_path):
    report = replay_trace(write_trace(tmp_path / "a.trace", steps_of(1)), [chosen("none")])
    row = whole_rows(report)["none", "gradient"]
    assert (row.relative_error, row.decibels_above_limit) == (0.0, None)
    assert row.codes_bytes == 4 * row.values
    assert row.cosine == pytest.approx(1.0)


def test_the_limit_is_that_of_the_recorded_channels(tmp_path):
    x = spread_tensor(1, (4, 64, CHANNELS))
    sent = [(context_of(0, "activation"), x)]
    report = replay_trace(write_trace(tmp_path / "a.trace", sent), [chosen("fixed:bits=8")])
    row = whole_rows(report)["fixed:bits=8", "activation"]
    variances_C = x.double().reshape(-1, CHANNELS).var(0, correction=0)
    # Eight bits are above every channel's water level: a geometric mean.
    limit = float(variances_C.log2().mean().exp2()) * 2 ** (-2 * row.bits)
    mean_square = row.relative_error**2 * float(x.double().square().mean())
    expected = 10 * math.log10(mean_square / limit)
    assert row.decibels_above_limit == pytest.approx(expected, rel=1e-9)
    assert 3 < row.decibels_above_limit < 40


def test_errors_are_those_of_real_tokens(tmp_path):
    x = spread_tensor(1)
    x[1, 5:] = 0
    padded = context_of(0, "activation", lengths=(8, 5))
    choice = chosen("amaq:allocation=learned,target_bits=2,center=true")
    report = replay_trace(write_trace(tmp_path / "a.trace", [(padded, x)]), [choice])
    (measured,) = report.replays[0].measured
    assert measured.num_real_values == 13 * CHANNELS
    assert measured.num_values == 16 * CHANNELS == report.rows[0].values
    twin = choice.make(site_of(0, "activation"))
    difference = x.double() - twin.dequantize(twin.quantize(x, padded), padded).double()
    assert difference[1, 5:].abs().max() > 0
    real = difference[0].square().sum() + difference[1, :5].square().sum()
    assert measured.squared_error == pytest.approx(float(real), rel=1e-12)


def test_the_first_message_is_apart_where_it_is_sent_in_full(tmp_path):
    trace = write_trace(tmp_path / "a.trace", steps_of(3))
    report = replay_trace(trace, [chosen("aq-sgd"), chosen("fixed")], ["activation"])
    rows = {(row.quantizer, row.part): row for row in report.rows}
    assert set(rows) == {
        ("aq-sgd", "all"),
        ("aq-sgd", "first"),
        ("aq-sgd", "last"),
        ("fixed", "all"),
    }
    assert rows["aq-sgd", "first"].codes_bytes == 0
    assert rows["aq-sgd", "first"].bits > 32
    assert rows["aq-sgd", "last"].codes_bytes == 4 * rows["aq-sgd", "last"].values // 8
    together = sum(m.sizes.total for m in report.replays[0].measured)
    assert rows["aq-sgd", "all"].bytes == together
    assert rows["aq-sgd", "first"].bytes + rows["aq-sgd", "last"].bytes < together


@pytest.mark.parametrize("allocation", ["learned", "tracked"])
def test_what_learns_is_trained_as_at_a_stage(tmp_path, allocation):
    sent = steps_of(6)
    choice = chosen(f"amaq:allocation={allocation},target_bits=3")
    report = replay_trace(write_trace(tmp_path / "a.trace", sent, quantizer_lr=0.5), [choice])
    by_hand = choice.make(site_of(0, "activation"))
    optimizer = torch.optim.AdamW(by_hand.quantizer.parameters(), lr=0.5, weight_decay=0.0)
    widths = []
    for (context, x), (_, gradient) in zip(sent[::2], sent[1::2], strict=True):
        with torch.no_grad():
            quantized = by_hand.quantize(x, context)
        widths.append(quantized.codes.allocation.widths_C)
        by_hand.surrogate(x.clone().requires_grad_(), context).backward(gradient)
        optimizer.step()
        optimizer.zero_grad()
    learned = report.replays[0]
    # The last step is learned from only when the next one begins.
    sender = learned._ends[0, "activation"].sender
    assert torch.equal(sender.allocation().widths_C, widths[-1])
    assert not torch.equal(widths[0], widths[-1])
    why = (choice.label, "gradient", "it learns from the gradient that it would quantize")
    assert report.skipped == ([why] if allocation == "learned" else [])


def test_micro_batches_and_links_are_kept_apart(tmp_path):
    sent = []
    for step in range(2):
        for link in range(2):
            for micro_batch in range(2):
                context = context_of(step, "activation", micro_batch=micro_batch, link=link)
                sent.append((context, spread_tensor(len(sent))))
        for link in (1, 0):
            for micro_batch in range(2):
                context = context_of(step, "gradient", micro_batch=micro_batch, link=link)
                sent.append((context, spread_tensor(len(sent))))
    trace = write_trace(tmp_path / "a.trace", sent)
    report = replay_trace(trace, [chosen("amaq:allocation=learned"), chosen("group")], verify=True)
    activations, gradients = (
        whole_rows(report)["group", role] for role in ("activation", "gradient")
    )
    assert (activations.messages, gradients.messages) == (8, 8)
    assert report.variances["activation"].numel() == 2 * CHANNELS
    assert not report.has_revisits


def test_gradients_reuse_the_widths_of_the_nearest_quantizer_before(tmp_path):
    trace = write_trace(tmp_path / "a.trace", steps_of(4))
    amaq, received = chosen("amaq:target_bits=3"), chosen("fixed:bits=received")
    report = replay_trace(trace, [amaq, received])
    gradient = [m for m in report.replays[1].measured if m.role == "gradient"]
    activation = [m for m in report.replays[0].measured if m.role == "activation"]
    assert [m.sizes.codes for m in gradient] == [m.sizes.codes for m in activation]
    ((label, role, reason),) = report.skipped
    assert (label, role) == ("fixed:bits=received", "activation")
    assert "no received channel widths" in reason
    alone = replay_trace(trace, [received], ["gradient"])
    assert alone.rows[0].codes_bytes == alone.rows[0].values  # 16 of the trace, 8 at most


class Forgetful(FIXED):
    """Decodes the third message otherwise if it came as bytes."""

    def __init__(self, config, site):
        super().__init__(config, site)
        self.num_decoded = 0

    def dequantize(self, quantized, context):
        self.num_decoded += 1
        value = super().dequantize(quantized, context)
        came_from_bytes = not getattr(quantized.side["range"], "made_by_sender", False)
        return value + 1e-3 if came_from_bytes and self.num_decoded == 3 else value

    def quantize(self, x, context):
        quantized = super().quantize(x, context)
        quantized.side["range"].made_by_sender = True
        return quantized


def chosen(text: str) -> Choice:
    return choice_of(text, *name_and_options(text, "-q"))


def broken(cls) -> Choice:
    offer = Offer("amaqctl.quantizers", "fixed", "", "planted-distribution", "1.0")
    return Choice("planted", ResolvedQuantizer(offer, cls, FIXED.Config()))


def test_verify_finds_a_planted_difference_and_names_the_place(tmp_path):
    trace = write_trace(tmp_path / "a.trace", steps_of(4))
    replay_trace(trace, [broken(Forgetful)])
    with pytest.raises(CheckError, match="'planted' decodes from its bytes to other") as caught:
        replay_trace(trace, [chosen("group"), broken(Forgetful)], verify=True)
    assert caught.value.where == "link 0 activation step 2"
    assert (caught.value.exit_code, caught.value.error_id) == (8, "CHECK-VERIFY")


def test_every_built_in_verifies(tmp_path):
    x16 = [(c, x.to(torch.bfloat16)) for c, x in steps_of(4)]
    trace = write_trace(tmp_path / "a.trace", x16)
    names = [o.name for o in registry.offers(registry.QUANTIZERS) if o.built_in]
    report = replay_trace(trace, [chosen(name) for name in names], verify=True)
    assert {row.quantizer for row in report.rows} == set(names)


class WrongShape(FIXED):
    def dequantize(self, quantized, context):
        return super().dequantize(quantized, context)[:1]


class Raises(FIXED):
    def quantize(self, x, context):
        raise KeyError("nothing here")


class Refuses(Quantizer):
    Config = FIXED.Config

    def quantize(self, x, context):
        if context.step:
            raise QuantizationError("never again")
        return QuantizedTensor(tuple(x.shape), x.dtype, None, {"all": x})

    def dequantize(self, quantized, context):
        return quantized.side["all"]


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (WrongShape, "decoded torch.float32 of shape .* to torch.float32 of shape"),
        (Raises, "planted-distribution 1.0 failed in quantize: KeyError: 'nothing here'"),
        (Refuses, "never again"),
    ],
)
def test_a_faulty_quantizer_is_named(tmp_path, cls, message):
    trace = write_trace(tmp_path / "a.trace", steps_of(2))
    with pytest.raises((PluginError, QuantizationError), match=message) as caught:
        replay_trace(trace, [broken(cls)])
    assert "link 0 activation step" in caught.value.where
    assert caught.value.exit_code == 5
    report = replay_trace(trace, [broken(cls), chosen("group")])
    assert {row.quantizer for row in report.rows} == {"group"}
    assert [(label, str(error)) for label, error in report.failures] == [
        ("planted", str(caught.value))
    ]


def test_nothing_to_send_is_an_error(tmp_path):
    trace = write_trace(tmp_path / "a.trace", steps_of(1))
    with pytest.raises(QuantizationError, match="cannot send a gradient: it learns"):
        replay_trace(trace, [chosen("amaq:allocation=learned")], ["gradient"])


@pytest.mark.parametrize(
    ("text", "message", "code"),
    [
        ("fixed:bit=4", "unknown option 'bit' of fixed, did you mean 'bits'", 2),
        ("none:bits=4", "unknown option 'bits' of none, it has no options", 2),
        ("fixed:bits=99", "bits must be 1 to 8", 2),
        ("group:bits=four", "bits: Input should be a valid integer", 2),
        ("fixed:bits={4", "is no YAML", 2),
        ("fixed:[bits]", "is no KEY=VALUE", 2),
        ("fixed:bits", "'bits' is no KEY=VALUE", 2),
        ("fixed:", "'' is no KEY=VALUE", 2),
        (":bits=4", "no name", 2),
        ("fixed:bits=4,bits=5", "given twice", 2),
        ("fixd", "unknown quantizer 'fixd'", 5),
        ("", "no name", 2),
    ],
)
def test_bad_choices(text, message, code):
    with pytest.raises((UsageError, PluginError), match=message) as caught:
        chosen(text)
    assert caught.value.exit_code == code


def test_values_of_choices_are_json_or_text():
    assert chosen("fixed:bits=received,scale=token").config.bits == "received"
    assert chosen("group:bits=5,zero_point=true").config.zero_point is True
    assert chosen("amaq:target_bits=3.5,clip=null").config.target_bits == 3.5
    usual = {choice.name: choice.config for choice in usual_choices()}
    assert set(usual) == {"amaq", "aq-sgd", "fixed", "group"}
    assert usual["amaq"].target_bits == usual["fixed"].bits == 4


def test_a_replayed_trace_gives_the_same_numbers_again(tmp_path):
    trace = write_trace(tmp_path / "a.trace", steps_of(4))
    first, second = (replay_trace(trace, usual_choices()).rows for _ in range(2))
    timeless = [
        [replace(r, encode_ms=0.0, decode_ms=0.0) for r in rows] for rows in (first, second)
    ]
    assert timeless[0] == timeless[1]
