"""Clients of one server meet: sums in one order, whoever comes first, and nobody waits for ever."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest
import torch

from amaqctl.engine.fellows import SharedState
from amaqctl.errors import AmaqError, TransportError, WireError
from amaqctl.party.gathering import Gathering
from amaqctl.party.turns import Turns
from amaqctl.party.turnstile import Turnstile
from amaqctl.party.weights import max_weights_bytes, weights_from_bytes, weights_to_bytes

VALUES = {"a": 0.1, "b": 1e8, "c": -1e8}  # a sum in another order is another number
NAMES = tuple(VALUES)
NO_STATE = SharedState({}, {})


class Told(list[tuple[int, tuple[str, ...], str]]):
    def __call__(self, step: int, present: Any, why: str) -> None:
        self.append((step, tuple(present), why))


def gathering(wait_seconds: float = 30.0, quorum: int = 3) -> tuple[Gathering, Told]:
    told = Told()
    return Gathering(NAMES, quorum, wait_seconds, 5, told), told


def nothing(_: AmaqError) -> None: ...


def run(*works: Any) -> list[Any]:
    """Results or errors of functions that run at the same time, the first one begun first."""
    found: list[Any] = [None] * len(works)

    def one(number: int, work: Any) -> None:
        try:
            found[number] = work()
        except AmaqError as error:
            found[number] = error

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return found


def arrived(made: Gathering, names: Any = NAMES, saved: Any = ()) -> None:
    steps = dict(zip(names, saved, strict=False))
    run(*(lambda n=n: made.arrive(n, steps.get(n, ()), nothing) for n in names))


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)))
def test_the_mean_is_taken_in_the_order_of_the_clients(order: tuple[str, ...]) -> None:
    made, _ = gathering()
    arrived(made, order)
    means = run(
        *(lambda n=n: made.mean_gradients(n, 0, {0: torch.tensor([VALUES[n]])}) for n in order)
    )
    total = torch.tensor([0.1]) + torch.tensor([1e8]) + torch.tensor([-1e8])
    assert total.item() == 0.0  # and 0.1 in other orders
    assert [mean[0].tolist() for mean in means] == [(total / 3).tolist()] * 3


def test_a_weight_that_one_has_no_gradient_of_counts_as_zero_there() -> None:
    made, _ = gathering()
    arrived(made)
    given = {"a": {0: torch.tensor([3.0])}, "b": {}, "c": {0: torch.tensor([6.0])}}
    for mean in run(*(lambda n=n: made.mean_gradients(n, 0, given[n]) for n in NAMES)):
        assert {place: value.tolist() for place, value in mean.items()} == {0: [3.0]}
    assert given["a"][0].tolist() == [3.0]  # what was brought is as it was


def test_all_go_on_from_the_steps_that_all_have() -> None:
    made, told = gathering()
    saved = {"a": (2, 4, 6), "b": (2, 4), "c": (2, 4, 8)}
    found = run(*(lambda n=n: made.arrive(n, saved[n], nothing) for n in NAMES))
    assert found == [(2, 4)] * 3
    assert told == [(4, NAMES, "the run begins")]


def test_who_lets_the_others_wait_is_left_out_and_told() -> None:
    made, told = gathering(wait_seconds=0.2)
    dropped: list[AmaqError] = []
    run(
        lambda: made.arrive("a", (), nothing),
        lambda: made.arrive("b", (), nothing),
        lambda: made.arrive("c", (), dropped.append),
    )
    two = torch.tensor([2.0])
    means = run(
        lambda: made.mean_gradients("a", 0, {0: two}),
        lambda: made.mean_gradients("b", 0, {0: two * 2}),
    )
    assert [mean[0].tolist() for mean in means] == [[3.0], [3.0]]
    why = "c let the others wait for more than 0.2 s at step 0"
    assert told[1:] == [(0, ("a", "b"), why)]
    assert [str(error) for error in dropped] == [f"party c: {why.removeprefix('c ')}"]
    with pytest.raises(TransportError, match="takes no part in this run"):
        made.mean_gradients("c", 0, {0: two})


def test_a_last_gradient_counts_although_its_client_has_left() -> None:
    made, told = gathering(quorum=2)
    arrived(made, ("a", "b"))
    first = threading.Thread(target=lambda: made.mean_gradients("b", 0, {0: torch.ones(1)}))
    first.start()
    time.sleep(0.05)
    made.leave("b", "left: its cable")
    assert made.mean_gradients("a", 0, {0: torch.zeros(1)})[0].tolist() == [0.5]
    first.join(10)
    assert told[1:] == [(1, ("a",), "b left: its cable")]
    assert made.mean_gradients("a", 1, {0: torch.ones(1)})[0].tolist() == [1.0]
    assert not made._meetings


def test_one_that_joins_gets_the_mean_and_takes_part_from_there() -> None:
    made, told = gathering(quorum=2)
    arrived(made, ("a", "b"))
    assert made.arrive("c", (), nothing) is None
    state = SharedState({7: torch.tensor([1.0])}, {7: {}})

    def at_work(name: str, value: float) -> Any:
        made.mean_gradients(name, 0, {})
        made.mean_weights(name, 1, {0: torch.tensor([value])}, lambda: state)
        return made.mean_gradients(name, 1, {0: torch.tensor([value])})

    def joins() -> Any:
        step, mean, got = made.join("c", nothing)
        made.mean_gradients("c", step, {0: torch.tensor([8.0])})
        return step, mean[0].tolist(), got

    first, second, (step, mean, got) = run(
        lambda: (time.sleep(0.1), at_work("a", 1.0))[1], lambda: at_work("b", 3.0), joins
    )[0:3]
    assert (step, mean, got.weights[7].tolist()) == (1, [2.0], [1.0])
    assert first[0].tolist() == second[0].tolist() == [4.0]
    assert told[1:] == [(1, NAMES, "c joins")]


def test_in_turns_one_trains_and_all_go_on_from_its_weights() -> None:
    told = Told()
    made = Gathering(NAMES, 3, 30.0, 9, told, Turns(NAMES, 1))
    arrived(made)
    states = {name: SharedState({7: torch.tensor([ord(name)])}, {7: {}}) for name in NAMES}

    def weights(name: str, step: int) -> Any:
        return made.mean_weights(
            name, step, {0: torch.tensor([VALUES[name]])}, lambda: states[name]
        )

    # Whose turn it is waits for nobody; `b` has the second one.
    assert made.mean_gradients("a", 0, {0: torch.ones(1)})[0].tolist() == [1.0]
    for trained, step in (("a", 1), ("b", 2)):
        if step == 2:
            assert made.mean_gradients("b", 1, {0: torch.ones(1)})[0].tolist() == [1.0]
        found = run(*(lambda n=n, s=step: weights(n, s) for n in ("c", "a", "b")))
        assert [mean[0].item() for mean, _ in found] == [pytest.approx(VALUES[trained])] * 3
        expected = [None if n == trained else states[trained] for n in ("c", "a", "b")]
        assert [state for _, state in found] == expected
    made.leave("c", "left: its cable")  # whose turn is next: it passes
    found = run(*(lambda n=n: weights(n, 3) for n in ("a", "b")))
    both = (VALUES["a"] + VALUES["b"]) / 2
    assert [mean[0].item() for mean, _ in found] == [pytest.approx(both)] * 2
    assert not made._meetings


def test_nobody_joins_at_the_end() -> None:
    made, told = gathering(quorum=1)
    arrived(made, ("a",))
    found: list[Any] = []
    late = threading.Thread(target=lambda: found.extend(run(lambda: made.join("c", nothing))))
    late.start()
    time.sleep(0.05)
    made.mean_weights("a", 5, {0: torch.ones(1)}, lambda: NO_STATE)
    made.leave("a", "has ended")
    late.join(10)
    assert [str(error) for error in found] == ["the run of the other clients is over"]
    assert [why for _, _, why in told] == ["the run begins", "a has ended"]


def test_the_run_is_over_when_all_have_left() -> None:
    made, _ = gathering(quorum=2)
    arrived(made, ("a", "b"))
    late = threading.Thread(target=lambda: run(lambda: made.join("c", nothing)))
    late.start()
    made.leave("a", "has ended")
    assert not made.wait_over(0)
    made.leave("b", "has ended")
    assert made.wait_over(0)
    late.join(10)
    assert not late.is_alive()
    with pytest.raises(TransportError, match="the run of the other clients is over"):
        made.arrive("c", (), nothing)


def test_a_stop_ends_every_wait() -> None:
    made, _ = gathering()
    arrived(made)
    found: list[Any] = []
    waiting = threading.Thread(
        target=lambda: found.extend(run(lambda: made.mean_gradients("a", 0, {})))
    )
    waiting.start()
    time.sleep(0.05)
    made.stop()
    waiting.join(5)
    assert not waiting.is_alive()
    assert [str(error) for error in found] == ["the run of the other clients is over"]


def test_the_turnstile_lets_through_who_came_first() -> None:
    turnstile, order = Turnstile(), []

    def pass_through(name: str) -> None:
        with turnstile:
            order.append(name)

    with turnstile:
        threads = [threading.Thread(target=pass_through, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == list("abcd")


SHAPES = {0: (2, 3), 5: (4,)}
WEIGHTS = {0: torch.arange(6.0).reshape(2, 3), 5: torch.ones(4)}


def test_weights_come_as_they_were_sent() -> None:
    data = weights_to_bytes(WEIGHTS)
    assert len(data) <= max_weights_bytes(SHAPES)
    read = weights_from_bytes(data, SHAPES)
    assert {place: value.tolist() for place, value in read.items()} == {
        place: value.tolist() for place, value in WEIGHTS.items()
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({5: torch.ones(3)}, "place 5 is torch.float32 of shape"),
        ({5: torch.ones(4, dtype=torch.float64)}, "place 5 is torch.float64 of shape"),
        ({5: torch.tensor([1.0, 2.0, float("nan"), 0.0])}, "place 5 is not finite"),
        ({6: torch.ones(1)}, "those of place '6' are not due"),
        ({5: torch.ones(10**6)}, "a message of"),
    ],
)
def test_weights_that_are_not_due(changes: dict[int, torch.Tensor], said: str) -> None:
    with pytest.raises(WireError, match=said):
        weights_from_bytes(weights_to_bytes({**WEIGHTS, **changes}), SHAPES)


def test_weights_that_are_missing_or_damaged() -> None:
    with pytest.raises(WireError, match="those of place '5' are missing"):
        weights_from_bytes(weights_to_bytes({0: WEIGHTS[0]}), SHAPES)
    data = bytearray(weights_to_bytes(WEIGHTS))
    data[-1] ^= 1
    with pytest.raises(WireError, match="the checksum does not fit"):
        weights_from_bytes(bytes(data), SHAPES)
