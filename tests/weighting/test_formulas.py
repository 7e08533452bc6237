"""The weightings against their papers' formulas in plain Python, with tasks that come and go."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest
import torch

from art_optim import (
    FAMO,
    SLAW,
    AnalyticalUncertainty,
    ArtAblation,
    CoVWeighting,
    DynamicWeightAverage,
    GeometricLoss,
    ImpartialLoss,
    ImprovableGap,
    RandomWeighting,
    ReLoBRaLo,
    ScaleInvariant,
    SmoothTchebycheff,
    SoftAdapt,
    UncertaintyWeighting,
)
from art_optim.weighting import create
from art_optim.weighting.stream import init_streams, next_uniforms

from .cases import run

NUM_TASKS = 4


def share(scores: dict) -> dict:
    return {task: score / sum(scores.values()) for task, score in scores.items()}


def around_one(scores: dict, tasks: list) -> dict:
    """Shares of those that have a score, such that they average 1; 1 for the others."""
    return dict.fromkeys(tasks, 1.0) | {task: len(scores) * part for task, part in share(scores).items()}


# Each takes the losses of the present tasks, and of every task the list of its own losses so far.


def dwa(losses, past, temperature=2.0, period=3):
    scores = {}
    for task in losses:
        last = len(past[task]) // period
        if last >= 2:
            means = [fmean(past[task][(last - n) * period : (last - n + 1) * period]) for n in (1, 2)]
            scores[task] = math.exp(means[0] / means[1] / temperature)
    return around_one(scores, losses)


def softadapt(losses, past, beta=2.0):
    return around_one({t: math.exp(beta * loss / past[t][-1]) for t, loss in losses.items() if past[t]}, losses)


def early(past, warmup=1, period=2):
    """The mean of the losses of period number 1 of two losses each."""
    window = past[warmup * period : (warmup + 1) * period]
    return fmean(window) if len(window) == period else None


def stch(losses, past, mu=0.5):
    scores = {t: (loss / early(past[t])) ** (1 / mu) for t, loss in losses.items() if early(past[t])}
    return {t: weight / losses[t] for t, weight in around_one(scores, losses).items()}


def igb(losses, past):
    scores = {t: math.exp(loss / early(past[t])) for t, loss in losses.items() if early(past[t])}
    return {t: weight / losses[t] for t, weight in around_one(scores, losses).items()}


def slaw(losses, past, decay=0.9):
    scores = {}
    for task, loss in losses.items():
        first = second = 0.0
        for n, value in enumerate([*past[task], loss], start=1):
            new = max(1 / n, 1 - decay)
            first, second = (1 - new) * first + new * value, (1 - new) * second + new * value**2
        if past[task]:
            scores[task] = 1 / max(math.sqrt(second - first**2), 1e-5)
    return around_one(scores, losses)


def cov(losses, past):
    scores = {}
    for task in losses:
        ratios = [loss / fmean(past[task][:n] or [loss]) for n, loss in enumerate(past[task])]
        if len(ratios) > 1:
            variance = fmean((ratio - fmean(ratios)) ** 2 for ratio in ratios)
            scores[task] = math.sqrt(variance + 1e-8) / fmean(ratios)
    return share(around_one(scores, losses))


def uw_so(losses, past):
    return share({task: math.exp(1 / loss / 20) for task, loss in losses.items()})


def gls(losses, past):
    mean = math.prod(losses.values()) ** (1 / len(losses))
    return {task: mean / len(losses) / loss for task, loss in losses.items()}


def si(losses, past):
    return {task: 1 / loss for task, loss in losses.items()}


def history(steps=150):
    """Losses that fall with noise, each task present in most of the steps, and in at least one."""
    rng = random.Random(0)
    for step in range(steps):
        tasks = [t for t in range(NUM_TASKS) if rng.random() < 0.7] or [0]
        yield {t: 10.0 ** (t - 1) * math.exp(rng.gauss(-0.01 * t * step, 0.2)) for t in tasks}


def tensors(steps):
    losses = torch.full((len(steps), NUM_TASKS), math.nan)
    for step, given in enumerate(steps):
        for task, loss in given.items():
            losses[step, task] = loss
    return losses, ~losses.isnan()


@pytest.mark.parametrize(
    ("weighting", "formula"),
    [
        (DynamicWeightAverage(period=3), dwa),
        (SoftAdapt(beta=2.0), softadapt),
        (SmoothTchebycheff(mu=0.5, warmup=1, period=2), stch),
        (ImprovableGap(warmup=1, period=2), igb),
        (SLAW(decay=0.9), slaw),
        (CoVWeighting(), cov),
        (AnalyticalUncertainty(temperature=20.0), uw_so),
        (GeometricLoss(), gls),
        (ScaleInvariant(), si),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_formula_over_each_tasks_own_losses(weighting, formula):
    steps, past, expected = list(history()), [[] for _ in range(NUM_TASKS)], []
    losses, present = tensors(steps)
    for step in range(len(steps)):
        given = {task: losses[step, task].item() for task in steps[step]}
        weights = formula(given, past)
        expected.append([weights.get(task, 0.0) for task in range(NUM_TASKS)])
        for task, loss in given.items():
            past[task].append(loss)
    weights, _ = run(weighting, losses, present)
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=2e-4, atol=1e-6)


def test_the_authors_decay_of_slaw_begins_at_the_hundredth_loss():
    losses = 0.5 + 0.1 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    weights, _ = run(SLAW(), losses, torch.ones(300, 2, dtype=torch.bool))
    rows = losses.tolist()
    for step in (50, 98, 99, 100, 101, 150, 299):
        past = [[row[task] for row in rows[:step]] for task in range(2)]
        expected = slaw(dict(enumerate(rows[step])), past, decay=0.99)
        assert weights[step].tolist() == pytest.approx(list(expected.values()), rel=1e-4)


def test_slaw_measures_a_spread_that_is_small_beside_the_loss():
    losses = torch.tensor([[100.0, 1.0], [100.01, 1.01], [99.99, 0.99], [100.0, 1.0]])
    weights, _ = run(SLAW(), losses, torch.ones(4, 2, dtype=torch.bool))
    torch.testing.assert_close(weights[-1], torch.ones(2), rtol=2e-3, atol=0)


# SplitMix64 in Python's own integers


def splitmix(stream: int) -> int:
    number = stream % 2**64
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31


def uniforms(seed, place, draw):
    """The two numbers of draw number ``draw``, from 1, of the stream of a place."""
    bits = splitmix(splitmix(splitmix(seed) + place) + draw * 0x9E3779B97F4A7C15)
    return ((bits >> 41) + 0.5) / 2**23, ((bits >> 18) % 2**23 + 0.5) / 2**23


def test_the_generator_is_splitmix64():
    """The first numbers of the seed 1234567 as Vigna's splitmix64.c has them."""
    numbers = [splitmix(1234567 + n * 0x9E3779B97F4A7C15) for n in (1, 2, 3)]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
def test_random_weights_are_a_function_of_seed_place_and_number_of_draws(distribution, seed):
    steps, draws, expected = list(history(40)), [0] * NUM_TASKS, []
    for given in steps:
        scores = {}
        for task in given:
            draws[task] += 1
            u, v = uniforms(seed, task, draws[task])
            normal = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
            scores[task] = math.exp(normal) if distribution == "normal" else -math.log(u)
        weights = share(scores)
        expected.append([weights.get(task, 0.0) for task in range(NUM_TASKS)])
    weights, _ = run(RandomWeighting(distribution, seed=seed), *tensors(steps))
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_relobralo(alpha):
    beta, temperature, seed = 0.6, 2.0, 11
    steps, past, expected = list(history(60)), [[] for _ in range(NUM_TASKS)], []
    balance, looked_back = [1.0] * NUM_TASKS, 0
    losses, present = tensors(steps)
    for step, tasks in enumerate(steps):
        given = {task: losses[step, task].item() for task in tasks}
        kept = uniforms(seed, 0, step + 1)[0] < beta
        looked_back += not kept

        def against(which, given=given):
            ratios = {task: loss / (past[task] or [loss])[which] for task, loss in given.items()}
            return around_one({task: math.exp(ratio / temperature) for task, ratio in ratios.items()}, given)

        first, previous = against(0), against(-1)
        for task in given:
            history_ = balance[task] if kept else first[task]
            balance[task] = alpha * history_ + (1 - alpha) * previous[task]
        weights = around_one({task: balance[task] for task in given}, given)
        expected.append([weights.get(task, 0.0) for task in range(NUM_TASKS)])
        for task, loss in given.items():
            past[task].append(loss)
    assert 10 < looked_back < 50
    weighting = ReLoBRaLo(alpha=alpha, beta=beta, temperature=temperature, seed=seed)
    weights, _ = run(weighting, losses, present)
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=1e-4, atol=1e-6)
    if alpha == 0:
        softadapt_weights, _ = run(SoftAdapt(beta=1 / temperature), losses, present)
        firsts = present.cumsum(0) == 1  # which SoftAdapt leaves out of the softmax
        settled = ~(firsts & present).any(1)
        torch.testing.assert_close(weights[settled], softadapt_weights[settled])


def test_draws_are_uniform_and_independent():
    """Of 100,000 streams two draws: mean, spread, and correlations within and between draws and neighbours."""
    number = 100_000
    streams = init_streams(0, (number,), None)
    draws = torch.stack([u for _ in range(2) for u in next_uniforms(streams, torch.ones(number, dtype=torch.bool))])
    assert draws.unique().numel() > 0.97 * draws.numel()
    assert ((draws > 0) & (draws < 1)).all()
    centred = (draws - 0.5) * math.sqrt(12)
    error = 5 / math.sqrt(number)
    for moment, value in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 9 / 5)):
        assert centred.pow(moment).mean(1).tolist() == pytest.approx([value] * 4, abs=2 * error)
    rows = torch.cat([centred[:, 1:], centred[:, :-1]])
    torch.testing.assert_close(rows.corrcoef(), torch.eye(8), rtol=0, atol=error)


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_random_weights_have_their_distribution(distribution):
    """Moments of a weight, and of the product of two, within five standard errors."""
    ones = torch.ones(4000, 3)
    weights, _ = run(RandomWeighting(distribution), ones, ones.bool())
    sample = torch.distributions.Dirichlet(torch.ones(100_000, 3)).sample()
    if distribution == "normal":
        sample = torch.randn(100_000, 3).softmax(1)
    for statistic in (lambda w: w[:, 0], lambda w: w[:, 1].square(), lambda w: w[:, 0] * w[:, 2], lambda w: w.amax(1)):
        ours, theirs = statistic(weights), statistic(sample)
        assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=5 * theirs.std().item() / math.sqrt(4000))


def test_a_seed_gives_its_weights_again_and_another_gives_others():
    losses, present = torch.rand(10, 3), torch.ones(10, 3, dtype=torch.bool)
    runs = [run(RandomWeighting(seed=seed), losses + seed, present)[0] for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.isclose(runs[0], runs[2]).any()


# What is learned: the tasks that are absent keep their moments and their own number of steps.


@pytest.mark.parametrize(
    ("weighting", "key", "objective"),
    [
        (UncertaintyWeighting(lr=0.1), "log_variance", lambda s, loss: (-s).exp() * loss / 2 + s / 2),
        (
            UncertaintyWeighting("classification", lr=0.1),
            "log_variance",
            lambda s, loss: (-s).exp() * loss + s / 2,
        ),
        (
            UncertaintyWeighting("revised", lr=0.1),
            "log_variance",
            lambda s, loss: (-s).exp() * loss / 2 + (1 + s.exp()).log(),
        ),
        (ImpartialLoss(lr=0.1), "log_scale", lambda s, loss: s.exp() * loss - s),
    ],
)
def test_each_task_learns_by_adam_from_its_own_losses(weighting, key, objective):
    losses, present = tensors(list(history(60)))
    weights, state = run(weighting, losses, present)
    for task in range(NUM_TASKS):
        s = torch.zeros((), requires_grad=True)
        adam, expected = torch.optim.Adam([s], lr=0.1), []
        for loss in losses[present[:, task], task]:
            loss = loss.clone().requires_grad_()
            adam.zero_grad()
            total = objective(s, loss)
            total.backward()
            expected.append(loss.grad)
            adam.step()
        torch.testing.assert_close(weights[present[:, task], task], torch.stack(expected), rtol=1e-4, atol=0)
        torch.testing.assert_close(state[key][task], s.detach(), rtol=1e-4, atol=1e-5)


def test_famo_judges_the_present_tasks_that_it_has_seen():
    """By the autograd of the paper's objective, and an Adam a task."""
    lr, weight_decay = 0.1, 0.01
    steps = list(history(40))
    losses, present = tensors(steps)
    logits = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(NUM_TASKS)]
    adams = [torch.optim.Adam([logit], lr=lr, weight_decay=weight_decay) for logit in logits]
    before, expected = {}, []
    for step, tasks in enumerate(steps):
        now = {task: math.log(losses[step, task].item() + 1e-8) for task in tasks}
        judged = [task for task in tasks if task in before]
        if judged:
            z = torch.stack([logits[task] for task in judged]).softmax(0)
            delta = torch.tensor([before[task] - now[task] for task in judged], dtype=torch.float64)
            for task in judged:
                adams[task].zero_grad()
            (z * delta).sum().backward()
            for task in judged:
                adams[task].step()
        weights = share({task: math.exp(logits[task].item() - now[task]) for task in tasks})
        expected.append([weights.get(task, 0.0) for task in range(NUM_TASKS)])
        before |= now
    weights, state = run(FAMO(lr=lr, weight_decay=weight_decay), losses, present)
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=1e-3, atol=1e-5)
    assert state["step"].tolist() == (present.sum(0) - 1).tolist()


def test_famo_learns_nothing_from_losses_that_fall_at_one_rate():
    """Adam would make a full step of what is left of the difference by rounding."""
    losses = torch.tensor([0.3, 0.7, 1.9, 4.1]) * 0.97 ** torch.arange(60.0)[:, None]
    _, state = run(FAMO(weight_decay=0.0), losses, torch.ones_like(losses, dtype=torch.bool))
    assert state["logits"].tolist() == [0.0] * 4


def test_two_forms_of_uncertainty_rest_at_the_same_weight():
    losses = torch.tensor([0.3, 2.0]).expand(3000, 2)
    for form in ("regression", "classification"):
        weights, _ = run(UncertaintyWeighting(form), losses, torch.ones(3000, 2, dtype=torch.bool))
        torch.testing.assert_close(weights[-1], 1 / (2 * losses[-1]), rtol=1e-2, atol=0)
    weights, _ = run(ImpartialLoss(), losses, torch.ones(3000, 2, dtype=torch.bool))
    torch.testing.assert_close(weights[-1], 1 / losses[-1], rtol=1e-2, atol=0)


def test_softadapt_is_a_configuration_of_art_but_for_the_scale():
    losses, present = tensors(list(history(30)))
    art, _ = run(ArtAblation(rate="raw", correction="none", temperature=1.0, normalize="sum"), losses, present)
    settled = (present.cumsum(0) > 1).logical_or(~present).all(1)
    assert settled.sum() > 20
    weights, _ = run(SoftAdapt(), losses, present)
    torch.testing.assert_close(weights[settled], art[settled])


def test_scale_invariance():
    """A task's unit of measure changes no product of weight and loss."""
    losses, present = tensors(list(history(30)))
    units = torch.tensor([1.0, 1e-2, 1e2, 7.0])
    for weighting in (ScaleInvariant(), SmoothTchebycheff(warmup=1), ImprovableGap()):
        weights, _ = run(weighting, losses, present)
        scaled, _ = run(weighting, losses * units, present)
        torch.testing.assert_close((scaled * units)[present], weights[present], rtol=1e-4, atol=0)


@pytest.mark.parametrize("unusable", [0.0, -1.0, float("nan"), 1e30])
@pytest.mark.parametrize("name", ["si", "gls", "igb", "stch", "uw_so", "famo"])
def test_a_present_task_whose_loss_is_not_usable_has_the_mean_weight_of_the_others(name, unusable):
    weighting = create(name)
    weights = weighting(torch.tensor([0.5, 0.125, unusable]), None, weighting.init(3))
    torch.testing.assert_close(weights[2], weights[:2].mean())
    assert weights[0] != weights[1]
