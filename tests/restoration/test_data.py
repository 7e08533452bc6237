from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.restoration import data, layouts, samplers
from benchmarks.restoration.data import Batch, Patches, loader
from benchmarks.restoration.samplers import Draw


def ramp(size: tuple[int, int], blue: int) -> np.ndarray:
    """A picture whose pixel (x, y) is (x, y, blue)."""
    y, x = np.mgrid[: size[1], : size[0]]
    return np.stack([x, y, np.full_like(x, blue)], axis=-1).astype(np.uint8)


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def make(folder: Path, number: int = 3, size: tuple[int, int] = (70, 50)) -> layouts.Pairs:
    """rain-haze-noise: the clean picture is 100 in blue where the rainy one is 50, the hazy one 80."""
    for i in range(number):
        save(folder / f"Train/Derain/rainy/rain-{i}.png", ramp(size, 50))
        save(folder / f"Train/Derain/gt/norain-{i}.png", ramp(size, 100))
        save(folder / f"Train/Dehaze/synthetic/{i}_1_0.2.png", ramp(size, 80))
        save(folder / f"Train/Dehaze/original/{i}.png", ramp(size, 100))
        save(folder / f"Train/Denoise/{i}.png", np.full((size[1], size[0], 3), 100, np.uint8))
    return layouts.read("rain-haze-noise", folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return make(tmp_path_factory.mktemp("pictures"))


def batches(pairs, steps: range, *, workers: int = 0, key: bool = False, patch: int = 16, **options) -> list[Batch]:
    sampler = samplers.create("balanced", pairs, 6, seed=3, **options)
    return list(loader(pairs, sampler, patch, steps, key=key, workers=workers))


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("degraded", "clean", "task_ids", "key"))


def test_shapes_and_types(pairs):
    (batch,) = batches(pairs, range(1), key=True)
    for patches in (batch.degraded, batch.clean, batch.key):
        assert (patches.shape, patches.dtype) == ((6, 3, 16, 16), torch.uint8)
        assert patches.is_contiguous()
    assert batch.task_ids.tolist() == [0, 1, 2, 0, 1, 2]
    assert batches(pairs, range(1))[0].key is None


def test_batch_on_the_device_is_in_0_to_1(pairs):
    (batch,) = batches(pairs, range(1), key=True)
    moved = batch.to("cpu")
    for name in ("degraded", "clean", "key"):
        assert torch.equal(getattr(moved, name), getattr(batch, name).float() / 255)
    assert moved.task_ids.dtype == torch.int64


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_number_of_workers_changes_nothing(pairs):
    alone = batches(pairs, range(5), key=True)
    for workers in (1, 3):
        assert all(map(equal, batches(pairs, range(5), key=True, workers=workers), alone))


def test_resuming_changes_nothing(pairs):
    whole = batches(pairs, range(6), key=True)
    assert all(map(equal, batches(pairs, range(4, 6), key=True), whole[4:]))


def test_shuffled_colours_come_in_one_order_a_sample(pairs):
    sampler = samplers.create("balanced", pairs, 6, seed=3, tasks=["rain"])
    plain, shuffled = (
        next(iter(loader(pairs, sampler, 16, range(1), key=True, shuffle_colours=shuffle))) for shuffle in (False, True)
    )
    orders = []
    for sample in range(6):
        [order] = [
            list(order)
            for order in permutations(range(3))
            if torch.equal(shuffled.clean[sample], plain.clean[sample][list(order)])
        ]
        assert torch.equal(shuffled.degraded[sample], plain.degraded[sample][order])
        assert torch.equal(shuffled.key[sample], plain.key[sample][order])
        orders.append(order)
    assert any(order != orders[0] for order in orders)


def test_ranks_share_the_batch(pairs):
    (whole,) = batches(pairs, range(2, 3))
    parts = [batches(pairs, range(2, 3), rank=rank, world=2)[0] for rank in range(2)]
    for name in ("degraded", "clean", "task_ids"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_steps_and_seeds_differ(pairs):
    first, second = batches(pairs, range(2))
    assert not torch.equal(first.clean[0], second.clean[0])
    dataset, other = (Patches(pairs, 16, seed) for seed in (0, 1))
    assert not all(np.array_equal(dataset[Draw(0, n)][1], other[Draw(0, n)][1]) for n in range(4))


def test_global_random_state_is_untouched(pairs):
    state = torch.get_rng_state()
    batches(pairs, range(1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("task", [0, 1])
def test_degraded_and_clean_patch_are_of_one_place_and_position(pairs, task):
    sample = pairs.task_ids.tolist().index(task)
    for number in range(30):
        degraded, clean, _, _ = Patches(pairs, 16, 0)[Draw(sample, number)]
        assert np.array_equal(degraded[..., :2], clean[..., :2])  # where the pixels come from
        assert set(clean[..., 2].flat) == {100}
        assert set(degraded[..., 2].flat) == {(50, 80)[task]}


def test_all_places_and_the_eight_positions_occur(pairs):
    corners, positions = set(), set()
    for number in range(400):
        patch = Patches(pairs, 46, 0)[Draw(0, number)][1].astype(int)
        corners.add((patch[..., 0].min(), patch[..., 1].min()))
        positions.add(tuple((patch[0, -1] - patch[0, 0])[:2]) + tuple((patch[-1, 0] - patch[0, 0])[:2]))
    assert {x for x, _ in corners} == set(range(70 - 46 + 1))
    assert {y for _, y in corners} == set(range(50 - 46 + 1))
    assert len(positions) == 8


def test_key_is_another_patch_of_the_degraded_picture(pairs):
    corners = []
    for number in range(20):
        degraded, _, _, key = Patches(pairs, 16, 0, key=True)[Draw(0, number)]
        assert set(key[..., 2].flat) == {50}
        corners.append([(patch[..., 0].min(), patch[..., 1].min()) for patch in (degraded, key)])
    assert sum(patch != key for patch, key in corners) > 15
    without = [Patches(pairs, 16, 0)[Draw(0, number)][0] for number in range(20)]
    assert [(patch[..., 0].min(), patch[..., 1].min()) for patch in without] == [patch for patch, _ in corners]


def test_noise_has_its_sigma_and_is_cut_off_to_whole_numbers(pairs):
    samples = {int(pairs.sigmas[i]): i for i in range(len(pairs)) if pairs.task_ids[i] == 2}
    for sigma, sample in samples.items():
        patches = [Patches(pairs, 48, 0, key=True)[Draw(sample, number)] for number in range(8)]
        noise = np.stack([(degraded, key) for degraded, _, _, key in patches]).astype(float) - 100
        inside = 100 / sigma  # clipped at 0 that many sigmas off
        assert noise.std() == pytest.approx(sigma, rel=0.02 if inside > 3 else 0.06)
        if sigma == 15:
            assert noise.mean() == pytest.approx(-0.5, abs=0.2)
        assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.02
        assert {int(p) for _, clean, _, _ in patches for p in clean.flat} == {100}


@pytest.mark.parametrize("size", [(9, 7), (9, 40), (40, 7), (3, 2)])
def test_small_picture_is_continued_by_its_mirror_image(size, tmp_path):
    pairs = make(tmp_path, 1, size)
    degraded, clean, _, _ = Patches(pairs, 16, 0)[Draw(0, 0)]
    assert degraded.shape == clean.shape == (16, 16, 3)
    assert np.array_equal(degraded[..., :2], clean[..., :2])
    steps = np.abs(np.diff(clean[..., :2].astype(int), axis=0)).max(), np.abs(np.diff(clean[..., :2], axis=1)).max()
    assert steps[0] <= 1  # a mirror image has no seam
    assert clean[..., 0].max() < size[0]
    assert clean[..., 1].max() < size[1]


def test_grey_and_palette_pictures_come_as_rgb(tmp_path):
    pairs = make(tmp_path, 1)
    Image.new("L", (70, 50), 7).save(pairs[0].degraded)
    Image.new("RGBA", (70, 50), (1, 2, 3, 200)).save(pairs[0].clean)
    degraded, clean, _, _ = Patches(pairs, 16, 0)[Draw(0, 0)]
    assert set(degraded.flat) == {7}
    assert clean[0, 0].tolist() == [1, 2, 3]


class TestLoad:
    def test_whole_pictures(self, pairs):
        degraded, clean = data.load(pairs[0])
        assert degraded.shape == clean.shape == (3, 50, 70)
        assert degraded[:, 4, 9].tolist() == [9, 4, 50]
        assert clean[:, 4, 9].tolist() == [9, 4, 100]

    def test_noise_is_that_of_the_picture_and_seed(self, pairs):
        noisy = [pair for pair in pairs if pair.sigma == 25]
        first = data.load(noisy[0])[0]
        assert torch.equal(first, data.load(noisy[0])[0])
        assert not torch.equal(first, data.load(noisy[1])[0])
        assert not torch.equal(first, data.load(noisy[0], seed=1)[0])
        assert (first.float() - 100).std() == pytest.approx(25, rel=0.05)


@pytest.mark.parametrize("patch", [0, -3])
def test_patch_must_be_positive(pairs, patch):
    with pytest.raises(ValueError, match="patch is"):
        Patches(pairs, patch, 0)


MEMORY = """
import resource, sys
from benchmarks.restoration import data, layouts, samplers
for folder in sys.argv[1:]:
    pairs = layouts.read("rain-haze-noise", folder)
    sampler = samplers.create("balanced", pairs, 6, 0)
    for batch in data.loader(pairs, sampler, 64, range(len(pairs) // 2)):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_folder(tmp_path):
    for number in (5, 10):
        make(tmp_path / str(number), number, (700, 500))
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / number) for number in ("5", "10"))]
    few, twice = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert twice - few < 8_000  # kB; the further 25 pictures have 26 MB of pixels, and all are drawn


INTERRUPTED = """
import itertools, signal, sys
from benchmarks.restoration import data, layouts, samplers
if __name__ == "__main__":
    pairs = layouts.read("rain-haze-noise", sys.argv[1])
    sampler = samplers.create("balanced", pairs, 6, 0)
    batches = iter(data.loader(pairs, sampler, 16, range(10**9), workers=2))
    next(batches)
    caught = []
    handler = signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    print(*(worker.pid for worker in batches._workers), flush=True)
    while not caught:
        next(batches)
    list(itertools.islice(batches, 30))  # more than were fetched ahead
    signal.signal(signal.SIGINT, handler)
    print("went on", flush=True)
    list(batches)
"""


def test_interrupt_is_left_to_the_main_process_and_leaves_no_process_behind(pairs):
    command = [sys.executable, "-c", INTERRUPTED, str(pairs.folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: the workers get it too
    assert process.stdout.readline() == "went on\n"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    until = time.monotonic() + 10
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, f"left behind: {alive}"
        time.sleep(0.05)


class Threads(Patches):
    """A patch of one pixel, whose value is the number of torch's threads."""

    def __getitem__(self, draw):
        patch = np.full((1, 1, 3), torch.get_num_threads(), np.uint8)
        return patch, patch, 0, None


def test_worker_runs_one_thread(pairs, monkeypatch):
    monkeypatch.setattr(data, "Patches", Threads)
    assert {int(batch.clean[0, 0, 0, 0]) for batch in batches(pairs, range(2), patch=1, workers=1)} == {1}


@pytest.mark.parametrize("workers", [0, 1])
def test_file_that_breaks_while_training_is_named(workers, tmp_path):
    pairs = make(tmp_path, 1, (200, 200))
    file = pairs[0].degraded
    content = bytearray(file.read_bytes())
    content[60:90] = bytes(30)
    file.write_bytes(content)
    layouts.read("rain-haze-noise", tmp_path)  # its header and its end are whole
    with pytest.raises(OSError, match=r"rain-0.png or its partner .*norain-0.png cannot be decoded"):
        batches(pairs, range(2), workers=workers)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_patches_move_to_the_gpu(pairs):
    (batch,) = batches(pairs, range(1), key=True)
    assert batch.degraded.is_pinned()
    moved = batch.to("cuda")
    assert torch.equal(moved.clean.cpu(), batch.clean.float() / 255)
