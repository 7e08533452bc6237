"""Which samples make up which batch: a function of the seed and the step alone, so that a run resumes at any step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .layouts import Pairs

KINDS = ("balanced", "proportional", "oversampling", "one-task")
PROMPTIR = {"rain": 120, "haze": 1, "noise": 3}
"""How often PromptIR lists a sample of each task; noise has a sample for each sigma."""


class Draw(NamedTuple):
    """A sample drawn, and how many were drawn before it in the run: ``step * batch + position``."""

    sample: int
    number: int


@dataclass(frozen=True, eq=False)
class Sampler:
    """The draws of each step.

    A pool is gone through in epochs, each in an order of its own drawn from (seed, pool, epoch), and none of its
    samples comes twice in an epoch. Which pool a draw takes from depends on the draw's number alone:

    - a single pool: a plain shuffle;
    - several: in turn, so that a batch holds as many of each, and what does not divide evenly rotates;
    - several, ``whole_batches``: a batch from one pool; each round of batches visits every pool, in an order drawn
      for the round, as IDR's code does.

    Processes share a batch: process ``rank`` of ``world`` takes the ``rank``-th slice, and together they draw what a
    single process would.
    """

    pools: tuple[np.ndarray, ...]
    batch: int
    seed: int
    whole_batches: bool = False
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.world:
            raise ValueError(
                f"batch is {self.batch} for {self.world} process(es); it must be a positive multiple of their number: "
                "change the batch"
            )
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank is {self.rank} of {self.world}; it must be 0..{self.world - 1}: give the own rank")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative: give a seed of 0 or more")

    def draws(self, step: int) -> list[Draw]:
        """Draw this process's slice of the batch of a step, counted from 0."""
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        return [Draw(self._sample(number), number) for number in range(first, first + share)]

    def _sample(self, number: int) -> int:
        if self.whole_batches:
            step, position = divmod(number, self.batch)
            round_, place = divmod(step, len(self.pools))
            pool, turn = int(_order(len(self.pools), self.seed, 0, round_)[place]), round_ * self.batch + position
        else:
            turn, pool = divmod(number, len(self.pools))
        samples = self.pools[pool]
        epoch, place = divmod(turn, len(samples))
        return int(samples[_order(len(samples), self.seed, 1 + pool, epoch)[place]])


def create(
    kind: str,
    pairs: Pairs,
    batch: int,
    seed: int,
    *,
    tasks: Sequence[str] | None = None,
    by_type: bool = False,
    factors: Mapping[str, int] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Sampler:
    """Return a sampler of the pairs.

    - ``"balanced"``: every task equally often in each batch.
    - ``"proportional"``: a plain shuffle of all samples (MiOIR's code).
    - ``"oversampling"``: a plain shuffle in which a sample of a task comes ``factors[task]`` times an epoch.
    - ``"one-task"``: a batch of one task, in rotation (IDR's code, by type).

    :param batch: Size of the batch of all processes together.
    :param tasks: Tasks to draw from, all by default. A stage of sequential training has its own sampler, called with
        the run's steps; ``"balanced"`` is uniform over its tasks.
    :param by_type: Let each sigma of noise count as a task of its own in ``"balanced"`` and ``"one-task"``, as in
        AirNet's batches of five and IDR's rotation of seven.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of sampler is {kind!r}; it must be one of {', '.join(KINDS)}: choose one of them")
    active = pairs.tasks if tasks is None else tuple(tasks)
    if not active or not set(active) <= set(pairs.tasks):
        raise ValueError(
            f"tasks to draw from are {active}; they must be among {', '.join(pairs.tasks)}, at least one: choose others"
        )
    if (kind == "oversampling") != (factors is not None) or (factors and not set(active) <= set(factors)):
        raise ValueError(
            f"factors are {factors} for the kind {kind!r}; 'oversampling' must have one for each of "
            f"{', '.join(active)}, the others none: give them, e.g. samplers.PROMPTIR, or leave them out"
        )
    groups = {
        (task, sigma): np.flatnonzero((pairs.task_ids == pairs.tasks.index(task)) & (pairs.sigmas == sigma))
        for task in active
        for sigma in np.unique(pairs.sigmas[pairs.task_ids == pairs.tasks.index(task)]).tolist()
    }
    if kind == "proportional":
        pools = [np.concatenate(list(groups.values()))]
    elif factors is not None:
        pools = [np.concatenate([np.repeat(group, factors[task]) for (task, _), group in groups.items()])]
    elif by_type:
        pools = list(groups.values())
    else:
        pools = [np.concatenate([group for (name, _), group in groups.items() if name == task]) for task in active]
    pools = [pool.astype(np.int32) for pool in pools]
    return Sampler(tuple(pools), batch, seed, kind == "one-task", rank, world)


@dataclass(frozen=True)
class Steps:
    """The draws of the steps of a range, as a ``batch_sampler`` of a ``DataLoader``."""

    sampler: Sampler
    steps: range

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.sampler.draws, self.steps)


@lru_cache(maxsize=32)
def _order(length: int, seed: int, pool: int, epoch: int) -> np.ndarray:
    sequence = np.random.SeedSequence(seed, spawn_key=(0, pool, epoch))
    return np.random.default_rng(sequence).permutation(np.arange(length, dtype=np.int32))
