from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amaqctl.errors import InputError
from amaqctl.tasks.batch import Batch, batch_at, collate, epoch_order, split_batch
from amaqctl.tasks.task import Example

PAD = 9


def example(sample_id: int, length: int = 1) -> Example:
    ids = tuple(range(1, length + 1))
    return Example(sample_id=sample_id, input_ids=ids, labels=(-100, *ids[1:]))


def examples(count: int) -> list[Example]:
    return [example(index) for index in range(count)]


def test_collate_by_hand() -> None:
    batch = collate([example(7, 3), example(5, 1)], PAD, multiple_of=2)
    assert batch.input_ids_BT.tolist() == [[1, 2, 3, PAD], [1, PAD, PAD, PAD]]
    assert batch.labels_BT.tolist() == [[-100, 2, 3, -100], [-100] * 4]
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert {t.dtype for t in (batch.input_ids_BT, batch.labels_BT, batch.attention_mask_BT)} == {
        torch.int64
    }
    assert (batch.lengths, batch.sample_ids) == ((3, 1), (7, 5))
    assert batch.num_loss_tokens == 2


def test_the_first_label_never_counts() -> None:
    whole = Example(sample_id=0, input_ids=(4, 5, 6), labels=(4, 5, 6))
    batch = collate([whole], PAD)
    assert batch.num_loss_tokens == whole.num_loss_tokens == 2


@settings(deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(1, 40))
def test_padding_is_less_than_one_multiple(lengths: list[int], multiple_of: int) -> None:
    batch = collate([example(i, n) for i, n in enumerate(lengths)], PAD, multiple_of)
    num_positions = batch.input_ids_BT.shape[1]
    assert num_positions % multiple_of == 0
    assert 0 <= num_positions - max(lengths) < multiple_of
    assert batch.attention_mask_BT.sum(dim=1).tolist() == lengths
    assert batch.num_loss_tokens == sum(n - 1 for n in lengths)


@settings(deadline=None)
@given(st.data())
def test_micro_batches_hold_the_batch_in_order(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 9))
    num_parts = data.draw(st.integers(1, size))
    batch = collate([example(i, i + 1) for i in range(size)], PAD)
    parts = split_batch(batch, num_parts)
    sizes = [len(part.lengths) for part in parts]
    assert len(parts) == num_parts
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert torch.equal(torch.cat([part.input_ids_BT for part in parts]), batch.input_ids_BT)
    assert torch.equal(torch.cat([part.labels_BT for part in parts]), batch.labels_BT)
    assert sum((part.sample_ids for part in parts), ()) == batch.sample_ids
    assert sum((part.lengths for part in parts), ()) == batch.lengths
    assert sum(part.num_loss_tokens for part in parts) == batch.num_loss_tokens


@pytest.mark.parametrize("num_parts", [0, 4])
def test_micro_batches_that_cannot_be_cut(num_parts: int) -> None:
    with pytest.raises(InputError) as caught:
        split_batch(collate(examples(3), PAD), num_parts)
    assert str(caught.value) == (
        f"train.micro_batches: a batch of 3 cannot be cut into {num_parts} micro-batches"
    )
    assert caught.value.hint == "set train.micro_batches between 1 and 3"
    assert caught.value.error_id == "INPUT-BATCH"


def test_epoch_orders_never_change() -> None:
    assert epoch_order(8, seed=17, epoch=0) == EXPECTED_ORDERS[0]
    assert epoch_order(8, seed=17, epoch=1) == EXPECTED_ORDERS[1]
    assert epoch_order(8, seed=18, epoch=0) == EXPECTED_ORDERS[2]


EXPECTED_ORDERS = [[6, 4, 3, 2, 5, 0, 7, 1], [5, 0, 6, 4, 7, 2, 1, 3], [2, 6, 1, 5, 4, 0, 7, 3]]


def test_a_returned_order_can_be_changed_without_harm() -> None:
    first = epoch_order(5, 1, 0)
    first.reverse()
    assert epoch_order(5, 1, 0) == first[::-1]


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_order_is_a_permutation(num_examples: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(num_examples, seed, epoch)) == list(range(num_examples))


def ids_at(count: int, step: int, batch_size: int, seed: int = 3) -> tuple[int, ...]:
    return batch_at(examples(count), step, batch_size, seed, PAD).sample_ids


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 4), st.integers(0, 99))
def test_every_sample_once_an_epoch(batch_size: int, batches: int, rest: int, seed: int) -> None:
    count = batch_size * batches + min(rest, batch_size - 1)
    for epoch in range(3):
        steps = range(epoch * batches, (epoch + 1) * batches)
        seen = [i for step in steps for i in ids_at(count, step, batch_size, seed)]
        assert len(seen) == len(set(seen)) == batch_size * batches
        assert seen == epoch_order(count, seed, epoch)[: len(seen)]


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    forward = [ids_at(10, step, 3) for step in range(12)]
    backward = [ids_at(10, step, 3) for step in reversed(range(12))]
    assert forward == backward[::-1]
    assert len(set(forward)) > 9


def test_batch_at_gives_the_tensors_of_its_examples() -> None:
    data = [example(i, i + 1) for i in range(4)]
    batch = batch_at(data, 0, 4, seed=3, pad_token_id=PAD)
    expected = collate([data[i] for i in epoch_order(4, 3, 0)], PAD)
    assert isinstance(batch, Batch)
    assert torch.equal(batch.input_ids_BT, expected.input_ids_BT)
    assert torch.equal(batch.labels_BT, expected.labels_BT)


def test_too_few_examples_for_a_batch() -> None:
    with pytest.raises(InputError) as caught:
        ids_at(3, 0, 4)
    assert str(caught.value) == ("train.batch_size: 3 train examples do not fill one batch of 4")
    assert caught.value.hint == "set train.batch_size to 3 or less, or give more data"
    assert caught.value.exit_code == 4
