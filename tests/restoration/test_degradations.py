from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Generator, Tensor

from benchmarks.restoration import degradations, images, layouts
from benchmarks.restoration.degradations import (
    SMALLEST_SIDE,
    TASKS,
    apply,
    blur,
    dark,
    degrade,
    draw,
    flake,
    gaussian,
    haze,
    jpeg,
    noise,
    plausible_depth,
    rain,
    snow,
    sr,
    streak,
    to_uint8,
)
from benchmarks.restoration.photographs import packaged

from . import golden

# The levels of MiOIR's training set, both ends included; those of snow are ours.
TRAINING: dict[str, dict[str, tuple[float, float]]] = {
    "sr": {},
    "blur": {"size": (7, 21), "sigma": (1.0, 3.0)},
    "noise": {"sigma": (15, 50)},
    "jpeg": {"quality": (30, 70)},
    "rain": {"amount": (50, 99), "length": (20, 40), "angle": (-45, 44), "width": (3, 11)},
    "haze": {"airlight": (0.8, 1.0), "density": (0.5, 2.5)},
    "dark": {"gamma": (1.0, 3.0)},
    "snow": {"amount": (0.02, 0.1), "size": (2.0, 4.0), "length": (0, 24), "angle": (-45, 44)},
}
# What is harder out of distribution.
HARDER: dict[str, dict[str, tuple[float, float]]] = {
    "sr": {},
    "blur": {"sigma": (3.0, 5.0)},
    "noise": {"sigma": (50, 70)},
    "jpeg": {"quality": (10, 30)},
    "rain": {"amount": (100, 149)},
    "haze": {"density": (2.5, 3.0)},
    "dark": {"gamma": (3.0, 4.0)},
    "snow": {"amount": (0.1, 0.2)},
}
RANGES = {
    "train": TRAINING,
    "test": TRAINING,
    "out-of-distribution": {task: {**TRAINING[task], **HARDER[task]} for task in TRAINING},
}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    """A detailed part of astronaut whose sides no power of two divides."""
    return packaged()[0].image[:, 100:249, 150:317].contiguous()


@pytest.fixture(scope="module")
def photographs(photograph) -> Tensor:
    """Three views of it."""
    return torch.stack([photograph, photograph.flip(2), 255 - photograph])


@pytest.fixture(scope="module")
def image(photograph) -> Tensor:
    return photograph / 255


def grey(value: float = 0.5, height: int = 65, width: int = 83) -> Tensor:
    return torch.full((3, height, width), value)


# Every task


def test_settings_name_known_tasks():
    assert layouts.SETTINGS["rain-haze-noise"] == ("rain", "haze", "noise")
    assert layouts.SETTINGS["multiple"] == ("sr", "blur", "noise", "jpeg", "rain", "haze", "dark")
    assert {*TASKS} == {task for tasks in layouts.SETTINGS.values() for task in tasks}


@pytest.mark.parametrize("levels", RANGES)
@pytest.mark.parametrize("task", TASKS)
def test_shape_and_dtype_are_kept_and_the_image_changes(photographs, task, levels):
    before = photographs.clone()
    degraded = degrade(photographs, task, range(3), levels=levels)
    assert degraded.dtype == torch.uint8
    assert degraded.shape == photographs.shape
    assert (degraded != photographs).float().mean() > 0.1
    assert torch.equal(photographs, before)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_determines_every_byte(photographs, task):
    global_state = torch.get_rng_state()
    first, again = degrade(photographs, task, [3, 4, 5]), degrade(photographs, task, [3, 4, 5])
    other = degrade(photographs, task, [6, 7, 8])
    assert torch.equal(first, again)
    for one, another in zip(first, other, strict=True):
        assert torch.equal(one, another) == (task == "sr")  # which has one level
    assert torch.equal(torch.get_rng_state(), global_state)


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_is_its_images_one_by_one_in_any_order(photographs, task):
    together = degrade(photographs, task, [5, 9, 5])
    for index, seed in enumerate([5, 9, 5]):
        assert torch.equal(together[index], degrade(photographs[[index]], task, [seed])[0])
    assert torch.equal(degrade(photographs[[2, 0]], task, [5, 5]), together[[2, 0]])


@pytest.mark.parametrize("task", TASKS)
def test_result_is_that_of_the_drawn_levels_rounded_to_8_bits(photographs, task):
    generator = seeded(7)
    levels = draw(task, generator, "out-of-distribution")
    expected = (255 * apply(photographs[0] / 255, task, levels, generator)).clamp(0, 255).double()
    degraded = degrade(photographs[:1], task, [7], levels="out-of-distribution")[0].double()
    assert (degraded - expected).abs().max() <= 0.5


@pytest.mark.parametrize("levels", RANGES)
@pytest.mark.parametrize("task", TASKS)
def test_levels_span_their_ranges_and_never_leave_them(task, levels):
    generator = seeded()
    drawn = [draw(task, generator, levels) for _ in range(1000)]
    assert drawn[0].keys() == RANGES[levels][task].keys()
    for name, (low, high) in RANGES[levels][task].items():
        values = [level[name] for level in drawn]
        assert {type(value) for value in values} == {type(low)}
        assert low <= min(values) <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
        if name in ("size", "width") and task != "snow":
            assert all(value % 2 == 1 for value in values)


@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_noise_of_a_fixed_level(sigma):
    """The levels of AirNet and PromptIR."""
    assert draw("noise", seeded(), {"sigma": sigma}) == {"sigma": sigma}
    flat = torch.full((2, 3, 200, 200), 128, dtype=torch.uint8)
    field = degrade(flat, "noise", [0, 1], levels={"sigma": sigma}).double() - 128
    # Clipping at 0 and 255 takes 2% of a deviation of 50.
    assert field.flatten(1).std(1).tolist() == pytest.approx([sigma, sigma], rel=0.03 if sigma == 50 else 0.01)
    assert field.mean().item() == pytest.approx(0, abs=0.5)


# PSNR in dB over twelve seeds, training and out of distribution: measured, with a decibel to spare on either side.
PSNR = {
    "sr": ((20.2, 22.2), (20.2, 22.2)),
    "blur": ((22.0, 28.4), (20.2, 24.9)),
    "noise": ((14.5, 26.3), (12.2, 16.2)),
    "jpeg": ((29.8, 34.7), (26.6, 31.6)),
    "rain": ((13.7, 20.6), (11.9, 18.1)),
    "haze": ((7.9, 18.3), (6.6, 11.4)),
    "dark": ((12.0, 53.6), (9.3, 13.0)),
    "snow": ((12.2, 21.8), (9.0, 14.4)),
}


def psnr(degraded: Tensor, clean: Tensor) -> float:
    return -10 * ((degraded.double() - clean) / 255).square().mean().log10().item()


@pytest.mark.parametrize("levels", ["train", "out-of-distribution"])
@pytest.mark.parametrize("task", TASKS)
def test_difficulty_stays_in_its_range(photograph, task, levels):
    images = photograph.expand(12, -1, -1, -1)
    found = [psnr(degraded, photograph) for degraded in degrade(images, task, range(12), levels=levels)]
    low, high = PSNR[task][levels == "out-of-distribution"]
    assert low <= min(found)
    assert max(found) <= high


def test_every_task_looks_as_in_the_golden_picture():
    """Which was looked at: tests/restoration/golden.py."""
    expected = golden.split(images.read(golden.PATH).pixels)
    found = golden.cells()
    assert list(found) == ["clean", *TASKS]
    for (name, cell), golden_cell in zip(found.items(), expected, strict=True):
        off = (cell.int() - golden_cell.int()).abs()
        if name == "jpeg":  # decoders differ
            assert off.float().mean() < 1
        else:
            assert off.max() <= 1, name
            assert off.float().mean() < 0.01, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("task", TASKS)
def test_a_seed_means_the_same_on_a_gpu(photographs, task):
    on_gpu = degrade(photographs.cuda(), task, range(3))
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu, degrade(photographs.cuda(), task, range(3)))
    off = (on_gpu.cpu().int() - degrade(photographs, task, range(3)).int()).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.01


def test_unknown_task_lists_the_known_ones(photographs):
    known = "sr, blur, noise, jpeg, rain, haze, dark, snow"
    with pytest.raises(ValueError, match=f"given the task 'fog'; it knows {known}: choose"):
        degrade(photographs, "fog", range(3))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("hard", "given the levels 'hard'; it knows train, test, out-of-distribution: choose"),
        ({"gamma": 2}, "given the levels gamma of noise; it wants exactly sigma: name"),
        ({}, "given the levels none of noise; it wants exactly sigma: name"),
    ],
)
def test_unknown_levels_are_refused(photographs, levels, message):
    with pytest.raises(ValueError, match=message):
        degrade(photographs, "noise", range(3), levels=levels)


@pytest.mark.parametrize(
    ("task", "images"),
    [
        ("dark", torch.zeros(2, 3, 8, 8)),
        ("dark", torch.zeros(2, 1, 8, 8, dtype=torch.uint8)),
        ("dark", torch.zeros(3, 8, 8, dtype=torch.uint8)),
        *((task, torch.zeros(2, 3, side - 1, 99, dtype=torch.uint8)) for task, side in SMALLEST_SIDE.items()),
    ],
)
def test_images_of_another_kind_are_refused(task, images):
    with pytest.raises(ValueError, match=rf"{task} wants torch.uint8 \[B, 3, H, W\] with sides of at least"):
        degrade(images, task, range(len(images)))


@pytest.mark.parametrize("task", TASKS)
def test_the_smallest_images_are_degraded(task):
    side = SMALLEST_SIDE.get(task, 2)
    images = torch.full((40, 3, side, side), 9, dtype=torch.uint8)
    assert degrade(images, task, range(40), levels="out-of-distribution").shape == images.shape


def test_a_seed_and_a_depth_for_each_image_are_demanded(photographs):
    with pytest.raises(ValueError, match="given 2 seeds for 3 images; it wants one an image"):
        degrade(photographs, "noise", [1, 2])
    with pytest.raises(ValueError, match=r"given a depth of shape \(149, 167\) .*; it wants \[B, H, W\]"):
        degrade(photographs, "haze", range(3), depth=torch.zeros(149, 167))


@pytest.mark.parametrize(
    "neutral",
    [
        lambda image: blur(image, size=21, sigma=1e-3),
        lambda image: noise(image, sigma=0, generator=seeded()),
        lambda image: rain(image, amount=0, length=30, angle=10, width=5, generator=seeded()),
        lambda image: haze(image, torch.rand(image.shape[1:], generator=seeded()), airlight=0.9, density=0),
        lambda image: haze(image, torch.zeros(image.shape[1:]), airlight=0.9, density=2),
        lambda image: dark(image, gamma=1),
        lambda image: snow(image, amount=0, size=3, length=5, angle=10, generator=seeded()),
    ],
    ids=["blur", "noise", "rain", "haze-density", "haze-depth", "dark", "snow"],
)
def test_neutral_level_leaves_the_image(photograph, neutral):
    assert torch.equal(to_uint8(neutral(photograph / 255)), photograph)


def test_rounding_to_8_bits():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255, 255]


# sr


@pytest.mark.parametrize("size", [(64, 48), (65, 83), (30, 31)])
def test_sr_keeps_size_and_constants(size):
    torch.testing.assert_close(sr(grey(0.3, *size)), grey(0.3, *size))


def test_sr_weighs_a_block_without_antialiasing():
    """A quarter of 4 x 4 pixels is one, half-way between the middle ones: bicubic (a = -3/4) reads all 4 x 4."""
    block = torch.rand(3, 4, 4, generator=seeded())
    weights = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
    expected = torch.einsum("i,cij,j->c", weights, block, weights)
    torch.testing.assert_close(sr(block), expected[:, None, None].expand(3, 4, 4))


# blur


@pytest.mark.parametrize(("size", "sigma"), [(7, 1.0), (13, 2.2), (21, 3.0)])
def test_blur_is_a_truncated_gaussian_with_reflected_borders(image, size, sigma):
    expected = ndimage.gaussian_filter(
        image.double().numpy(), sigma=(0, sigma, sigma), radius=(0, size // 2, size // 2), mode="mirror"
    )
    torch.testing.assert_close(blur(image, size, sigma).double(), torch.from_numpy(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("size", "sigma"), [(7, 1.0), (7, 5.0), (21, 3.0), (21, 5.0)])
def test_blur_kernel_sums_to_one_and_is_widest_in_the_middle(size, sigma):
    kernel = gaussian(size, sigma)
    assert kernel.shape == (size, size)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert kernel.min() > 0
    assert kernel.argmax() == size * size // 2
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    torch.testing.assert_close(kernel, kernel.T)


def test_blur_keeps_a_constant():
    torch.testing.assert_close(blur(grey(0.7), size=21, sigma=3), grey(0.7))


@pytest.mark.parametrize("shape", [(3, 3), (40, 40), (5, 8)])
def test_convolution_matches_scipy(image, shape):
    kernel = torch.rand(shape, generator=seeded(), dtype=torch.float64)
    expected = ndimage.convolve(image[0].double().numpy(), kernel.numpy(), mode="mirror")
    result = degradations._convolve(image[:1].double(), kernel)[0]
    torch.testing.assert_close(result, torch.from_numpy(expected))


# noise


def test_noise_has_the_standard_deviation_of_its_level():
    noisy = to_uint8(noise(grey(128 / 255, 200, 300), sigma=25, generator=seeded())).double()
    assert noisy.mean().item() == pytest.approx(128, abs=0.3)
    assert noisy.std().item() == pytest.approx(25, rel=0.01)


def test_noise_is_independent_over_channels_and_pixels():
    field = noise(grey(0.0, 200, 300), sigma=25, generator=seeded())
    assert torch.corrcoef(field.flatten(1)).triu(1).abs().max() < 0.02
    neighbours = torch.stack([field[:, :, 1:].flatten(), field[:, :, :-1].flatten()])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.02


# jpeg


@pytest.mark.parametrize("quality", [30, 70])
def test_jpeg_is_what_pillow_writes(photograph, image, quality):
    file = BytesIO()
    Image.fromarray(photograph.permute(1, 2, 0).numpy()).save(file, format="JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    assert torch.equal(to_uint8(jpeg(image, quality)), expected)


def test_jpeg_of_lower_quality_is_farther(image):
    errors = [(jpeg(image, quality) - image).square().mean() for quality in (30, 50, 70)]
    assert errors[0] > errors[1] > errors[2] > 0


# rain


def rainy(image: Tensor, amount: float = 75, angle: float = 0, seed: int = 0) -> Tensor:
    return rain(image, amount=amount, length=30, angle=angle, width=5, generator=seeded(seed))


def test_rain_adds_one_grey_field_that_spans_the_range(image):
    streaks = rainy(image) - image
    assert streaks.min().item() == pytest.approx(0, abs=1e-6)
    assert streaks.max().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(streaks[0], streaks[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(streaks[0], streaks[2], atol=1e-6, rtol=0)


def test_rain_only_brightens_the_8_bit_image(photograph):
    degraded = degrade(photograph[None], "rain", [0])
    assert (degraded >= photograph).all()


def test_more_rain_covers_more():
    covered = [(rainy(grey(0.0, 200, 200), amount) > 0.1).float().mean() for amount in (50, 75, 99)]
    assert covered[0] < covered[1] < covered[2] < 0.9


@pytest.mark.parametrize("amount", [50, 99])
def test_a_drop_falls_on_one_pixel_in_25600_per_amount(monkeypatch, amount):
    monkeypatch.setattr(degradations, "streak", lambda length, angle, width: torch.ones(1, 1))
    drops = rainy(grey(0.0, 1000, 1000), amount)[0] > 0.5
    assert drops.float().mean().item() == pytest.approx(amount / 25600, rel=0.06)


def direction(kernel: Tensor) -> float:
    """Lean of the principal axis from upright, degrees anticlockwise, from second moments."""
    mass = kernel.double() / kernel.sum()
    rows, columns = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in kernel.shape)
    vertical, horizontal = (mass * rows[:, None] ** 2).sum(), (mass * columns**2).sum()
    mixed = (mass * rows[:, None] * columns).sum()
    return torch.rad2deg(torch.atan2(2 * mixed, vertical - horizontal) / 2).item()


@pytest.mark.parametrize("angle", [-45, -20, 0, 10, 44])
@pytest.mark.parametrize(("length", "width"), [(20, 3), (31, 7), (40, 11)])
def test_streak_leans_by_its_angle(length, width, angle):
    kernel = streak(length, angle, width)
    assert kernel.shape == (length, length)
    assert kernel.min() > -1e-6
    assert direction(kernel) == pytest.approx(angle, abs=2)


def extent(profile: Tensor) -> float:
    """Standard deviation of the mass along a line, pixels."""
    position = torch.arange(len(profile), dtype=profile.dtype)
    mass = profile / profile.sum()
    return (mass * (position - (mass * position).sum()) ** 2).sum().sqrt().item()


@pytest.mark.parametrize("length", [20, 30, 40])
def test_diagonal_streak_is_shrunk_by_its_length(length):
    """An even line over l rows has a standard deviation of l / sqrt(12)."""
    rows = length * (1 - length / 100)
    assert extent(streak(length, 45, 3).sum(1)) == pytest.approx(rows / 12**0.5, rel=0.03)


def test_upright_streaks_widen_with_width_and_stretch_with_length():
    across = [extent(streak(30, 0, width).sum(0)) for width in (3, 7, 11)]
    along = [extent(streak(length, 0, 5).sum(1)) for length in (20, 30, 40)]
    assert across == sorted(across)
    assert along == sorted(along)
    assert max(across) < min(along)


# haze


def test_haze_is_airlight_far_away(image):
    torch.testing.assert_close(haze(image, torch.full(image.shape[1:], 1e3), 0.9, 1.0), torch.full_like(image, 0.9))


def test_haze_of_a_known_transmission():
    """exp(-ln 2) = 1/2: half the image, half the airlight."""
    result = haze(grey(0.2), torch.full((65, 83), 0.5), airlight=0.8, density=2 * np.log(2))
    torch.testing.assert_close(result, grey(0.5))


def test_haze_uses_the_depth_of_each_image(photographs):
    """Nothing hides what is near; what lies at one depth loses contrast evenly."""
    near, far = torch.zeros(149, 167), torch.ones(149, 167)
    hazy = degrade(photographs[[0, 0]], "haze", [4, 4], depth=torch.stack([near, far]))
    assert torch.equal(hazy[0], photographs[0])
    levels = draw("haze", seeded(4))
    transmission = np.exp(-levels["density"])
    expected = transmission * photographs[0].double() + 255 * levels["airlight"] * (1 - transmission)
    torch.testing.assert_close(hazy[1].double(), expected, atol=0.51, rtol=0)


def test_haze_without_a_depth_takes_the_stand_in(photographs):
    generator = seeded(4)
    levels = draw("haze", generator)
    depth = plausible_depth((149, 167), generator)
    assert torch.equal(
        degrade(photographs[:1], "haze", [4]), degrade(photographs[:1], "haze", [4], depth[None], levels)
    )


def test_stand_in_depth_is_smooth_spans_the_range_and_is_far_at_the_top():
    for seed in range(20):
        depth = plausible_depth((120, 200), seeded(seed))
        assert depth.shape == (120, 200)
        assert depth.min() == 0
        assert depth.max() == 1
        assert max(depth.diff(dim=dim).abs().max() for dim in (0, 1)) < 0.05
        assert depth[:12].mean() > depth[-12:].mean() + 0.3


# dark


def test_dark_never_brightens_and_keeps_black_and_white(image):
    assert (dark(image, gamma=2.5) <= image).all()
    assert dark(torch.tensor([0.0, 0.5, 1.0]), gamma=2).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("levels", RANGES)
def test_dark_is_the_gamma_curve_exactly(levels):
    """Of every 8-bit value."""
    values = torch.arange(256, dtype=torch.uint8).expand(1, 3, 2, 256)
    gamma = draw("dark", seeded(2), levels)["gamma"]
    expected = (255 * (torch.arange(256, dtype=torch.float64) / 255) ** gamma).round()
    assert torch.equal(degrade(values, "dark", [2], levels=levels)[0, 0, 0].double(), expected)


# snow


def snowy(image: Tensor, amount: float = 0.05, size: float = 3, length: float = 0, seed: int = 0) -> Tensor:
    return snow(image, amount=amount, size=size, length=length, angle=0, generator=seeded(seed))


def test_snow_is_white_over_the_image(image):
    """The same mask over black and over the image: I (1 - M) + M."""
    mask = snowy(torch.zeros_like(image))
    assert mask.min() > -1e-6
    assert 0.7 < mask.max() <= 1
    torch.testing.assert_close(mask[0], mask[2])
    torch.testing.assert_close(snowy(image), image * (1 - mask) + mask)
    torch.testing.assert_close(snowy(grey(1.0)), grey(1.0))


@pytest.mark.parametrize("amount", [0.02, 0.1])
def test_snow_covers_its_amount_three_times(amount):
    """Flakes of mean opacity 3/4 that overlap at random; less where they sum to more than 1."""
    mask = snowy(grey(0.0, 500, 500), amount)[0].mean().item()
    assert mask == pytest.approx(1 - (1 - 0.75 * amount) ** 3, rel=0.1)


def test_more_and_larger_flakes():
    def cover(**levels: float) -> float:
        return (snowy(grey(0.0, 300, 300), **levels)[0] > 0.2).float().mean().item()

    assert cover(amount=0.02) < cover(amount=0.05) < cover(amount=0.2) < 0.9
    small, large = (snowy(grey(0.0, 300, 300), size=size)[0] for size in (2, 4))
    assert small.diff().abs().mean() > 1.5 * large.diff().abs().mean()


@pytest.mark.parametrize("angle", [-45, -20, 0, 10, 44])
@pytest.mark.parametrize(("sigma", "length"), [(1.0, 8), (3.0, 24)])
def test_flake_leans_by_its_angle(sigma, length, angle):
    kernel = flake(sigma, length, angle)
    middle = len(kernel) // 2
    assert kernel[middle, middle] == kernel.max() == 1
    assert direction(kernel) == pytest.approx(angle, abs=1)


def test_flake_without_motion_is_round_and_soft():
    kernel = flake(2.0, 0, 30)
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel / kernel.sum(), gaussian(len(kernel), 2.0))
    assert extent(flake(2.0, 20, 0).sum(1)) > 2 * extent(flake(2.0, 20, 0).sum(0))
