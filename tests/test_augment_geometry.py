"""Projective maps stay within their bounds and never fold; images are read where they say."""

import dataclasses
import math

import numpy as np
import pytest

from genenet.augment import Augmentation
from genenet.augment_geometry import draw_projection, nearest_sources, project, projection_reach, sample_linear

STRENGTHS = [
    {"scale": 0.2},
    {"scale": 1.0},
    {"shift": 7.5},
    {"perspective": 0.05},
    {"perspective": 0.24},
    {"scale": 0.3, "shift": 4.0, "perspective": 0.1, "border": 6.0},
]


class Extreme:
    """Draws nothing but the least and the largest."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def uniform(self, low, high, size=None):
        return np.where(self.rng.integers(2, size=size), low, high)


def places(shape, border=0.0):
    height, width = shape
    rows, columns = np.linspace(-border, height - 1 + border, 41), np.linspace(-border, width - 1 + border, 31)
    return np.broadcast_arrays(rows[:, None], columns)


@pytest.mark.parametrize("strengths", STRENGTHS, ids=str)
@pytest.mark.parametrize("shape", [(64, 64), (50, 81), (1, 9)])
def test_places_stay_within_the_reach_and_come_close_to_it(strengths, shape):
    reach = projection_reach(shape, **{"scale": 0.0, "shift": 0.0, "perspective": 0.0, "border": 0.0, **strengths})
    furthest = 0.0
    for seed in range(200):
        rng = Extreme(seed) if seed % 2 else np.random.default_rng(seed)
        projection = draw_projection(shape, rng, **strengths)
        for found, side in zip(project(projection, *places(shape, strengths.get("border", 0))), shape, strict=True):
            furthest = max(furthest, -found.min(), found.max() - (side - 1))
    assert furthest <= reach + 1e-3
    assert furthest > 0.9 * reach


@pytest.mark.parametrize("strengths", STRENGTHS, ids=str)
def test_nothing_folds(strengths):
    for seed in range(100):
        rows, columns = project(draw_projection((64, 48), Extreme(seed), **strengths), *places((64, 48)))
        down, across = np.gradient(rows), np.gradient(columns)
        assert (down[0] * across[1] - down[1] * across[0] > 0).all()


def test_nothing_on_is_the_identity():
    expected = places((40, 30), 3.0)
    found = project(draw_projection((40, 30), np.random.default_rng(0), border=3.0), *expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sizes_change_by_as_much_up_as_down():
    steps = []
    for seed in range(500):
        rows, columns = project(draw_projection((65, 33), np.random.default_rng(seed), scale=0.25), *places((65, 33)))
        assert rows[20, 15] == pytest.approx(32, abs=1e-4)  # the middle stays
        assert columns[20, 15] == pytest.approx(16, abs=1e-4)
        steps.append((rows[-1, 0] - rows[0, 0]) / 64)
        assert (columns[0, -1] - columns[0, 0]) / 32 == pytest.approx(steps[-1], rel=1e-4)
    assert 1 / 1.25 - 1e-4 <= min(steps) < 0.81
    assert 1.24 < max(steps) <= 1.25 + 1e-4
    assert np.mean(np.log(steps)) == pytest.approx(0, abs=4 * math.log(1.25) / math.sqrt(3 * 500))


def test_corners_go_where_they_are_sent():
    """A perspective of 0.2 on a window of 11: each corner moves by up to 2 voxels, straight lines stay straight."""
    corners = np.array([(0.0, 0.0), (0.0, 10.0), (10.0, 0.0), (10.0, 10.0)])
    for seed in range(20):
        projection = draw_projection((11, 11), Extreme(seed), perspective=0.2)
        moved = np.stack(project(projection, *corners.T), 1)
        np.testing.assert_allclose(np.abs(moved - corners), 2, atol=1e-4)
        line = np.stack(project(projection, np.linspace(0, 10, 7), np.linspace(0, 10, 7)), 1)
        along = line[-1] - line[0]
        np.testing.assert_allclose(
            np.cross(np.append(along, 0), np.pad(line - line[0], ((0, 0), (0, 1)))), 0, atol=1e-3
        )


def test_margins_cover_a_window_by_hand():
    off = Augmentation.off()
    assert off.margin((100, 100)) == 0
    assert dataclasses.replace(off, scale=0.2).margin((101, 101)) == 10  # 50 voxels from the middle become 60
    assert dataclasses.replace(off, scale=0.2).margin((5, 51, 101)) == 10
    assert dataclasses.replace(off, perspective=0.05).margin((101, 101)) == 5
    assert dataclasses.replace(off, shift=2.5).margin((101, 101)) == 3
    # A side of 100 between the outermost voxels, displaced by 5 at either end, then enlarged: 1.2 * 55 + 3 - 50.
    assert dataclasses.replace(off, scale=0.2, perspective=0.05, shift=3.0).margin((101, 101)) == 19


def test_reading_between_voxels_by_hand():
    image = np.array([[0.0, 4.0], [8.0, 20.0]], np.float32)[None, ..., None] * np.array([1, 10], np.float32)
    rows, columns = np.array([[0.0, 0.25, 1.0]]), np.array([[0.5, 0.5, 1.0]])
    found = sample_linear(image, rows, columns)
    assert found.shape == (1, 1, 3, 2)
    np.testing.assert_allclose(found[0, 0], [[2, 20], [5, 50], [20, 200]])  # 0.75 * 2 + 0.25 * 14 = 5
    assert nearest_sources(rows, columns + 0.1, (2, 2)).tolist() == [[1, 1, 3]]


@pytest.mark.parametrize("shape", [(7, 5), (1, 5), (7, 1), (1, 1)])
def test_voxels_are_read_as_they_are(shape):
    image = np.random.default_rng(0).normal(size=(3, *shape, 2)).astype(np.float32)
    rows, columns = np.broadcast_arrays(*np.ogrid[: shape[0], : shape[1]])
    np.testing.assert_allclose(sample_linear(image, rows, columns), image, atol=1e-6)
    np.testing.assert_array_equal(nearest_sources(rows, columns, shape).ravel(), np.arange(shape[0] * shape[1]))
