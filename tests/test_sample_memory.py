"""One remembered tensor a sample: kept, recalled, and gone without a trace when it is forgotten."""

import torch

from amaqctl.quantizer import SampleMemory


def memory() -> SampleMemory:
    return SampleMemory(3, 4, 2, torch.float16, limit_mib=1)


def stored(kept: SampleMemory, sample_id: int, value: float, num_positions: int) -> None:
    kept.store(sample_id, kept.rounded(sample_id, torch.full((num_positions, 2), value)))


def test_what_was_forgotten_leaves_no_value_behind():
    """A shorter tensor stored later must not be followed by what is left of the longer one."""
    kept = memory()
    stored(kept, 1, 5.0, 4)
    kept.forget(1)
    assert kept.visits(1) == 0
    assert torch.equal(kept.recall(1, 4), torch.zeros(4, 2))
    stored(kept, 1, 7.0, 2)
    assert kept.visits(1) == 1
    assert kept.recall(1, 4).tolist() == [[7, 7], [7, 7], [0, 0], [0, 0]]
    assert kept.get_extra_state().tolist() == [[[7, 7], [7, 7], [0, 0], [0, 0]]]


def test_others_are_kept_and_one_never_stored_may_be_forgotten():
    kept = memory()
    stored(kept, 0, 1.0, 4)
    stored(kept, 2, 3.0, 4)
    kept.forget(1)
    kept.forget(2)
    assert [kept.visits(sample) for sample in range(3)] == [1, 0, 0]
    assert torch.equal(kept.recall(0, 4), torch.ones(4, 2))
    assert torch.equal(kept.get_extra_state(), torch.ones(1, 4, 2, dtype=torch.float16))
