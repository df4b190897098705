"""The order of forwards and backwards: on paper, and as properties of every size."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from amaqctl.engine.schedule import Action, Turns

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 9))


def one_forward_one_backward(num_stages: int, num_micro_batches: int) -> list[Action]:
    """The order where all stages are in one process."""
    turns = Turns(range(num_stages), num_stages, num_micro_batches)
    order: list[Action] = []
    while not turns.are_over:
        ready = turns.ready(lambda _: False)
        assert ready, "the schedule is stuck"
        for action in ready:
            turns.done(action)
        order += ready
    return order


def written(order: list[Action], stage: int) -> str:
    """The order of one stage: F0 is the forward of micro-batch 0."""
    return " ".join(f"{a.verb[0].upper()}{a.micro_batch}" for a in order if a.stage == stage)


def test_one_stage() -> None:
    assert written(one_forward_one_backward(1, 3), 0) == "F0 B0 F1 B1 F2 B2"


def test_two_stages() -> None:
    order = one_forward_one_backward(2, 3)
    assert written(order, 0) == "F0 F1 B0 F2 B1 B2"
    assert written(order, 1) == "F0 B0 F1 B1 F2 B2"


def test_three_stages_with_more_and_with_fewer_micro_batches() -> None:
    order = one_forward_one_backward(3, 4)
    assert written(order, 0) == "F0 F1 F2 B0 F3 B1 B2 B3"
    assert written(order, 1) == "F0 F1 B0 F2 B1 F3 B2 B3"
    assert written(order, 2) == "F0 B0 F1 B1 F2 B2 F3 B3"
    few = one_forward_one_backward(3, 1)
    assert [written(few, s) for s in range(3)] == ["F0 B0"] * 3


def test_the_global_order_of_one_micro_batch() -> None:
    assert one_forward_one_backward(2, 1) == [
        Action("forward", 0, 0),
        Action("forward", 1, 0),
        Action("backward", 1, 0),
        Action("backward", 0, 0),
    ]


def needs(action: Action, num_stages: int) -> list[Action]:
    """What must be over before ``action`` can run."""
    found = []
    if action.verb == "forward" and action.stage > 0:
        found.append(Action("forward", action.stage - 1, action.micro_batch))
    if action.verb == "backward":
        found.append(Action("forward", action.stage, action.micro_batch))
        if action.stage < num_stages - 1:
            found.append(Action("backward", action.stage + 1, action.micro_batch))
    return found


@given(SIZES)
def test_every_action_once_and_after_what_it_needs(size: tuple[int, int]) -> None:
    num_stages, num_micro_batches = size
    order = one_forward_one_backward(num_stages, num_micro_batches)
    assert len(order) == len(set(order)) == 2 * num_stages * num_micro_batches
    place = {action: index for index, action in enumerate(order)}
    for action in order:
        assert all(place[need] < place[action] for need in needs(action, num_stages))


@given(SIZES)
def test_micro_batches_in_flight(size: tuple[int, int]) -> None:
    num_stages, num_micro_batches = size
    in_flight: Counter[int] = Counter()
    most: Counter[int] = Counter()
    for action in one_forward_one_backward(num_stages, num_micro_batches):
        in_flight[action.stage] += 1 if action.verb == "forward" else -1
        most[action.stage] = max(most[action.stage], in_flight[action.stage])
    for stage in range(num_stages):
        assert most[stage] == min(num_stages - stage, num_micro_batches)
    assert not any(in_flight.values())


@given(SIZES)
def test_messages_of_a_channel_leave_and_arrive_in_one_order(size: tuple[int, int]) -> None:
    """Sequence numbers need it: a channel is a queue."""
    order = one_forward_one_backward(*size)
    for verb in ("forward", "backward"):
        for stage in range(size[0]):
            numbers = [a.micro_batch for a in order if a.stage == stage and a.verb == verb]
            assert numbers == list(range(size[1]))


@given(SIZES, st.data())
def test_no_partition_over_processes_can_deadlock(
    size: tuple[int, int], data: st.DataObject
) -> None:
    """Each process runs its part of the order and waits in `receive`; sends do not block."""
    num_stages, num_micro_batches = size
    homes = data.draw(st.lists(st.integers(0, 3), min_size=num_stages, max_size=num_stages))
    order = one_forward_one_backward(num_stages, num_micro_batches)
    queues = {home: [a for a in order if homes[a.stage] == home] for home in set(homes)}
    done: set[Action] = set()
    while any(queues.values()):
        movable = [
            home
            for home, queue in sorted(queues.items())
            if queue and all(need in done for need in needs(queue[0], num_stages))
        ]
        assert movable, "every process waits for another"
        # Whichever process is fastest: any choice must do.
        done.add(queues[data.draw(st.sampled_from(movable))].pop(0))
