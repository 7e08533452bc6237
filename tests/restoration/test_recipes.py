"""The recipes: their files, how their learning rates run, how they divide a run."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.restoration import layouts, models, recipes
from benchmarks.restoration.recipes import LearningRate

TASKS = layouts.SETTINGS["multiple"]


@pytest.mark.parametrize("model", models.available())
@pytest.mark.parametrize("schedule", ["mixed", "sequential"])
def test_every_model_has_a_recipe_that_its_schedule_fits(model, schedule):
    recipe = recipes.default(model, schedule)
    assert model in recipe.models
    published = {
        schedule for each in recipes.available().values() if model in each.models for schedule in each.schedules
    }
    assert schedule in recipe.schedules or schedule not in published


@pytest.mark.parametrize("recipe", recipes.available().values(), ids=lambda recipe: recipe.name)
def test_a_recipe_makes_an_optimizer_and_is_json(recipe):
    optimizer = recipe.make_optimizer([torch.zeros(1, requires_grad=True)], lr=1)
    assert type(optimizer).__name__ == recipe.optimizer["name"]
    assert json.loads(json.dumps(recipe.described())) == recipe.described()


def test_the_iterations_are_the_published_ones():
    steps = {name: recipe.steps for name, recipe in recipes.available().items()}
    published = {"srresnet-mixed": 2_500_000, "srresnet-sequential": 2_500_000, "uformer-mixed": 1_000_000}
    published |= {"uformer-sequential": 1_000_000, "airnet": 400_000, "transweather-art": 600_000}
    assert steps.items() >= published.items()


def rates(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_learning_rates_are_those_of_torch_schedulers():
    schedulers = torch.optim.lr_scheduler
    wave = LearningRate("cosine", 1e-3, end=1e-5, period=20)
    expected = rates(lambda o: schedulers.CosineAnnealingLR(o, 20, 1e-5), 60)
    assert [wave.at(i) for i in range(60)] == pytest.approx(expected, rel=1e-6)

    restarts = LearningRate("restarts", 1e-3, end=1e-5, period=20)
    expected = rates(lambda o: schedulers.CosineAnnealingWarmRestarts(o, 20, eta_min=1e-5), 60)
    assert [restarts.at(i) for i in range(60)] == pytest.approx(expected, rel=1e-6)

    decay = LearningRate("decay", 1e-3, factor=0.5, period=7)
    assert [decay.at(i) for i in range(30)] == pytest.approx(rates(lambda o: schedulers.StepLR(o, 7, 0.5), 30))


def test_a_warm_up_rises_to_the_start_of_the_period():
    rate = LearningRate("cosine", 1.0, period=100, warmup=10)
    assert [rate.at(i) for i in (0, 5, 10, 60, 110)] == pytest.approx([0, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize("steps", [1, 20, 999, 2_500_000])
@pytest.mark.parametrize("schedule", ["mixed", "sequential"])
@pytest.mark.parametrize("recipe", recipes.available().values(), ids=lambda recipe: recipe.name)
def test_spans_cover_the_steps_and_end_with_all_tasks(recipe, schedule, steps):
    spans = recipes.spans(recipe, schedule, TASKS, steps)
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == steps
    assert sorted(spans[-1].tasks) == sorted(TASKS)
    assert [span.weighed for span in spans].count(True) == 1
    assert spans[-1].weighed
    assert all(math.isfinite(span.learning_rate(step)) for span in spans for step in (span.start, span.end - 1))


def test_tasks_enter_in_the_order_of_mioir_and_each_stage_restarts_the_learning_rate():
    spans = recipes.spans(recipes.default("srresnet", "sequential"), "sequential", TASKS, 2_500_000)
    assert [span.end for span in spans] == [*range(250_000, 1_500_001, 250_000), 2_500_000]
    assert [span.tasks[-1] for span in spans] == ["sr", "blur", "noise", "jpeg", "rain", "haze", "dark"]
    restarts = [step for span in spans for step in range(span.start, span.end, 250_000)]
    rates = [next(s for s in spans if step < s.end).learning_rate(step) for step in restarts]
    assert len(rates) == 10
    assert rates == pytest.approx([2e-4] * 10)
    assert spans[-1].learning_rate(1_749_999) == pytest.approx(1e-7, rel=1e-3)


def test_a_shorter_run_has_the_learning_rates_of_the_whole_one():
    for recipe in recipes.available().values():
        whole, short = (recipes.spans(recipe, "mixed", TASKS, steps) for steps in (recipe.steps, recipe.steps // 100))
        for a, b in zip(whole, short, strict=True):
            middle = [(span.start + span.end) // 2 for span in (a, b)]
            assert a.learning_rate(middle[0]) == pytest.approx(b.learning_rate(middle[1]), rel=1e-2)


def test_another_schedule_runs_its_whole_course_in_each_sequential_stage():
    spans = recipes.spans(recipes.choose("airnet"), "sequential", TASKS, 400_000)
    assert spans[0].tasks == TASKS
    assert not spans[0].stage.restore
    assert [span.learning_rate(span.end - 1) for span in spans[1:]] == pytest.approx([1e-4 * 0.5**7] * 7)


def test_airnet_trains_its_encoder_for_a_tenth_of_the_run_at_the_published_rates():
    encoder, restoration = recipes.spans(recipes.choose("airnet"), "mixed", TASKS, 1000)
    assert (encoder.end, restoration.end) == (100, 1000)
    assert [encoder.learning_rate(step) for step in (0, 59, 60, 99)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert [restoration.learning_rate(step) for step in (100, 224, 226)] == pytest.approx([1e-4, 1e-4, 5e-5])
    assert (encoder.stage.contrast, restoration.stage.contrast) == (1, 0.1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("batch =", "bach ="), "bach"),
        (('"l1"', '"l3"'), "l3"),
        (("[[stages]]", "[[phases]]"), "stages"),
        (('"cosine"', '"sine"'), "sine"),
        (("batch = 16", "batch = "), "line"),
        (("batch = 16", 'batch = "16"'), "the batch '16'; give a whole number, at least 1"),
        (("steps = 100_000", "steps = 0"), "the steps 0"),
        (("period = 100_000", "period = 0"), "the period 0"),
        (("start = 1e-3", 'start = "fast"'), "the start 'fast'; give a number, at least 0"),
        (("start = 1e-3", "start = -1e-3"), "the start -0.001"),
        (("start = 1e-3", "start = 1e-3, factor = nan"), "the factor nan"),
        (('loss = "l1"', 'loss = "l1"\naverage = "ema"'), "the average 'ema'"),
        (('"balanced"', '"fair"'), "sampler.*'fair'.*one of balanced"),
        (('"balanced"', '"balanced", seed = 1'), "sampler.*by_type or shares"),
        (('{ kind = "balanced" }', '"balanced"'), "the sampler 'balanced'"),
        (('default = { kind = "balanced" }', 'snow = { kind = "balanced" }'), "a sampler for 'snow'"),
        (('"balanced"', '"oversampling"'), "positive shares of all tasks"),
        (('"balanced"', '"balanced", shares = { rain = 1 }'), "the others none"),
        (
            ('default = { kind = "balanced" }', 'rain-haze-noise = { kind = "oversampling", shares = { rain = 1 } }'),
            "all",
        ),
        (('"Adam"', '"Madam"'), "Madam.*no such class"),
        (('"Adam"', '"lr_scheduler"'), "no such class"),
        (('"Adam"', '"Adam"\nbeta = 0.9'), "unexpected keyword argument 'beta'"),
        (('"Adam"', '"Adam"\nbetas = [0.9, 2]'), "Invalid beta"),
    ],
)
def test_a_faulty_file_is_refused_by_name(tmp_path, change, named):
    file = tmp_path / "own.toml"
    file.write_text((recipes.FOLDER / "short.toml").read_text().replace(*change))
    with pytest.raises(ValueError, match=f"own.*{named}"):
        recipes.choose(str(file))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'long' is not known; choose one of airnet"):
        recipes.choose("long")
