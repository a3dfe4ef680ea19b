"""Distance maps by hand, against one transform per object, and in training windows."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from genenet.augment import Augmentation
from genenet.dataset import Dataset
from genenet.distance_maps import DISTANCE_KINDS, distance_map
from genenet.errors import InputError
from genenet.plan import WindowShape
from genenet.settings import TrainingSettings, WindowSettings
from genenet.windows import TrainingWindows


def one_by_one(objects, inside):
    """The definition: per object, how far to the nearest voxel that is not of it."""
    found = np.zeros(objects.shape)
    for number in np.unique(objects[inside]):
        found += distance_transform_edt((objects == number) & inside)
    return found


def crowd(shape, n, seed=0):
    """Voxels of the nearest of `n` points: objects that touch everywhere, with some background."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, shape, (n, len(shape)))
    places = np.moveaxis(np.indices(shape), 0, -1)[..., None, :]
    distances = np.linalg.norm(places - points, axis=-1)
    return np.where(distances.min(-1) < 6, distances.argmin(-1) + 1, 0)


def test_a_square_by_hand():
    objects = np.zeros((5, 7), int)
    objects[:, 1:6] = 3
    objects[0] = objects[4] = 0
    expected = np.array([
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 0],
        [0, 1, 2, 2, 2, 1, 0],
        [0, 1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ])  # fmt: skip
    inside = objects > 0
    np.testing.assert_array_equal(distance_map(objects, inside, kind="voxels", cap=1), expected)
    np.testing.assert_array_equal(distance_map(objects, inside, kind="voxels", cap=4), expected / 4)
    np.testing.assert_array_equal(distance_map(objects, inside, kind="normalized"), expected / 2)
    np.testing.assert_array_equal(
        distance_map(objects, inside, kind="truncated", cap=1.5), np.minimum(expected / 1.5, 1)
    )


def test_touching_objects_bound_each_other():
    """Rows of 1 1 1 2 2: up to the neighbour it is 3, 2, 1 and 1, 2; the edge of the array is no border."""
    objects = np.repeat([[1, 1, 1, 2, 2]], 4, axis=0)
    inside = np.ones(objects.shape, bool)
    for kind, row in (("voxels", [3, 2, 1, 1, 2]), ("normalized", [1, 2 / 3, 1 / 3, 1 / 2, 1])):
        np.testing.assert_allclose(distance_map(objects, inside, kind=kind, cap=1), np.repeat([row], 4, axis=0))


def test_diagonals_count_as_they_are_long():
    objects = np.full((5, 5), 9)
    objects[0, 0] = 4
    found = distance_map(objects, np.ones((5, 5), bool), kind="voxels", cap=1)
    assert found[0, 0] == 1
    np.testing.assert_allclose(np.diag(found)[1:], np.sqrt(2) * np.arange(1, 5))


@pytest.mark.parametrize(("shape", "n"), [((60, 50), 40), ((60, 50), 4), ((9, 30, 30), 30), ((500,), 20)])
@pytest.mark.parametrize("seed", range(3))
def test_many_at_once_are_as_one_by_one(shape, n, seed):
    objects = crowd(shape, n, seed)
    inside = objects > 0
    expected = one_by_one(objects, inside)
    np.testing.assert_array_equal(distance_map(objects, inside, kind="voxels", cap=1), expected)
    largest = np.zeros(n + 1)
    np.maximum.at(largest, objects, expected)
    normalized = distance_map(objects, inside, kind="normalized")
    np.testing.assert_allclose(normalized * largest[objects], expected)
    assert all(normalized[objects == number].max() == 1 for number in np.unique(objects[inside]))
    truncated = distance_map(objects, inside, kind="truncated", cap=1e6) * 1e6
    assert (truncated[inside] >= expected[inside] - 1e-6).all()
    assert (truncated[inside] < expected[inside] + 1).all()


@pytest.mark.parametrize("kind", DISTANCE_KINDS)
def test_numbers_do_not_matter(kind):
    objects = crowd((50, 40), 30)
    inside, numbers = objects > 0, np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 31)
    expected = distance_map(objects, inside, kind=kind)
    np.testing.assert_array_equal(distance_map(numbers[objects], inside, kind=kind), expected)
    np.testing.assert_array_equal(distance_map(numbers[objects] | 1 << 62, inside, kind=kind), expected)
    np.testing.assert_array_equal(distance_map((objects * 500).astype(np.uint16), inside, kind=kind), expected)
    assert (expected[~inside] == 0).all()
    assert (expected[inside] > 0).all()


@pytest.mark.parametrize("kind", DISTANCE_KINDS)
def test_a_number_outside_is_another_object(kind):
    """Where class and object are told by different volumes, background may have the number of what it bounds."""
    objects, inside = np.ones((3, 7), int), np.zeros((3, 7), bool)
    inside[:, 2:5] = True
    expected = {"truncated": [0.25, 0.5, 0.25], "normalized": [0.5, 1, 0.5], "voxels": [0.25, 0.5, 0.25]}[kind]
    np.testing.assert_array_equal(distance_map(objects, inside, kind=kind, cap=4.0)[1], [0, 0, *expected, 0, 0])


@pytest.mark.parametrize("kind", DISTANCE_KINDS)
def test_nothing_and_nothing_else(kind):
    objects = np.full((6, 8), 5)
    assert (distance_map(objects, np.zeros((6, 8), bool), kind=kind) == 0).all()
    found = distance_map(objects, np.ones((6, 8), bool), kind=kind, cap=4.0)
    assert (found == {"truncated": 1, "normalized": 1, "voxels": 2}[kind]).all()


def test_kinds_that_there_are_not_are_refused():
    with pytest.raises(InputError, match="`distance_kind` cannot be 'normalised'; did you mean `normalized`?"):
        distance_map(np.zeros((2, 2), int), np.zeros((2, 2), bool), kind="normalised")
    with pytest.raises(InputError, match="`distance_kind` cannot be 'x'; known are normalized, truncated, voxels"):
        WindowSettings(distance_kind="x")
    with pytest.raises(InputError, match="training: `distance_kind` cannot be 'x'"):
        TrainingSettings.from_dict({"windows": {"distance_kind": "x"}})


def windows_of(data, **settings):
    settings = WindowSettings(batch_size=2, augmentation=Augmentation.off(), **settings)
    window = WindowShape((48, 48), (40, 40))
    return TrainingWindows(data, window, data.normalization(), settings, seed=0, distances=True)


@pytest.fixture
def nuclei(tmp_path):
    """Labels of 32 bits, an object each; of the last columns nobody knows anything."""
    labels = crowd((96, 64), 60)[None].astype(np.int32) * 20_000_000
    labels[:, :, 50:] = -7
    image = np.random.default_rng(0).normal(100, 20, labels.shape).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "labels.npy", labels)
    return {
        "image": str(tmp_path / "image.npy"),
        "labels": str(tmp_path / "labels.npy"),
        "classes": [{"value": 0, "name": "background"}, {"value": 1, "name": "nucleus", "also": "others"}],
        "ignore": -7,
        "training": {"y": [0, 64]},
        "validation": {"y": [64, 96]},
    }


@pytest.mark.parametrize("kind", DISTANCE_KINDS)
def test_windows_hold_the_distances_asked_for(nuclei, kind):
    windows = windows_of(Dataset.open(nuclei), distance_kind=kind, distance_cap=5.0)
    batch = windows.batch(0)
    assert batch.distances.shape == (2, 40, 40, 1)
    assert batch.distances.dtype == np.float32
    for index, found in enumerate(batch.distances[..., 0]):
        part, start = windows._draw(np.random.default_rng([0, 0, index]), index)
        objects = part.read_objects(start, (1, 40, 40))[0]
        expected = distance_map(objects, objects > 0, kind=kind, cap=5.0)
        np.testing.assert_array_equal(found, expected.astype(np.float32))
        assert (found[batch.labels[index] == 0] == 0).all()
        assert (found[batch.labels[index] > 0] > 0).all()


@pytest.mark.parametrize("kind", DISTANCE_KINDS)
def test_sparse_labels_will_do(nuclei, tmp_path, kind):
    labels = np.load(tmp_path / "labels.npy")
    labels[:, :40, 5:] = -7
    np.save(tmp_path / "labels.npy", labels)
    windows = windows_of(Dataset.open(nuclei), distance_kind=kind)
    assert windows._sparse
    for step in range(4):
        batch = windows.batch(step)
        assert np.isfinite(batch.distances).all()
        assert (batch.distances[batch.weights == 0] == 0).all()
        assert batch.distances.max() > 0
