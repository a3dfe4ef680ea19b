"""Stains and colours vary within bounds, each for itself, and only where images have colours."""

import dataclasses

import numpy as np
import pytest
from skimage.color import hed_from_rgb, rgb2hsv, rgb_from_hed

from genenet.augment import Augmentation
from genenet.augment_color import vary_colors
from genenet.dataset import Dataset
from genenet.errors import InputError
from genenet.plan import WindowShape
from genenet.settings import WindowSettings
from genenet.windows import TrainingWindows

OFF = Augmentation.off()
STAIN = dataclasses.replace(OFF, stain=0.2)
COLOR = dataclasses.replace(OFF, color=0.3)
BOTH = dataclasses.replace(OFF, stain=0.4, color=0.4)


def stained(amounts):
    """An 8-bit image of `(..., 3)` amounts of haematoxylin, eosin and the rest, not rounded."""
    return 255 * np.exp(-np.asarray(amounts, np.float64) @ rgb_from_hed)


def amounts(image):
    return -np.log(image / 255) @ hed_from_rgb


def tissue(shape=(40, 30), seed=0):
    """Amounts such that no light is lost or added beyond the range of 8 bits when they vary."""
    return np.random.default_rng(seed).uniform([0.3, 0.3, 0], [1.5, 1, 0.2], (*shape, 3))


def test_off_is_the_image_itself_and_draws_nothing():
    rng, reference = np.random.default_rng(0), np.random.default_rng(0)
    image = np.zeros((4, 4, 1), np.int32)
    assert vary_colors(image, Augmentation(), rng) is image
    assert rng.bit_generator.state == reference.bit_generator.state


@pytest.mark.parametrize("name", ["stain", "color"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
def test_hardly_anything_asked_gives_the_image_back(name, kind):
    """Every colour, also those that no mixture of the stains makes, and black."""
    largest = 65535 if kind == np.uint16 else 255
    image = np.random.default_rng(0).integers(largest + 1, size=(50, 50, 3)).astype(kind)
    image[0], image[1] = 0, largest
    varied = vary_colors(image, dataclasses.replace(OFF, **{name: 1e-7}), np.random.default_rng(0))
    assert varied.dtype == np.float32
    assert np.abs(varied - image).max() <= max(0.51, 1e-5 * largest)


@pytest.mark.parametrize("settings", [STAIN, COLOR, BOTH], ids=["stain", "color", "both"])
def test_the_same_seed_gives_the_same_colours_in_the_range_of_the_image(settings):
    image = np.random.default_rng(0).integers(256, size=(3, 20, 20, 3), dtype=np.uint8)
    first = vary_colors(image, settings, np.random.default_rng(3))
    np.testing.assert_array_equal(first, vary_colors(image, settings, np.random.default_rng(3)))
    np.testing.assert_allclose(first, vary_colors(image.astype(float), settings, np.random.default_rng(3)), atol=0.01)
    wide = vary_colors(image.astype(np.uint16) * 257, settings, np.random.default_rng(3))
    light = (image > 0).all(-1)  # black is blacker in 16 bits
    np.testing.assert_allclose(wide[light] / 257, first[light], atol=0.01)
    assert (vary_colors(image, settings, np.random.default_rng(4)) != first).any()
    for seed in range(30):
        varied = vary_colors(image, settings, np.random.default_rng(seed))
        assert varied.min() >= 0
        assert varied.max() <= 255


def test_amounts_of_stain_are_stretched_and_shifted_each_for_itself():
    before = tissue()
    factors, shifts = [], []
    for seed in range(200):
        after = amounts(vary_colors(stained(before), STAIN, np.random.default_rng(seed)).astype(np.float64))
        lines = [np.polyfit(before[..., stain].ravel(), after[..., stain].ravel(), 1) for stain in range(3)]
        for stain, line in enumerate(lines):
            np.testing.assert_allclose(np.polyval(line, before[..., stain]), after[..., stain], atol=1e-4)
        np.testing.assert_allclose(lines[2], (1, 0), atol=1e-3)  # what neither explains stays
        factors.append([line[0] for line in lines[:2]])
        shifts.append([line[1] for line in lines[:2]])
    for found, middle, most in ((np.array(factors), 1, 0.2), (np.array(shifts), 0, 0.05)):
        assert np.abs(found - middle).max() <= most + 1e-3
        assert (np.abs(found - middle).max(0) > 0.9 * most).all()
        assert abs(np.corrcoef(found.T)[0, 1]) < 0.3  # four standard deviations of 200 independent pairs


def test_the_hue_of_haematoxylin_stays_while_its_amount_changes():
    nucleus = stained([[[1.3, 0, 0]]])
    varied = [vary_colors(nucleus, STAIN, np.random.default_rng(seed)) for seed in range(50)]
    hues = np.array([rgb2hsv(one / 255)[0, 0, 0] for one in varied])
    assert np.abs(hues - rgb2hsv(nucleus / 255)[0, 0, 0]).max() < 0.04
    assert np.ptp([one.mean() for one in varied]) > 25


def test_greys_stay_grey_and_colours_keep_their_brightness():
    image = np.random.default_rng(0).uniform(100, 150, (20, 20, 3))
    grey = np.repeat(image[..., :1], 3, -1)
    stretches, turns = [], []
    for seed in range(200):
        np.testing.assert_allclose(vary_colors(grey, COLOR, np.random.default_rng(seed)), grey, atol=1e-3)
        varied = vary_colors(image, COLOR, np.random.default_rng(seed)).astype(np.float64)
        np.testing.assert_allclose(varied.mean(-1), image.mean(-1), atol=1e-3)
        before, after = (one - one.mean(-1, keepdims=True) for one in (image, varied))
        ratio = np.linalg.norm(after, axis=-1) / np.linalg.norm(before, axis=-1)
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
        stretches.append(ratio[0, 0])
        turns.append(np.arccos((before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after)))
    assert 0.7 - 1e-3 <= min(stretches) < 0.75
    assert 1.25 < max(stretches) <= 1.3 + 1e-3
    assert 0.25 < max(turns) <= 0.3 + 1e-3


def test_a_missing_value_stays_one_voxel():
    image = stained(tissue())
    image[3, 4, 1] = np.nan
    missing = np.isnan(vary_colors(image, BOTH, np.random.default_rng(0))).any(-1)
    assert missing.sum() == 1
    assert missing[3, 4]


def data_of(tmp_path, image):
    labels = np.zeros(image.shape[:3], np.uint16)
    labels[:, 10:20, 10:20], labels[:, 20:30, 10:20] = 300, 40_000
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "labels.npy", labels)
    return Dataset.open(
        {
            "image": str(tmp_path / "image.npy"),
            "labels": str(tmp_path / "labels.npy"),
            "classes": [{"value": 0, "name": "background"}, {"value": 1, "name": "nucleus", "also": "others"}],
            "training": {"y": [0, 64]},
            "validation": {"y": [64, 96]},
        }
    )


def windows_of(data, augmentation, **settings):
    settings = WindowSettings(batch_size=3, augmentation=augmentation, **settings)
    window = WindowShape((32, 32), (32, 32))
    return TrainingWindows(data, window, data.normalization(), settings, seed=0, distances=True)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_windows_of_tissue_are_the_same_for_the_same_step(tmp_path, kind):
    image = stained(tissue((1, 96, 64))) * (257 if kind == np.uint16 else 1)
    data = data_of(tmp_path, image.astype(kind))
    first, again, next_one = (windows_of(data, Augmentation.histology()).batch(step) for step in (4, 4, 5))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.distances, again.distances)
    assert (first.images != next_one.images).any()
    assert first.images.shape == (3, 32, 32, 3)
    assert np.isfinite(first.images).all()
    assert np.abs(first.images.mean()) < 1  # still about normalised


def test_colours_vary_before_normalisation(tmp_path):
    data = data_of(tmp_path, stained(tissue((1, 96, 64))).astype(np.uint8))
    windows = windows_of(data, BOTH)
    batch = windows.batch(0)
    for index, image in enumerate(batch.images):
        rng = np.random.default_rng([0, 0, index])
        part, start = windows._draw(rng, index)
        raw = vary_colors(part.read_image(start, (1, 32, 32)), BOTH, rng)
        np.testing.assert_array_equal(image, data.normalization()(raw)[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((1, 96, 64), np.uint8),
            r"need images of 3 channels \(red, green, blue\), but .*image.npy has 1; set `color` and `stain` to 0",
        ),
        (np.zeros((1, 96, 64, 4), np.uint8), "need images of 3 channels .* has 4; set `color` and `stain` to 0"),
        (np.zeros((1, 96, 64, 3), np.int32), "8 or 16 bits or of floats of 0 to 255, .* holds int32; convert it, or"),
        (
            np.zeros((1, 96, 64, 3), np.float32),
            r"need floats of 0 to 255, but those of .*image.npy have a mean of 0.\d+; multiply them to that range, or",
        ),
    ],
)
@pytest.mark.parametrize("settings", [STAIN, COLOR], ids=["stain", "color"])
def test_colours_are_refused_where_there_are_none(tmp_path, image, message, settings):
    image = image + np.random.default_rng(0).integers(2, size=image.shape).astype(image.dtype)
    data = data_of(tmp_path, image)
    windows_of(data, OFF)
    with pytest.raises(InputError, match=message):
        windows_of(data, settings)
