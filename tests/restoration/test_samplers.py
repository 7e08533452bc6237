from __future__ import annotations

from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from benchmarks.restoration.layouts import SIGMAS, Pairs
from benchmarks.restoration.samplers import KINDS, PROMPTIR, Draw, Sampler, Steps, create

TASKS = ("rain", "haze", "noise")


def pairs_of(counts: tuple[int, int, int]) -> Pairs:
    """So many pairs of rain, haze, and noise at each sigma."""
    types = [(0, 0), (1, 0), *((2, sigma) for sigma in SIGMAS)]
    repeats = (*counts, counts[2], counts[2])
    tasks, sigmas = (np.repeat([row[i] for row in types], repeats).astype(np.uint8) for i in (0, 1))
    files = np.zeros(len(tasks), np.int32)
    return Pairs("rain-haze-noise", Path(), b"x", np.ones(1, np.int64), files, files, tasks, sigmas)


def build(kind: str, counts: tuple[int, int, int], batch: int, seed: int = 0, **options) -> Sampler:
    factors = {"rain": 4, "haze": 1, "noise": 2} if kind == "oversampling" else None
    return create(kind, pairs_of(counts), batch, seed, factors=factors, **options)


def task_of(draw: Draw, counts: tuple[int, int, int]) -> str:
    rain, haze, _ = counts
    return TASKS[0 if draw.sample < rain else 1 if draw.sample < rain + haze else 2]


counts = st.tuples(*3 * [st.integers(1, 12)])
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**40)


@settings(max_examples=60, deadline=None)
@given(kinds, counts, st.integers(1, 9), seeds, st.integers(0, 10**6), st.booleans())
def test_resumed_at_any_step_equals_the_uninterrupted_run(kind, counts, batch, seed, start, by_type):
    uninterrupted = build(kind, counts, batch, seed, by_type=by_type)
    whole = list(Steps(uninterrupted, range(start, start + 12)))
    for stop in (1, 7):
        resumed = build(kind, counts, batch, seed, by_type=by_type)
        assert list(Steps(resumed, range(start + stop, start + 12))) == whole[stop:]


@settings(max_examples=60, deadline=None)
@given(kinds, counts, st.integers(1, 4), st.integers(1, 4), seeds, st.integers(0, 1000))
def test_processes_draw_together_what_one_would(kind, counts, share, world, seed, step):
    batch = share * world
    parts = [build(kind, counts, batch, seed, rank=rank, world=world).draws(step) for rank in range(world)]
    assert [draw for part in parts for draw in part] == build(kind, counts, batch, seed).draws(step)
    assert {len(part) for part in parts} == {share}


@settings(max_examples=60, deadline=None)
@given(kinds, counts, st.integers(1, 9), st.integers(0, 1000))
def test_draws_are_numbered_through(kind, counts, batch, step):
    numbers = [draw.number for draw in build(kind, counts, batch).draws(step)]
    assert numbers == list(range(step * batch, (step + 1) * batch))


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(1, 20), seeds, st.integers(0, 1000))
def test_balanced_batch_holds_as_many_of_each_task(counts, batch, seed, step):
    sampler = build("balanced", counts, batch, seed)
    tasks = Counter(task_of(draw, counts) for draw in sampler.draws(step))
    assert max(tasks.values()) - min(tasks[task] for task in TASKS) <= 1


@given(counts, st.integers(1, 20))
def test_what_does_not_divide_rotates_among_the_tasks(counts, batch):
    sampler = build("balanced", counts, batch)
    tasks = Counter(task_of(draw, counts) for draws in Steps(sampler, range(3)) for draw in draws)
    assert set(tasks.values()) == {batch}


@settings(max_examples=60, deadline=None)
@given(counts, seeds, st.integers(0, 4))
def test_samples_of_a_task_come_once_an_epoch(counts, seed, epoch):
    sampler = build("balanced", counts, 3, seed)
    for task, size in zip(TASKS, (counts[0], counts[1], 3 * counts[2]), strict=True):
        draws = [draw for draws in Steps(sampler, range(epoch * size, (epoch + 1) * size)) for draw in draws]
        assert len({draw.sample for draw in draws if task_of(draw, counts) == task}) == size


@settings(max_examples=60, deadline=None)
@given(counts, seeds, st.integers(0, 50))
def test_proportional_epoch_is_a_permutation_of_all_samples(counts, seed, epoch):
    total = counts[0] + counts[1] + 3 * counts[2]
    (draws,) = Steps(build("proportional", counts, total, seed), range(epoch, epoch + 1))
    assert sorted(draw.sample for draw in draws) == list(range(total))


@settings(max_examples=60, deadline=None)
@given(counts, seeds, st.integers(0, 50))
def test_oversampling_epoch_has_each_sample_as_often_as_its_factor(counts, seed, epoch):
    total = 4 * counts[0] + counts[1] + 2 * 3 * counts[2]
    (draws,) = Steps(build("oversampling", counts, total, seed), range(epoch, epoch + 1))
    times = Counter(draws := [draw.sample for draw in draws])
    assert sorted(times) == list(range(sum(counts) + 2 * counts[2]))
    for sample, count in times.items():
        assert count == {"rain": 4, "haze": 1, "noise": 2}[task_of(Draw(sample, 0), counts)]


def test_promptir_lists_as_many_samples_as_its_code():
    sampler = create("oversampling", pairs_of((200, 72135, 5144)), 32, 0, factors=PROMPTIR)
    assert len(sampler.pools[0]) == 200 * 120 + 72135 + 3 * 3 * 5144


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(1, 5), seeds, st.integers(0, 300), st.booleans())
def test_one_task_batches_rotate(counts, batch, seed, round_, by_type):
    sampler = build("one-task", counts, batch, seed, by_type=by_type)
    pools = 5 if by_type else 3
    boundaries = np.cumsum([counts[0], counts[1], *3 * [counts[2]]])
    seen = []
    for step in range(round_ * pools, (round_ + 1) * pools):
        types = {int(np.searchsorted(boundaries, draw.sample, side="right")) for draw in sampler.draws(step)}
        kinds = types if by_type else {min(kind, 2) for kind in types}
        assert len(kinds) == 1
        seen += kinds
    assert sorted(seen) == list(range(pools))


def test_rounds_of_one_task_batches_differ_in_order():
    sampler = build("one-task", (5, 5, 5), 1)
    orders = {tuple(task_of(sampler.draws(3 * r + i)[0], (5, 5, 5)) for i in range(3)) for r in range(40)}
    assert len(orders) == 6


@settings(max_examples=40, deadline=None)
@given(counts, seeds, st.integers(0, 300))
def test_airnets_batch_of_five_has_a_sample_of_each_type(counts, seed, step):
    sampler = build("balanced", counts, 5, seed, by_type=True)
    boundaries = np.cumsum([counts[0], counts[1], *3 * [counts[2]]])
    types = [int(np.searchsorted(boundaries, draw.sample, side="right")) for draw in sampler.draws(step)]
    assert sorted(types) == [0, 1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(kinds, counts, st.sets(st.sampled_from(TASKS), min_size=1), seeds, st.integers(0, 300))
def test_stage_draws_from_its_tasks_alone(kind, counts, active, seed, step):
    sampler = build(kind, counts, 12, seed, tasks=sorted(active))
    tasks = Counter(task_of(draw, counts) for draw in sampler.draws(step))
    assert set(tasks) <= active
    if kind == "balanced":
        assert set(tasks.values()) == {12 // len(active)}


def test_epochs_and_seeds_differ():
    def order(seed: int, epoch: int) -> list[int]:
        return [draw.sample for draw in build("proportional", (6, 6, 6), 30, seed).draws(epoch)]

    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_order_is_uniform():
    """Each of four samples is as often first: chi-squared of 4000 epochs, 3 degrees of freedom."""
    sampler = create("proportional", pairs_of((1, 1, 1)), 5, 0)
    first = Counter(sampler.draws(epoch)[0].sample for epoch in range(4000))
    assert sum((first[sample] - 800) ** 2 / 800 for sample in range(5)) < 18.5  # p = 0.001


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kind": "uniform"}, "kind of sampler"),
        ({"kind": "oversampling"}, "factors"),
        ({"kind": "oversampling", "factors": {"rain": 2}}, "factors"),
        ({"kind": "balanced", "factors": PROMPTIR}, "factors"),
        ({"kind": "balanced", "tasks": ["snow"]}, "tasks to draw from"),
        ({"kind": "balanced", "tasks": []}, "tasks to draw from"),
        ({"kind": "balanced", "world": 3}, "batch is 4"),
        ({"kind": "balanced", "batch": 0}, "batch is 0"),
        ({"kind": "balanced", "rank": 2, "world": 2}, "rank is 2"),
        ({"kind": "balanced", "seed": -1}, "seed is -1"),
    ],
)
def test_what_is_refused(arguments, match):
    given = {"batch": 4, "seed": 0, "pairs": pairs_of((2, 2, 2)), **arguments}
    with pytest.raises(ValueError, match=match):
        create(**given)
