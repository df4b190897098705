"""`aq-sgd`: memories at both ends stay equal, are bounded, and survive gaps and restarts."""

from __future__ import annotations

import itertools
import os
import tempfile
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.errors import QuantizationError, ResourceError
from amaqctl.quantizer import Site, TensorContext
from amaqctl.quantizers.aq_sgd import AqSgdQuantizer
from amaqctl.wire import Message

NUM_SAMPLES, NUM_POSITIONS, NUM_CHANNELS = 6, 8, 5
CONTEXT = TensorContext("activation", link=1, step=0, total_steps=40)


def _build(role: str = "activation", num_samples: int = NUM_SAMPLES, **options: Any):
    site = Site(1, role, NUM_CHANNELS, NUM_POSITIONS, num_samples, 17)
    return AqSgdQuantizer(AqSgdQuantizer.Config(**options), site)


def _pair(**options: Any) -> tuple[AqSgdQuantizer, AqSgdQuantizer]:
    return _build(**options), _build(**options)


def _values(num_rows: int, seed: int, num_positions: int = NUM_POSITIONS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((num_rows, num_positions, NUM_CHANNELS), generator=generator)


def _send(
    pair: tuple[AqSgdQuantizer, AqSgdQuantizer], x: Tensor, ids: tuple[int, ...], step: int = 0
) -> tuple[Tensor, Message]:
    sender, receiver = pair
    context = replace(CONTEXT, sample_ids=ids, step=step)
    message = Message("aq-sgd", context, sender.quantize(x, context))
    read = Message.from_bytes(message.to_bytes())
    return receiver.dequantize(read.quantized, read.context), message


def _same_state(a: AqSgdQuantizer, b: AqSgdQuantizer) -> bool:
    state_a, state_b = a.state_dict(), b.state_dict()
    return list(state_a) == list(state_b) and all(
        torch.equal(state_a[key], state_b[key]) for key in state_a
    )


@pytest.mark.parametrize("memory_dtype", ["float16", "bfloat16"])
def test_first_visit_is_in_full_and_the_second_of_the_same_changes_nothing(memory_dtype):
    pair = _pair(memory_dtype=memory_dtype)
    x = _values(2, 0)
    decoded, message = _send(pair, x, (4, 0))
    assert torch.equal(decoded, x.to(getattr(torch, memory_dtype)).float())
    assert message.quantized.codes is None
    assert message.quantized.side["visits"].tolist() == [0, 0]
    again, message = _send(pair, decoded, (4, 0), 1)
    assert torch.equal(again, decoded)
    assert message.quantized.side["visits"].tolist() == [1, 1]
    assert float(message.quantized.side["range"].abs().max()) == 0.0
    assert int(message.quantized.codes.data.max()) == 0


def test_a_change_by_hand():
    pair = _pair(bits=4, scale="token", scale_dtype="float32")
    x = torch.zeros((1, 2, NUM_CHANNELS))
    _send(pair, x, (3,))
    x[0, 0] = torch.tensor([7.0, -3.0, 0.4, 0.6, 0.0])
    decoded, message = _send(pair, x, (3,), 1)
    assert message.quantized.side["range"].flatten().tolist() == [7.0, 0.0]
    assert message.quantized.codes.unpack().tolist() == [[7, -3, 0, 1, 0], [0] * 5]
    assert decoded[0].tolist() == [[7.0, -3.0, 0.0, 1.0, 0.0], [0.0] * 5]
    # What was lost is sent at the next visit.
    decoded, message = _send(pair, x, (3,), 2)
    assert float((decoded - x).abs().max()) <= 0.4 / 7 / 2 + 1e-3


@pytest.mark.parametrize("bits", [2, 4])
def test_error_shrinks_while_the_activation_stands_still(bits):
    pair = _pair(bits=bits)
    _send(pair, _values(2, 0), (0, 1))
    x = _values(2, 1) * 3  # one jump, then it stands still
    errors = [float((_send(pair, x, (0, 1), step)[0] - x).abs().max()) for step in range(1, 7)]
    # Nearest rounding leaves at most half a step of the largest change, until float16 ends it.
    shrink = 0.5 / (2 ** (bits - 1) - 1) * 1.02
    for before, after in itertools.pairwise(errors):
        assert after <= max(before * shrink, 2**-8)
    assert errors[-1] < 0.2


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("scale", ["token", "channel"])
def test_both_memories_stay_equal_to_the_bit_with_mixed_visits(rounding, scale):
    pair = _pair(bits=3, rounding=rounding, scale=scale)
    generator = torch.Generator().manual_seed(5)
    mixed = 0
    for step in range(25):
        ids = tuple(torch.randperm(NUM_SAMPLES, generator=generator)[:3].tolist())
        decoded, message = _send(pair, _values(3, step), ids, step)
        visits = message.quantized.side["visits"].tolist()
        mixed += 0 in visits and any(visits)
        if "full" in message.quantized.side:
            assert len(message.quantized.side["full"]) == visits.count(0)
        for row, sample in enumerate(ids):
            for end in pair:
                assert torch.equal(end.memory.recall(sample, NUM_POSITIONS), decoded[row])
        assert _same_state(*pair)
    assert mixed
    assert int(pair[0].memory.visits_N.sum()) == 75


def test_a_gap_is_refused_by_name_and_forgetting_heals_it():
    pair = sender, receiver = _pair()
    _send(pair, _values(2, 0), (1, 2))
    context = replace(CONTEXT, sample_ids=(1, 2), step=1)
    sender.quantize(_values(2, 1), context)  # lost on the way
    before = {key: value.clone() for key, value in receiver.state_dict().items()}
    with pytest.raises(
        QuantizationError, match="sample 1 was sent 2 times but received 1"
    ) as caught:
        _send(pair, _values(2, 2), (1, 2), 2)
    assert caught.value.where == "link 1 step 2"
    assert "forget" in caught.value.hint
    assert all(torch.equal(before[k], v) for k, v in receiver.state_dict().items())
    sender.forget((1, 2))
    decoded, message = _send(pair, _values(2, 3), (1, 2), 3)
    assert message.quantized.side["visits"].tolist() == [0, 0]
    assert torch.equal(decoded, _values(2, 3).half().float())
    _send(pair, _values(2, 4), (1, 2), 4)
    assert _same_state(*pair)


def test_a_change_that_comes_twice_is_refused():
    """The receiver has then seen the sample more often than the sender says."""
    _, receiver = pair = _pair()
    _send(pair, _values(1, 0), (1,))
    _, message = _send(pair, _values(1, 1), (1,), 1)
    before = {key: value.clone() for key, value in receiver.state_dict().items()}
    with pytest.raises(QuantizationError, match="sample 1 was sent 1 times but received 2 times"):
        receiver.dequantize(message.quantized, message.context)
    assert all(torch.equal(before[k], v) for k, v in receiver.state_dict().items())


def test_a_receiver_that_never_saw_the_sample_refuses():
    sender, _ = pair = _pair()
    _send(pair, _values(1, 0), (1,))
    with pytest.raises(QuantizationError, match="sent 1 times but received 0 times"):
        _send((sender, _build()), _values(1, 1), (1,))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((0, NUM_SAMPLES), f"sample id {NUM_SAMPLES} is outside 0 to {NUM_SAMPLES - 1}"),
        ((-1, 0), "sample id -1 is outside"),
        ((3, 3), "a different sample id for each of the 2 rows"),
        ((3,), "a different sample id for each of the 2 rows"),
        ((), "a different sample id for each of the 2 rows"),
        ((1, 2, 3), "a different sample id for each of the 2 rows"),
        ((1, 1, 2), "a different sample id for each of the 2 rows"),
    ],
)
def test_wrong_sample_ids_are_refused_at_both_ends_and_change_nothing(ids, message):
    sender, receiver = _pair()
    context = replace(CONTEXT, sample_ids=ids)
    with pytest.raises(QuantizationError, match=message):
        sender.quantize(_values(2, 0), context)
    legal = sender.quantize(_values(2, 0), replace(CONTEXT, sample_ids=(0, 1)))
    with pytest.raises(QuantizationError, match=message):
        receiver.dequantize(legal, context)
    assert int(receiver.memory.visits_N.sum()) == 0


def test_a_tensor_without_a_batch_dimension_is_refused_in_training():
    with pytest.raises(QuantizationError, match=r"\(batch, tokens, channels\)"):
        _build().quantize(_values(1, 0)[0], replace(CONTEXT, sample_ids=tuple(range(8))))


def test_bounded_memory_is_refused_with_its_figures():
    site = Site(0, "activation", 1024, 512, 4096, 17)
    with pytest.raises(ResourceError, match=r"4096 MiB an end \(4096 samples x 512") as caught:
        AqSgdQuantizer(AqSgdQuantizer.Config(memory_limit_mib=4095), site)
    assert "memory_limit_mib" in caught.value.hint
    exact = AqSgdQuantizer(AqSgdQuantizer.Config(memory_limit_mib=4096), site)
    assert exact.memory.size_bytes == 4096 * 2**20
    # Gradients are sent directly and need none.
    AqSgdQuantizer(AqSgdQuantizer.Config(memory_limit_mib=1), replace(site, role="gradient"))


def test_evaluation_and_gradients_are_direct_and_touch_no_memory():
    pair = _pair(bits=8)
    _send(pair, _values(2, 0), (0, 1))
    x = _values(2, 1)
    before = {key: value.clone() for key, value in pair[0].state_dict().items()}
    contexts = [
        replace(CONTEXT, sample_ids=(0, 1), training=False),
        replace(CONTEXT, training=False),
    ]
    for context in contexts:
        quantized = pair[0].quantize(x, context)
        assert sorted(quantized.side) == ["range"]
        decoded = pair[1].dequantize(quantized, context)
        assert float((decoded - x).abs().max()) <= float(x.abs().max()) / 127 / 2 * 1.01
    assert all(torch.equal(before[k], v) for end in pair for k, v in end.state_dict().items())
    context = replace(CONTEXT, role="gradient", sample_ids=(0, 1))
    sender, receiver = (_build("gradient", bits=8) for _ in range(2))
    direct = sender.quantize(x, context)
    assert torch.equal(direct.codes.data, quantized.codes.data)
    assert torch.equal(receiver.dequantize(direct, context), decoded)
    assert sender.memory.size_bytes == 0


def test_other_lengths_at_other_visits():
    pair = _pair(bits=8, scale_dtype="float32")
    lengths = [4, 8, 2, 6, 8]
    for step, length in enumerate(lengths):
        x = _values(2, step, num_positions=length)
        x[1, length // 2 :] = 0.0  # padding
        decoded, _ = _send(pair, x, (0, 5), step)
        assert decoded.shape == x.shape
        assert float((decoded - x).abs().max()) < 0.05
        assert _same_state(*pair)
    with pytest.raises(QuantizationError, match="9 tokens do not fit a sample memory of 8"):
        _send(pair, _values(1, 0, num_positions=9), (1,))


def test_overflow_of_the_memory_is_named_and_bfloat16_holds_it():
    x = _values(2, 0)
    x[1, 0, 0] = 1e5
    with pytest.raises(QuantizationError, match="sample 3 overflows the memory") as caught:
        _send(_pair(), x, (2, 3))
    assert "bfloat16" in caught.value.hint
    decoded, _ = _send(_pair(memory_dtype="bfloat16"), x, (2, 3))
    assert float(decoded[1, 0, 0]) == float(torch.tensor(1e5).bfloat16())


def test_state_round_trips_after_visits_and_over_old_contents():
    pair = _pair(bits=3)
    for step, ids in enumerate([(0, 4), (4, 5), (0, 5), (4, 0)]):
        _send(pair, _values(2, step), ids, step)
    state = {key: value.clone() for key, value in pair[0].state_dict().items()}
    assert state["memory._extra_state"].shape == (3, NUM_POSITIONS, NUM_CHANNELS)
    assert state["memory._extra_state"].dtype == torch.float16
    resumed = _pair(bits=3)
    _send(resumed, _values(2, 99), (1, 4))  # to be overwritten
    for end in resumed:
        end.load_state_dict(state)
    for step, ids in enumerate([(5, 1), (0, 4), (1, 2)], start=4):
        x = _values(2, step)
        whole, message = _send(pair, x, ids, step)
        again, message_again = _send(resumed, x, ids, step)
        assert message.to_bytes() == message_again.to_bytes()
        assert torch.equal(whole, again)
    assert _same_state(pair[1], resumed[1])


def test_state_of_other_sizes_is_refused():
    pair = _pair()
    _send(pair, _values(1, 0), (1,))
    state = dict(pair[0].state_dict())
    state["memory._extra_state"] = state["memory._extra_state"][:, :4]
    with pytest.raises(QuantizationError, match="does not fit"):
        _build().load_state_dict(state)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pair = _pair()
    for step in range(3):
        _send(pair, _values(2, step), (0, 1), step)
        assert os.listdir(tmp_path) == []


def test_an_empty_batch_goes_through():
    pair = _pair()
    decoded, _ = _send(pair, torch.zeros((0, 4, NUM_CHANNELS)), ())
    assert decoded.shape == (0, 4, NUM_CHANNELS)


def test_a_message_with_the_wrong_number_of_changes_is_no_silent_success():
    pair = sender, receiver = _pair()
    _send(pair, _values(2, 0), (0, 1))
    context = replace(CONTEXT, sample_ids=(0, 1), step=1)
    quantized = sender.quantize(_values(2, 1), context)
    too_few = PackedCodes.pack(
        torch.zeros((NUM_POSITIONS, NUM_CHANNELS), dtype=torch.int8),
        BitAllocation.uniform(4, NUM_CHANNELS),
    )
    before = {key: value.clone() for key, value in receiver.state_dict().items()}
    with pytest.raises(QuantizationError, match="changes"):
        receiver.dequantize(replace(quantized, codes=too_few), context)
    assert all(torch.equal(before[k], v) for k, v in receiver.state_dict().items())
