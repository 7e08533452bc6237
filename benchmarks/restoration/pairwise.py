"""Few combinations of factors' values that hold every pair of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, product


def pairwise(factors: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return combinations of one value a factor, such that any two values of two factors are in one of them.

    Each is chosen for the most pairs that were in none before; among equals, for pairs that were in few. There are at
    least as many as the two longest factors have pairs, and often no more.

    Example:
        >>> for each in pairwise({"letter": "ab", "digit": "12", "sign": "+-"}):
        ...     print(*each.values())
        a 1 +
        a 2 -
        b 1 -
        b 2 +
    """
    candidates = every(factors)
    count = Counter({pair: 0 for candidate in candidates for pair in pairs(candidate)})

    def gain(candidate: Mapping[str, str]) -> tuple[int, int]:
        before = [count[pair] for pair in pairs(candidate)]
        return before.count(0), -sum(before)

    chosen = []
    while 0 in count.values():
        chosen.append(max(candidates, key=gain))
        count.update(pairs(chosen[-1]))
    return sorted(chosen, key=candidates.index)


def every(factors: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return all combinations of one value a factor."""
    return [dict(zip(factors, values, strict=True)) for values in product(*factors.values())]


def pairs(combination: Mapping[str, str]) -> set[tuple[tuple[str, str], ...]]:
    """Return the pairs of (factor, value) in a combination."""
    return set(combinations(combination.items(), 2))
