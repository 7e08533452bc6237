from __future__ import annotations

import torch

from benchmarks.problems import restoration
from benchmarks.problems.restoration import Restoration, TrainingPatches, evaluation_images
from benchmarks.restoration.photographs import Photograph

TASKS = ("noise", "dark", "sr")


def photographs(number: int = 3) -> list[Photograph]:
    generator = torch.Generator().manual_seed(5)
    smooth = torch.nn.functional.interpolate(torch.rand(number, 3, 6, 8, generator=generator), (48, 64), mode="bicubic")
    return [Photograph(str(index), (255 * image.clamp(0, 1)).byte()) for index, image in enumerate(smooth)]


def test_a_batch_is_a_function_of_seed_and_step():
    patches = TrainingPatches(photographs(), TASKS, seed=1)
    again = TrainingPatches(photographs(), TASKS, seed=1)
    again.batch(3, 8, 24)
    for name in ("degraded", "clean", "task_ids"):
        assert torch.equal(getattr(patches.batch(7, 8, 24), name), getattr(again.batch(7, 8, 24), name))
    assert not torch.equal(patches.batch(7, 8, 24).clean, patches.batch(8, 8, 24).clean)
    other = TrainingPatches(photographs(), TASKS, seed=2)
    assert not torch.equal(patches.batch(7, 8, 24).clean, other.batch(7, 8, 24).clean)


def test_degraded_and_clean_are_the_same_place():
    batch = TrainingPatches(photographs(), TASKS, seed=0).batch(0, 60, 24)
    assert batch.degraded.shape == batch.clean.shape == (60, 3, 24, 24)
    assert set(batch.task_ids.tolist()) == {0, 1, 2}
    noise = (batch.degraded - batch.clean)[batch.task_ids == 0]
    assert 0.04 < noise.std() < 0.2  # 15 to 50 of 255; patches of different places differ by more than they correlate
    residual = noise.flatten(1) - noise.flatten(1).mean(1, keepdim=True)
    clean = batch.clean[batch.task_ids == 0].flatten(1)
    clean = clean - clean.mean(1, keepdim=True)
    correlation = (residual * clean).mean(1) / residual.std(1) / clean.std(1)
    assert correlation.abs().mean() < 0.15
    dark = batch.task_ids == 1
    assert (batch.degraded[dark] <= batch.clean[dark] + 1 / 255).all()


def test_each_photograph_is_evaluated_on_each_task_at_several_levels():
    images = evaluation_images(photographs(2), TASKS, seed=0, levels=2)
    assert [(image.task, image.photograph.name) for image in images[:4]] == [("noise", "0")] * 2 + [("noise", "1")] * 2
    assert len(images) == 12
    assert not torch.equal(images[0].degraded, images[1].degraded)
    repeated = evaluation_images(photographs(2), TASKS, seed=0, levels=2)
    assert all(torch.equal(a.degraded, b.degraded) for a, b in zip(images, repeated, strict=True))


def test_held_out_degradations_are_drawn_with_seeds_that_training_does_not_have(small_photographs, monkeypatch):
    seeds = []
    monkeypatch.setattr(restoration, "evaluation_images", lambda of, tasks, seed, levels: seeds.append(seed))
    Restoration(folder=str(small_photographs))._images  # noqa: B018
    assert len({*seeds}) == 2
    assert max(seeds) < 0
