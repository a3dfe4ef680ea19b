import subprocess
import sys
import zlib

import numpy as np
import pytest
from scipy import ndimage

from genenet.errors import InputError
from genenet.phantom import CLASSES, phantom

# Guay et al. 2018: voxels per class in 50 x 800 x 800.
PAPER = np.array([11541800, 17687776, 196963, 1486295, 996845, 75134, 15187]) / 32_000_000
SMALL = (24, 320, 320)


@pytest.fixture(scope="module", params=range(3))
def small(request):
    return phantom(SMALL, seed=request.param)


def frequencies(labels):
    return np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size


def checksum(arrays):
    return [zlib.crc32(array.tobytes()) for array in arrays]


def test_image_and_labels_have_the_shape_and_type_that_was_asked(small):
    image, labels = small
    assert image.shape == labels.shape == SMALL
    assert image.dtype == labels.dtype == np.uint8
    assert [entry.value for entry in CLASSES] == list(range(7))
    assert labels.max() < len(CLASSES)


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 200, 33), (3, 40, 61), (5, 130, 90)])
def test_any_size_is_filled(shape):
    image, labels = phantom(shape)
    assert image.shape == labels.shape == shape
    assert {0, 1} <= set(np.unique(labels))


def test_same_seed_gives_the_same_volume_in_another_process():
    shape = (3, 96, 80)
    program = (
        "import zlib; from genenet.phantom import phantom;"
        f"print([zlib.crc32(array.tobytes()) for array in phantom({shape}, seed=5)])"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    np.random.default_rng(0).normal()
    assert str(checksum(phantom(shape, seed=5))) == there.strip()


def test_seeds_differ_and_global_randomness_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = phantom((2, 64, 64), seed=0), phantom((2, 64, 64), seed=1)
    assert not np.array_equal(one[0], two[0])
    assert not np.array_equal(one[1], two[1])
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_classes_are_as_frequent_as_in_the_paper(small):
    ratio = frequencies(small[1]) / PAPER
    np.testing.assert_array_less(ratio, 1.5)
    np.testing.assert_array_less(1 / ratio, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_classes_of_the_whole_volume_are_as_frequent_as_in_the_paper(seed):
    ratio = frequencies(phantom(seed=seed)[1]) / PAPER
    np.testing.assert_array_less(ratio, 1.5)
    np.testing.assert_array_less(1 / ratio, 1.5)


def check_both_parts(labels):
    cut = len(labels) * 2 // 3
    for part in (labels[:cut], labels[cut:]):
        assert set(np.unique(part)) == set(range(len(CLASSES)))


def test_both_parts_hold_every_class(small):
    check_both_parts(small[1])


@pytest.mark.parametrize("seed", range(4))
def test_both_parts_of_the_smallest_volume_for_it_hold_every_class(seed):
    check_both_parts(phantom((16, 256, 256), seed=seed)[1])


@pytest.mark.parametrize("voxel_size_nm", [(50, 10, 10), (20, 15, 15), (70, 10, 10)])
def test_cores_lie_inside_dense_granules(voxel_size_nm):
    labels = phantom((20, 200, 200), seed=2, voxel_size_nm=voxel_size_nm)[1]
    cores = labels == 6
    around = ndimage.binary_dilation(cores, np.ones((3, 3, 3)))
    assert cores.any()
    assert set(np.unique(labels[around])) == {5, 6}


def test_grey_levels_are_ordered_as_in_the_microscope(small):
    image, labels = small
    means = [image[labels == value].mean() for value in range(len(CLASSES))]
    background, cytoplasm, mitochondria, alpha_granules, canals, dense_granules, cores = means
    assert background > canals > cytoplasm > alpha_granules > mitochondria
    assert background > dense_granules > cores


def test_objects_keep_their_size_in_nanometres():
    # Halving every edge of a voxel while keeping the voxels' number looks closer: fewer borders per voxel.
    def border(voxel_size_nm):
        cell = phantom((8, 256, 256), seed=4, voxel_size_nm=voxel_size_nm)[1] > 0
        return np.count_nonzero(cell[:, :, 1:] != cell[:, :, :-1])

    assert border((25, 5, 5)) < border((50, 10, 10)) < border((100, 20, 20))


@pytest.mark.parametrize(
    "shape", [(64, 64), (0, 64, 64), (4, 31, 64), (4, 64, 31), (4, 64, -64), (4.0, 64, 64), "abc", 64]
)
def test_a_shape_that_cannot_be_drawn_is_refused(shape):
    with pytest.raises(InputError, match=r"`shape` must be three whole numbers .* but got \(.*\); try"):
        phantom(shape)


@pytest.mark.parametrize(
    "voxel_size_nm", [(10, 10), (50, 10, 0), (50, -10, 10), (50, 10, float("nan")), (50, 10, 500), 10, "abc"]
)
def test_a_voxel_size_that_cannot_be_drawn_is_refused(voxel_size_nm):
    with pytest.raises(
        InputError, match=r"`voxel_size_nm` must be three lengths .* from 1 to 200, but got \(.*\); try"
    ):
        phantom((1, 32, 32), voxel_size_nm=voxel_size_nm)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(InputError, match="`seed` must be a whole number of at least 0, but got"):
        phantom((1, 32, 32), seed=seed)
