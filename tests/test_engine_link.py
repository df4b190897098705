"""A channel over the loopback: what leaves, what arrives, and what is refused."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_parts import (
    CountingTransport,
    FromAPeer,
    IdTokenizer,
    engine_of,
    logits_of,
    pair_of,
    random_task,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from model_families import CONFIGS, save_random_model
from torch import Tensor

from amaqctl import registry
from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.engine.engine import Engine
from amaqctl.engine.evaluator import Evaluator
from amaqctl.engine.link import Channel
from amaqctl.engine.traffic import Traffic
from amaqctl.errors import DivergedError, TransportError, WireError
from amaqctl.model.source import ModelSource
from amaqctl.quantizer import QuantizedTensor, Site, TensorContext
from amaqctl.tasks.batch import collate
from amaqctl.transports.transport import Address
from amaqctl.wire import Limits, Message, SizeBreakdown

QUANTIZERS: dict[str, dict[str, Any]] = {
    "none": {},
    "fixed": {"bits": 4},
    "group": {"bits": 4, "group_size": 4},
    "aq-sgd": {},
    "amaq": {"target_bits": 4.0},
}
SHAPE = (2, 5, 8)
CONTEXT = TensorContext("activation", 0, step=0, total_steps=9, sample_ids=(3, 1))


def channel(
    name: str, transport: CountingTransport | None = None, sent: list[SizeBreakdown] | None = None
) -> Channel:
    site = Site(0, "activation", SHAPE[-1], max_positions=8, num_samples=4, seed=1)
    return Channel(
        Address(0, "activation"),
        transport or CountingTransport(),
        pair_of(name, QUANTIZERS[name], site),
        pair_of("none", {}, site),
        Limits(max_bytes=2**20, max_values=2**12),
        torch.device("cpu"),
        lambda message, sizes: None if sent is None else sent.append(sizes),
    )


def tensor(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def arrive(message: Message | bytes, name: str = "none") -> Any:
    """Put a message of the test's own making into a fresh channel, and receive it."""
    transport = FromAPeer()
    data = message if isinstance(message, bytes) else message.to_bytes()
    transport.send(Address(0, "activation"), data)
    return channel(name, transport).receive()


def legal(name: str = "none", context: TensorContext = CONTEXT) -> Message:
    transport = CountingTransport()
    channel(name, transport).send(tensor(), context)
    return Message.from_bytes(transport.sent[0][1])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_sender_and_receiver_share_no_state(name: str) -> None:
    pair = channel(name).quantizers
    assert pair.sender is not pair.receiver
    mine = {t.data_ptr() for t in pair.sender.state_dict().values() if t.numel()}
    theirs = {t.data_ptr() for t in pair.receiver.state_dict().values() if t.numel()}
    assert not mine & theirs


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_arrives_is_decoded_from_the_bytes_alone(name: str) -> None:
    """A receiver in a channel of its own, given the bytes, decodes the very same values."""
    transport, x = CountingTransport(), tensor()
    here = channel(name, transport)
    for step in range(3):
        here.send(x, replace(CONTEXT, step=step))
    elsewhere = CountingTransport()
    for address, data in transport.sent:
        elsewhere.send(address, data)
    there = channel(name, elsewhere)
    for step in range(3):
        received, copy = here.receive(), there.receive()
        assert torch.equal(received.value, copy.value)
        assert received.value.data_ptr() != x.data_ptr()
        assert (received.value.shape, received.value.dtype) == (x.shape, x.dtype)
        assert received.context == replace(CONTEXT, step=step)
        assert float((received.value - x).abs().max()) <= float(x.abs().max()) / 6


def test_lossless_means_the_same_bits() -> None:
    link = channel("none")
    x = torch.tensor([0.0, -0.0, 1e-40, 3.4e38, -1.5, 2**-149, 1 / 3, 7.0]).expand(SHAPE)
    link.send(x, CONTEXT)
    assert torch.equal(link.receive().value.view(torch.int32), x.contiguous().view(torch.int32))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_before_anything_is_sent(bad: float) -> None:
    transport, sizes = CountingTransport(), []
    link = channel("amaq", transport, sizes)
    x = tensor()
    x[1, 2, 3] = bad
    before = {k: v.clone() for k, v in link.quantizers.sender.state_dict().items()}
    with pytest.raises(DivergedError) as caught:
        link.send(x, replace(CONTEXT, step=4))
    assert caught.value.where == "link 0 activation step 4"
    assert caught.value.exit_code == 6
    assert transport.sent == []
    assert sizes == []
    after = link.quantizers.sender.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    link.send(tensor(), CONTEXT)  # and the numbering has not moved
    assert Message.from_bytes(transport.sent[0][1]).sequence == 0
    assert link.receive().context == CONTEXT


def test_the_surrogate_of_a_sent_tensor_is_the_tensor() -> None:
    link = channel("none")
    x = tensor().requires_grad_()
    link.send(x, CONTEXT)
    assert link.surrogate(x, CONTEXT) is x
    assert not link.receive().value.requires_grad


@pytest.mark.parametrize(
    "message, words",
    [
        (legal("fixed"), "quantizer 'fixed' where 'none'"),
        (legal(context=CONTEXT).with_context(replace(CONTEXT, link=3)), "link 3 where 0"),
        (legal().with_context(replace(CONTEXT, role="gradient")), "role 'gradient'"),
        (replace(legal(), sequence=7), "sequence number 7 where 0"),
    ],
)
def test_a_message_that_is_not_due(message: Message, words: str) -> None:
    with pytest.raises(WireError, match=words) as caught:
        arrive(message)
    assert caught.value.where == "link 0 activation"
    assert caught.value.exit_code == 10


def test_a_repeated_and_a_lost_message_are_noticed() -> None:
    transport = CountingTransport()
    link = channel("none", transport)
    for step in range(3):
        link.send(tensor(step), replace(CONTEXT, step=step))
    first, second, third = (data for _, data in transport.sent)
    for order, expected in (((first, first), "number 0 where 1"), ((first, third), "2 where 1")):
        replay = CountingTransport()
        for data in order:
            replay.send(Address(0, "activation"), data)
        receiver = channel("none", replay)
        receiver.receive()
        with pytest.raises(WireError, match=expected):
            receiver.receive()
    assert second  # sent, and lost above


def test_a_channel_that_met_a_violation_refuses_further_use_until_it_is_restarted() -> None:
    sent = CountingTransport()
    link = channel("none", sent)
    for step in range(2):
        link.send(tensor(step), replace(CONTEXT, step=step))
    (_, first), (_, second) = sent.sent
    replay = CountingTransport()
    for data in (first, first, second, second):
        replay.send(Address(0, "activation"), data)
    receiver = channel("none", replay)
    receiver.receive()
    with pytest.raises(WireError, match="number 0 where 1"):
        receiver.receive()
    for use in (receiver.receive, lambda: receiver.send(tensor(), CONTEXT)):
        with pytest.raises(WireError, match="a message before was not legal"):
            use()
    assert len(replay.sent) == 4  # the refused tensor was not sent
    receiver.restart(0, 1)
    assert torch.equal(receiver.receive().value, tensor(1))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lengths": (5,)}, "lengths"),
        ({"lengths": (5, 6)}, "lengths"),
        ({"lengths": (5, 0)}, "lengths"),
        ({"sample_ids": (3,)}, "1 sample ids for 2 rows"),
        ({"sample_ids": ()}, "0 sample ids for 2 rows"),
        ({"sample_ids": (3, 4)}, "sample 4 where there are 4"),
        ({"first_position": 4}, "9 positions where at most 8"),
        ({"first_position": 2**31 - 1}, "positions where at most 8"),
    ],
)
def test_a_context_that_no_mask_can_be_made_of(change: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words):
        arrive(legal().with_context(replace(CONTEXT, **change)))


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 5, 9), (80,), (10, 8), (1, 2, 5, 8)])
def test_a_tensor_of_another_shape(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    quantized = pair_of("none", {}, channel("none").quantizers.sender.site).sender.quantize(
        x, CONTEXT
    )
    with pytest.raises(WireError, match="shape"):
        arrive(replace(legal(), quantized=quantized))


@settings(deadline=None)
@given(st.sampled_from(sorted(QUANTIZERS)), st.data())
def test_damaged_bytes_are_a_wire_error(name: str, data: st.DataObject) -> None:
    good = bytearray(legal(name).to_bytes())
    position = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        good[position] ^= 1 << data.draw(st.integers(0, 7))
        bad = bytes(good)
    else:
        bad = bytes(good[:position])
    with pytest.raises(WireError):
        arrive(bad, name)


def with_true_checksum(data: bytes) -> bytes:
    """What a liar sends: damaged on purpose, with a checksum that fits."""
    checksum = zlib.crc32(data[16:], zlib.crc32(data[:12]))
    return data[:12] + struct.pack("<I", checksum) + data[16:]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(QUANTIZERS)), st.data())
def test_lies_with_a_true_checksum_are_a_wire_error_or_legal(
    name: str, data: st.DataObject
) -> None:
    lie = bytearray(legal(name).to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        lie[data.draw(st.integers(16, len(lie) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = arrive(with_true_checksum(bytes(lie)), name).value
    except WireError:
        return
    assert value.shape[2] == SHAPE[2]
    assert bool(value.isfinite().all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_decodes_to_something_not_finite_is_refused(bad: float) -> None:
    x = tensor()
    x[1, 2, 3] = bad
    quantized = channel("none").quantizers.sender.quantize(x, CONTEXT)
    with pytest.raises(WireError, match="'none' decodes to NaN or infinity") as caught:
        arrive(replace(legal(), quantized=quantized))
    assert caught.value.where == "link 0 activation"
    fine = legal("fixed")
    side = {"range": torch.full_like(fine.quantized.side["range"], bad)}
    with pytest.raises(WireError, match="side tensor 'range' holds NaN or infinity"):
        arrive(replace(fine, quantized=replace(fine.quantized, side=side)), "fixed")


SIDES = st.dictionaries(
    st.sampled_from(["range", "mean", "visits", "full", "token_range", "zero_point", "other"]),
    st.tuples(
        st.sampled_from([torch.float32, torch.bfloat16, torch.int32, torch.uint8]),
        st.lists(st.integers(0, 9), max_size=3),
        st.sampled_from([0.0, 1.0, -3.0, float("nan"), float("inf"), 3e38]),
    ),
    max_size=3,
)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(QUANTIZERS)),
    SIDES,
    st.one_of(st.just(10), st.integers(0, 12)),
    st.lists(st.sampled_from([0, 1, 2, 4, 8, 16]), min_size=5, max_size=9),
    st.sampled_from(["channel", "position", "tensor"]),
    st.booleans(),
    st.booleans(),
)
def test_lying_side_tensors_and_codes_are_a_wire_error_or_legal(
    name: str,
    sides: dict[str, Any],
    num_rows: int,
    widths: list[int],
    axis: Any,
    has_codes: bool,
    training: bool,
) -> None:
    side = {}
    for key, (dtype, shape, value) in sides.items():
        integral = not dtype.is_floating_point
        filling = 1 if integral and value not in (0.0, 1.0) else value
        side[key] = torch.full(shape, filling, dtype=dtype)
    codes = None
    if has_codes:
        allocation = BitAllocation(torch.tensor(widths, dtype=torch.uint8), axis)
        length = -(-num_rows // 8) * sum(widths)
        codes = PackedCodes(torch.zeros(length, dtype=torch.uint8), num_rows, allocation)
    quantized = QuantizedTensor(SHAPE, torch.float32, codes, side)
    context = replace(CONTEXT, training=training)
    try:
        value = arrive(Message(name, context, quantized), name).value
    except WireError:
        return
    assert value.shape == SHAPE
    assert value.dtype == torch.float32
    assert bool(value.isfinite().all())


def test_a_delta_of_a_sample_that_never_came_is_a_wire_error_with_a_way_out() -> None:
    transport = CountingTransport()
    link = channel("aq-sgd", transport)
    link.send(tensor(), CONTEXT)
    link.send(tensor(1), replace(CONTEXT, step=1))
    late = replace(Message.from_bytes(transport.sent[1][1]), sequence=0)
    with pytest.raises(WireError, match="sent 1 times but received 0 times") as caught:
        arrive(late, "aq-sgd")
    assert caught.value.hint == "let the sender forget the sample, so that it comes in full"


def test_nothing_sent_is_a_transport_error() -> None:
    with pytest.raises(TransportError) as caught:
        channel("none").receive()
    assert caught.value.where == "link 0 activation"


def test_the_bits_of_the_last_message_are_those_of_its_bytes() -> None:
    transport = CountingTransport()
    link = channel("fixed", transport)
    link.send(tensor(), replace(CONTEXT, training=False))
    assert link.last_bits is None
    link.send(tensor(), CONTEXT)
    assert link.last_bits == 8 * len(transport.sent[-1][1]) / tensor().numel()


class OtherShape(CountingTransport):
    """Puts a tensor of other rows or tokens, and a context that fits it, in place of each."""

    def __init__(self, rows: int, tokens: int) -> None:
        super().__init__()
        self.shape = (rows, tokens, 32)

    def receive(self, address: Address) -> bytes:
        message = Message.from_bytes(super().receive(address))
        cls = registry.load(registry.QUANTIZERS, "none")
        other = cls(cls.Config(), Site(0, "activation", 32, 16, 0, 0)).quantize(
            torch.zeros(self.shape), message.context
        )
        context = message.context
        assert context.lengths
        return replace(message, quantized=other, context=context).to_bytes()


@pytest.mark.parametrize("tokens", [15, 17])
def test_an_activation_of_other_tokens_than_the_batch_has(llama: ModelSource, tokens: int) -> None:
    engine = engine_of(llama, [2], transport=OtherShape(4, tokens))
    with pytest.raises(WireError, match=f"a tensor of shape \\(4, {tokens}, 32\\)|positions"):
        engine.train_step(collate(random_task().train[:4], 0, 16), 0)


def test_last_allocation_is_of_training_and_of_codes() -> None:
    link = channel("fixed")
    assert link.last_allocation is None
    link.send(tensor(), replace(CONTEXT, training=False))
    assert link.last_allocation is None
    link.send(tensor(), CONTEXT)
    assert link.last_allocation is not None
    assert link.last_allocation.widths_C.tolist() == [4] * 8
    memory = channel("aq-sgd")
    memory.send(tensor(), CONTEXT)
    assert memory.last_allocation is None  # a first visit has no codes
    memory.send(tensor(), CONTEXT)
    assert memory.last_allocation is not None


# Through whole engines.


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return save_random_model(CONFIGS["llama"], tmp_path_factory.mktemp("model") / "llama")


def quantized_engine(llama: ModelSource, transport: CountingTransport, **more: Any) -> Engine:
    pairs = (("amaq", {"target_bits": 3.0}), ("group", {"bits": 6, "group_size": 8}))
    return engine_of(llama, [1, 3], transport=transport, quantizers=pairs, **more)


def test_padding_travels_as_zeros(llama: ModelSource) -> None:
    task = random_task()
    engine = engine_of(llama, [1, 3], transport=CountingTransport(), micro_batches=2)
    seen: list[Message] = []
    engine.listeners.append(seen.append)
    engine.train_step(collate(task.train[:4], 0, 16), 0)
    Evaluator(engine, task, IdTokenizer(0, 9), 0, batch_size=3, max_examples=None).generate(
        task.validation[:3], 1
    )
    decoder = engine.stages[0].outgoing
    assert decoder is not None
    roles = set()
    num_padded = 0
    for message in seen:
        context = message.context
        values = decoder.activations.quantizers.receiver.dequantize(message.quantized, context)
        num_positions = context.first_position + values.shape[1]
        for row, length in zip(values, context.lengths, strict=True):
            missing = num_positions - length
            if context.left_padded:
                padding, tokens = row[: max(missing - context.first_position, 0)], row[missing:]
            else:
                padding, tokens = row[length:], row[:length]
            assert not bool(padding.any())
            num_padded += len(padding)
            if context.role == "activation":
                assert bool(tokens.any(-1).all())
        roles.add((context.role, context.left_padded))
    assert num_padded > 0
    assert roles == {("activation", False), ("gradient", False), ("activation", True)}


def test_clean_is_lossless_and_quantized_is_not(llama: ModelSource) -> None:
    quantized = quantized_engine(llama, CountingTransport())
    lossless = engine_of(llama, [1, 3], transport=CountingTransport())
    batch = collate(random_task().train[:4], 0, 16)
    arguments: dict[str, Any] = {"step": 0, "lengths": batch.lengths}
    expected = logits_of(lossless, batch.input_ids_BT, **arguments)
    with quantized.boundary("clean"):
        assert torch.equal(logits_of(quantized, batch.input_ids_BT, **arguments), expected)
    noisy = logits_of(quantized, batch.input_ids_BT, **arguments)
    assert not torch.equal(noisy, expected)
    with pytest.raises(RuntimeError, match="on purpose"), quantized.boundary("clean"):
        raise RuntimeError("on purpose")
    assert torch.equal(logits_of(quantized, batch.input_ids_BT, **arguments), noisy)


def test_boundaries_nest(llama: ModelSource) -> None:
    engine = quantized_engine(llama, CountingTransport())
    link = engine.stages[0].outgoing
    assert link is not None
    with engine.boundary("clean"):
        with engine.boundary("quantized"):
            assert not link.activations.is_clean
        assert link.activations.is_clean
        assert link.gradients.is_clean
    assert not link.activations.is_clean


def test_traffic_is_what_the_transport_carried(llama: ModelSource) -> None:
    transport, task = CountingTransport(), random_task()
    engine = quantized_engine(llama, transport, micro_batches=2)
    evaluator = Evaluator(engine, task, IdTokenizer(0, 9), 0, batch_size=2, max_examples=3)
    steps = Traffic()
    trained, evaluated = 0, 0
    for step in range(3):
        before = sum(len(data) for _, data in transport.sent)
        result = engine.train_step(collate(task.train[:4], 0, 16), step)
        steps.include(result.traffic)
        between = sum(len(data) for _, data in transport.sent)
        assert result.traffic.total_bytes == between - before
        evaluator.evaluate(step, "quantized")
        evaluator.evaluate(step, "clean")
        trained += between - before
        evaluated += sum(len(data) for _, data in transport.sent) - between
    assert engine.traffic.total_bytes == trained
    assert engine.evaluation_traffic.total_bytes == evaluated
    assert engine.traffic == steps
    both = Traffic()
    both.include(engine.traffic)
    both.include(engine.evaluation_traffic)
    assert {a: c.total_bytes for a, c in both} == dict(transport.bytes_by_address())
    assert sum(c.messages for _, c in both) == len(transport.sent)
    values = sum(Message.from_bytes(d).quantized.num_values for _, d in transport.sent)
    assert both.values == values
    assert {(a.link, a.role) for a, _ in engine.traffic} == {
        (link, role) for link in (0, 1) for role in ("activation", "gradient")
    }


class OtherTurn(CountingTransport):
    """Changes the messages of one role on their way, as a peer that lost its place would."""

    def __init__(self, role: str, **changes: Any) -> None:
        super().__init__()
        self.role = role
        self.changes = changes

    def receive(self, address: Address) -> bytes:
        message = Message.from_bytes(super().receive(address))
        if address.role == self.role:
            message = message.with_context(replace(message.context, **self.changes))
        return message.to_bytes()


@pytest.mark.parametrize("role", ["activation", "gradient"])
@pytest.mark.parametrize("change", [{"step": 3}, {"micro_batch": 1}, {"training": False}])
def test_a_message_of_another_turn(llama: ModelSource, role: str, change: dict[str, Any]) -> None:
    engine = engine_of(llama, [2], transport=OtherTurn(role, **change))
    with pytest.raises(WireError, match=f"with {next(iter(change))} ") as caught:
        engine.train_step(collate(random_task().train[:4], 0, 16), 0)
    assert caught.value.where == f"link 0 {role}"


class OtherGradient(CountingTransport):
    """Puts another gradient, well made, in the place of each that comes."""

    def __init__(self, gradient: Tensor) -> None:
        super().__init__()
        self.gradient = gradient

    def receive(self, address: Address) -> bytes:
        message = Message.from_bytes(super().receive(address))
        if address.role == "activation":
            return message.to_bytes()
        cls = registry.load(registry.QUANTIZERS, "none")
        site = Site(0, "gradient", 32, 16, 0, 0)
        other = cls(cls.Config(), site).quantize(self.gradient, message.context)
        context = replace(message.context, lengths=(), sample_ids=())
        return replace(message, quantized=other, context=context).to_bytes()


@pytest.mark.parametrize(
    "gradient, words",
    [
        (torch.zeros((1, 16, 32)), r"float32 and shape \(1, 16, 32\)"),
        (torch.zeros((4, 15, 32)), r"float32 and shape \(4, 15, 32\)"),
        (torch.zeros((4, 17, 32)), r"float32 and shape \(4, 17, 32\)"),
        (torch.zeros((4, 16, 32), dtype=torch.bfloat16), r"bfloat16 and shape \(4, 16, 32\)"),
        (torch.zeros((4, 16, 32), dtype=torch.float16), r"torch.float16 and shape \(4, 16, 32\)"),
    ],
)
def test_a_gradient_that_does_not_fit_its_activation(
    llama: ModelSource, gradient: Tensor, words: str
) -> None:
    engine = engine_of(llama, [2], transport=OtherGradient(gradient))
    with pytest.raises(WireError, match=f"a gradient of .*{words} for an") as caught:
        engine.train_step(collate(random_task().train[:4], 0, 16), 0)
    assert caught.value.where == "link 0 gradient"
