from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Generator, Tensor

from benchmarks.restoration import degradations
from benchmarks.restoration.degradations import (
    DEGRADATIONS,
    SETTINGS,
    blur,
    dark,
    degrade,
    haze,
    jpeg,
    noise,
    plausible_depth,
    rain,
    sr,
    streak,
    to_uint8,
)
from benchmarks.restoration.photographs import Photograph, packaged

TASKS = SETTINGS["multiple"]

# The levels of MiOIR's training set, both ends included.
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "sr": {},
    "blur": {"size": (7, 21), "sigma": (1.0, 3.0)},
    "noise": {"sigma": (15, 50)},
    "jpeg": {"quality": (30, 70)},
    "rain": {"amount": (50, 99), "length": (20, 40), "angle": (-45, 44), "width": (3, 11)},
    "haze": {"airlight": (0.8, 1.0), "density": (0.5, 2.5)},
    "dark": {"gamma": (1.0, 3.0)},
}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photograph() -> Photograph:
    """A detailed part of astronaut whose sides no power of two divides."""
    return Photograph("astronaut", packaged()[0].image[:, 100:249, 150:317].contiguous())


@pytest.fixture(scope="module")
def image(photograph) -> Tensor:
    return photograph.image / 255


def grey(value: float = 0.5, height: int = 65, width: int = 83) -> Tensor:
    return torch.full((3, height, width), value)


# Every task


def test_settings_name_known_tasks():
    assert SETTINGS == {
        "rain-haze-noise": ("rain", "haze", "noise"),
        "multiple": ("sr", "blur", "noise", "jpeg", "rain", "haze", "dark"),
    }
    assert set(DEGRADATIONS) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_shape_and_dtype_are_kept_and_the_image_changes(photograph, task):
    before = photograph.image.clone()
    degraded = degrade(photograph, task, seeded())
    assert degraded.dtype == torch.uint8
    assert degraded.shape == photograph.image.shape
    assert (degraded != photograph.image).float().mean() > 0.1
    assert torch.equal(photograph.image, before)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_determines_every_byte(photograph, task):
    global_state = torch.get_rng_state()
    first, again = degrade(photograph, task, seeded(3)), degrade(photograph, task, seeded(3))
    other = degrade(photograph, task, seeded(4))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (task == "sr")  # which has one level
    assert torch.equal(torch.get_rng_state(), global_state)


@pytest.mark.parametrize("task", TASKS)
def test_a_generator_moves_on(photograph, task):
    generator = seeded()
    first, second = degrade(photograph, task, generator), degrade(photograph, task, generator)
    assert torch.equal(first, second) == (task == "sr")


@pytest.mark.parametrize("task", TASKS)
def test_levels_span_their_ranges(monkeypatch, task):
    drawn: list[dict[str, float]] = []

    def record(image: Tensor, **arguments) -> Tensor:
        drawn.append({name: value for name, value in arguments.items() if isinstance(value, int | float)})
        return image

    monkeypatch.setattr(degradations, task, record)
    generator = seeded()
    for _ in range(1000):
        DEGRADATIONS[task](torch.zeros(3, 1, 1), torch.ones(1, 1), generator)
    assert drawn[0].keys() == RANGES[task].keys()
    for name, (low, high) in RANGES[task].items():
        values = [levels[name] for levels in drawn]
        assert {type(value) for value in values} == {type(low)}
        assert low <= min(values) <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
        if name in ("size", "width"):
            assert all(value % 2 == 1 for value in values)


def test_unknown_task_lists_the_known_ones(photograph):
    with pytest.raises(ValueError, match="given the task 'snow'; it knows sr, blur, noise, jpeg, rain, haze, dark"):
        degrade(photograph, "snow", seeded())


@pytest.mark.parametrize(
    "neutral",
    [
        lambda image: blur(image, size=21, sigma=1e-3),
        lambda image: noise(image, sigma=0, generator=seeded()),
        lambda image: rain(image, amount=0, length=30, angle=10, width=5, generator=seeded()),
        lambda image: haze(image, torch.rand(image.shape[1:], generator=seeded()), airlight=0.9, density=0),
        lambda image: haze(image, torch.zeros(image.shape[1:]), airlight=0.9, density=2),
        lambda image: dark(image, gamma=1),
    ],
    ids=["blur", "noise", "rain", "haze-density", "haze-depth", "dark"],
)
def test_neutral_level_leaves_the_image(photograph, neutral):
    assert torch.equal(to_uint8(neutral(photograph.image / 255)), photograph.image)


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
    Image.fromarray(photograph.image.permute(1, 2, 0).numpy()).save(file, format="JPEG", quality=quality)
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
    degraded = degrade(photograph, "rain", seeded())
    assert (degraded >= photograph.image).all()


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


def test_haze_uses_the_depth_of_the_photograph(photograph):
    flat = Photograph("near", photograph.image, depth=torch.zeros(photograph.image.shape[1:]))
    assert torch.equal(degrade(flat, "haze", seeded()), photograph.image)
    assert not torch.equal(degrade(photograph, "haze", seeded()), photograph.image)


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
