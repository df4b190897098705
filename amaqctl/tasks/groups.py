"""Which groups of equal rows to hold out so that their sizes sum to a number, or nearest to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def choose_groups(sizes: Sequence[int], target: int) -> list[int]:
    """Indices of groups whose sizes sum as near to ``target`` as whole groups allow.

    Earlier groups go first. At least one is chosen and one is left; of two sums equally near
    the smaller is taken.

    Args:
        sizes: of at least two groups, in the order of preference.
        target: from 1 to one below the sum of ``sizes``.
    """
    assert len(sizes) >= 2
    assert 1 <= target < sum(sizes)
    chosen, left = [], target
    for index, size in enumerate(sizes):
        if size <= left:
            chosen.append(index)
            left -= size
    if left == 0:
        return chosen
    counts = _nearest_counts(Counter(sizes), target)
    chosen = []
    for index, size in enumerate(sizes):
        if counts[size]:
            counts[size] -= 1
            chosen.append(index)
    return chosen


def _nearest_counts(available: Counter[int], target: int) -> Counter[int]:
    """How many groups of each size to take. Bit n of a whole number says that sum n is reached."""
    total = sum(size * count for size, count in available.items())
    reached, before = 1, []
    for size, count in sorted(available.items()):
        before.append((size, reached))
        taken = 1
        while count:  # 1, 2, 4, … groups of one size at once
            taken = min(taken, count)
            reached |= reached << (size * taken)
            count -= taken
            taken *= 2
    nearest = next(
        found
        for distance in range(total)
        for found in (target - distance, target + distance)
        if 0 < found < total and reached >> found & 1
    )
    counts: Counter[int] = Counter()
    for size, earlier in reversed(before):
        while not (nearest >= 0 and earlier >> nearest & 1):
            nearest -= size
            counts[size] += 1
    return counts
