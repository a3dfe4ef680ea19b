"""The law of every augmentation, and that labels always follow the image."""

import dataclasses
import sys

import numpy as np
import pytest

from genenet import augment as module
from genenet.augment import Augmentation, augment
from genenet.errors import InputError
from genenet.settings import TrainingSettings

OFF = Augmentation.off()
ELASTIC = dataclasses.replace(OFF, elastic=3.0, elastic_spacing=24.0)
EVERYTHING = Augmentation()
ONE_BY_ONE = {
    "elastic": ELASTIC,
    "reflect": dataclasses.replace(OFF, reflect=True),
    "rotate": dataclasses.replace(OFF, rotate=True),
    "brightness": dataclasses.replace(OFF, brightness=0.5),
    "contrast": dataclasses.replace(OFF, contrast=0.3),
    "noise": dataclasses.replace(OFF, noise=0.2),
    "scale": dataclasses.replace(OFF, scale=0.25),
    "shift": dataclasses.replace(OFF, shift=5.0),
    "perspective": dataclasses.replace(OFF, perspective=0.1),
    "blur": dataclasses.replace(OFF, blur=1.5),
    "everything": EVERYTHING,
    "histology": Augmentation.histology(),
    "all at once": dataclasses.replace(Augmentation.histology(), elastic=3.0, elastic_spacing=24.0),
}
MOVING = {name: ONE_BY_ONE[name] for name in ("elastic", "reflect", "rotate", "shift")}
MOVING["elastic and shift"] = dataclasses.replace(ELASTIC, shift=3.0)
MIXING = {name: ONE_BY_ONE[name] for name in ("scale", "perspective", "histology", "all at once")}


def read(settings, shape, seed=0, channels=1, kind=np.int8):
    """Make a window with its margin, every voxel another value, and the same numbers, wrapped, as labels."""
    margin = settings.margin(shape)
    space = (*shape[:-2], *(length + 2 * margin for length in shape[-2:]))
    image = np.random.default_rng(seed).normal(size=(*space, channels)).astype(np.float32)
    return image, np.arange(np.prod(space)).reshape(space).astype(kind)


def run(image, labels, settings, seed, shape, labels_shape=None):
    rng = np.random.default_rng(seed)
    return augment(image, labels, settings, rng, image_shape=shape, labels_shape=labels_shape or shape)


@pytest.mark.parametrize("shape", [(20, 16), (3, 20, 16)])
def test_off_is_the_centre(shape):
    image, labels = read(OFF, shape, channels=2)
    inner = (*shape[:-2], 12, 10)
    got_image, got_labels = run(image, labels, OFF, 0, shape, inner)
    np.testing.assert_array_equal(got_image, image)
    np.testing.assert_array_equal(got_labels, labels[..., 4:-4, 3:-3])


@pytest.mark.parametrize("settings", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
@pytest.mark.parametrize("shape", [(32, 32), (4, 32, 32)])
def test_what_comes_back_is_new_contiguous_and_of_the_shape_asked(settings, shape):
    image, labels = read(settings, shape, channels=3)
    before = image.copy(), labels.copy()
    inner = (*shape[:-2], 20, 20)
    got_image, got_labels = run(image, labels, settings, 1, shape, inner)
    assert got_image.shape == (*shape, 3)
    assert got_image.dtype == np.float32
    assert got_labels.shape == inner
    assert got_labels.dtype == labels.dtype
    for array in (got_image, got_labels):
        assert array.flags.c_contiguous
        assert array.flags.owndata
        assert array.flags.writeable
    got_image[:], got_labels[:] = 0, 0
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


@pytest.mark.parametrize("settings", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_the_same_seed_gives_the_same_window(settings):
    image, labels = read(settings, (32, 32))
    first = run(image, labels, settings, 5, (32, 32))
    module._displacement_sheet.cache_clear()  # as in another process
    for one, other in zip(first, run(image, labels, settings, 5, (32, 32)), strict=True):
        np.testing.assert_array_equal(one, other)
    others = [run(image, labels, settings, seed, (32, 32))[0] for seed in range(8)]
    assert any((other != first[0]).any() for other in others)


@pytest.mark.parametrize("settings", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize("shape", [(48, 48), (4, 48, 48)])
@pytest.mark.parametrize("seed", range(8))
def test_labels_follow_the_image(settings, shape, seed):
    _, labels = read(settings, shape, kind=np.int32)
    image = labels[..., None].astype(np.float32)
    inner = (*shape[:-2], 30, 30)  # as of a network with valid padding
    got_image, got_labels = run(image, labels, settings, seed, shape, inner)
    np.testing.assert_array_equal(got_image[..., 9:-9, 9:-9, 0], got_labels)


def test_labels_follow_the_image_in_z_too():
    _, labels = read(EVERYTHING, (5, 32, 32), kind=np.int32)
    settings = dataclasses.replace(EVERYTHING, brightness=0.0, contrast=0.0, noise=0.0)
    got_image, got_labels = run(labels[..., None], labels, settings, 3, (5, 32, 32), (3, 24, 24))
    np.testing.assert_array_equal(got_image[1:-1, 4:-4, 4:-4, 0], got_labels)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.int64])
def test_unlabelled_voxels_stay_unlabelled(kind):
    settings = ELASTIC
    image, labels = read(settings, (40, 40))
    labels = np.random.default_rng(0).choice(np.array([-1, 2, 100]).astype(kind), size=labels.shape)
    _, got = run(image, labels, settings, 0, (40, 40))
    assert got.dtype == kind
    assert set(np.unique(got)) == set(np.unique(labels))


@pytest.mark.parametrize("elastic", [1.0, 4.0, 10.0])
def test_displacements_have_the_strength_asked_and_stay_within_the_margin(elastic):
    settings = dataclasses.replace(OFF, elastic=elastic)
    sheet = module._displacement_sheet(900, 700, settings.elastic, settings.elastic_spacing)
    assert sheet.shape == (2, 900, 700)
    assert np.abs(sheet).max() <= settings.margin((900, 700))
    assert sheet.std() == pytest.approx(np.sqrt(elastic**2 + 1 / 12), rel=0.1)  # 1/12: whole voxels
    assert np.abs(sheet.mean()) < elastic / 4


@pytest.mark.parametrize("settings", MIXING.values(), ids=MIXING)
@pytest.mark.parametrize("shape", [(48, 48), (3, 48, 48)])
@pytest.mark.parametrize("seed", range(8))
def test_labels_are_those_of_the_voxels_nearest_to_where_the_image_is_read(settings, shape, seed):
    """The image says where each voxel came from, which mixing leaves exact; its labels say the same in whole voxels."""
    settings = dataclasses.replace(settings, brightness=0.0, contrast=0.0, noise=0.0, blur=0.0)
    _, labels = read(settings, shape)
    places = np.indices(labels.shape)[-2:]
    labels = places[0] << 40 | places[1] << 20 | 7 << 55  # an object's number stands in high bits
    image = np.moveaxis(places, 0, -1).astype(np.float32)
    got_image, got_labels = run(image, labels, settings, seed, shape)
    assert got_labels.dtype == np.int64
    assert np.isin(got_labels, labels).all()
    for channel, places in enumerate((got_labels >> 40 & 0xFFF, got_labels >> 20 & 0xFFF)):
        assert np.abs(got_image[..., channel] - places).max() < 0.501
    assert (got_image != np.rint(got_image)).any()


def test_only_what_is_on_draws():
    rng, reference = np.random.default_rng(0), np.random.default_rng(0)
    image, labels = read(EVERYTHING, (32, 32))
    augment(image, labels, EVERYTHING, rng, image_shape=(32, 32), labels_shape=(32, 32))
    for _ in range(2):
        reference.integers(8 * 48 + 1, size=2), reference.integers(2, dtype=np.int16)
    reference.integers(2, size=2), reference.integers(4), reference.uniform(), reference.uniform()
    reference.standard_normal((32, 32, 1), dtype=np.float32)
    assert rng.bit_generator.state == reference.bit_generator.state
    image, labels = read(OFF, (32, 32))
    augment(image, labels, OFF, rng, image_shape=(32, 32), labels_shape=(32, 32))
    assert rng.bit_generator.state == reference.bit_generator.state


def test_fractions_of_displacements_round_to_the_whole_ones():
    whole, smooth = (module._displacement_sheet(300, 200, 4.0, 48.0, smooth) for smooth in (False, True))
    assert smooth.dtype == np.float32
    assert np.abs(smooth - whole).max() < 0.501
    assert np.abs(np.diff(smooth, axis=1)).max() < 0.8  # no steps of a whole voxel


def test_a_deformed_image_that_is_mixed_has_no_steps():
    settings = dataclasses.replace(OFF, elastic=3.0, scale=1e-6)
    _, labels = read(settings, (64, 64))
    ramps = np.stack(np.indices(labels.shape), -1).astype(np.float32)
    got, _ = run(ramps, labels, settings, 0, (64, 64))
    for axis in (0, 1):
        steps = np.diff(got[..., axis], axis=axis)
        assert np.abs(steps - 1).max() < 0.8  # of whole displacements, steps of 0 and 2
        assert steps.std() > 0.05


def test_a_shift_is_by_whole_voxels_where_nothing_is_mixed():
    settings = dataclasses.replace(OFF, shift=2.4)
    image, labels = read(settings, (20, 20), kind=np.int32)
    seen = {run(image, labels, settings, seed, (20, 20))[1][0, 0] for seed in range(300)}
    assert seen == set(labels[1:6, 1:6].ravel())  # of a margin of 3, up to 2 either way


@pytest.mark.parametrize("shape", [(64, 64), (3, 64, 64)])
def test_a_blur_comes_half_of_the_time_and_stays_within_slices(shape):
    settings = dataclasses.replace(OFF, blur=1.5)
    image, labels = read(settings, shape)
    kept, spreads = 0, []
    for seed in range(100):
        got, got_labels = run(image, labels, settings, seed, shape)
        np.testing.assert_array_equal(got_labels, labels)
        kept += (got == image).all()
        spreads.append(got.std() / image.std())
    assert 30 <= kept <= 70  # within four standard deviations of 50
    assert max(spreads) <= 1
    assert min(spreads) < 0.25  # at 1.5 voxels a Gaussian leaves 1 / (2 sqrt(pi) 1.5) = 0.19
    slices = np.zeros((3, 16, 16, 1), np.float32)
    slices[1] = 1
    np.testing.assert_allclose(run(slices, slices[..., 0].astype(int), settings, 0, (3, 16, 16))[0], slices, atol=1e-6)


def test_displacements_are_smooth():
    sheet = module._displacement_sheet(500, 500, 4.0, 48.0)
    assert max(np.abs(np.diff(sheet, axis=axis)).max() for axis in (1, 2)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_fill_shows(seed):
    settings, shape = dataclasses.replace(OFF, elastic=3.0), (64, 64)
    margin = settings.margin(shape)
    inner = (slice(margin, -margin),) * 2
    image, _ = read(settings, shape)
    for places in np.indices(image.shape[:-1], dtype=np.int32):  # where every voxel came from, in y and in x
        got, moved = run(np.ones_like(image), places, settings, seed, shape)
        assert (got == 1).all()
        assert np.abs(moved - places[inner]).max() <= margin


def test_slices_move_alike():
    image, _ = read(ELASTIC, (4, 40, 40))
    image[:] = image[:1]
    got, _ = run(image, np.zeros(image.shape[:-1], np.uint8), ELASTIC, 0, (4, 40, 40))
    assert (got != image[:, 11:-11, 11:-11]).any()
    np.testing.assert_array_equal(got, np.broadcast_to(got[:1], got.shape))


@pytest.mark.parametrize("seed", range(4))
def test_rows_and_columns_move_by_different_amounts(seed):
    image, labels = read(ELASTIC, (40, 40))
    margin = ELASTIC.margin((40, 40))
    inner = (slice(margin, -margin),) * 2
    down, right = (
        run(image, places, ELASTIC, seed, (40, 40))[1] - places[inner]
        for places in np.indices(labels.shape, dtype=np.int32)
    )
    assert np.abs(down).max() > 0
    assert np.abs(right).max() > 0
    assert (down != right).any()


def test_reflections_reverse_axes_half_of_the_time():
    settings = dataclasses.replace(OFF, reflect=True)
    image, labels = read(settings, (2, 3, 4), kind=np.int32)
    seen = [run(image, labels, settings, seed, (2, 3, 4))[1] for seed in range(200)]
    possible = [labels[::z, ::y, ::x].tobytes() for z in (1, -1) for y in (1, -1) for x in (1, -1)]
    assert {one.tobytes() for one in seen} == set(possible)
    for axis, first in ((0, labels[0, 0, 0]), (1, labels[0, 0, 0]), (2, labels[0, 0, 0])):
        kept = sum(np.argwhere(one == first)[0][axis] == 0 for one in seen)
        assert 70 <= kept <= 130  # within four standard deviations of 100


def test_rotations_turn_by_right_angles():
    settings = dataclasses.replace(OFF, rotate=True)
    image, labels = read(settings, (2, 5, 5), kind=np.int32)
    seen = {run(image, labels, settings, seed, (2, 5, 5))[1].tobytes() for seed in range(60)}
    assert seen == {np.ascontiguousarray(np.rot90(labels, turns, (1, 2))).tobytes() for turns in range(4)}


def test_brightness_shifts_all_voxels_alike():
    settings = dataclasses.replace(OFF, brightness=0.5)
    image, labels = read(settings, (16, 16), channels=2)
    shifts = []
    for seed in range(100):
        difference = run(image, labels, settings, seed, (16, 16))[0] - image
        np.testing.assert_allclose(difference, difference.mean(), atol=1e-6)
        shifts.append(difference.mean())
    assert -0.5 <= min(shifts) < -0.4
    assert 0.4 < max(shifts) <= 0.5


def test_contrast_stretches_around_the_mean_of_each_channel():
    settings = dataclasses.replace(OFF, contrast=0.3)
    image, labels = read(settings, (16, 16), channels=2)
    image[..., 1] += 5
    factors = []
    for seed in range(100):
        got, _ = run(image, labels, settings, seed, (16, 16))
        np.testing.assert_allclose(got.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1e-5)
        ratio = got.std(axis=(0, 1)) / image.std(axis=(0, 1))
        assert ratio[0] == pytest.approx(ratio[1], rel=1e-5)
        factors.append(ratio[0])
    assert 0.7 - 1e-5 <= min(factors) < 0.75
    assert 1.25 < max(factors) <= 1.3 + 1e-5


def test_noise_has_the_strength_asked():
    settings = dataclasses.replace(OFF, noise=0.2)
    image, labels = read(settings, (100, 100))
    added = run(image, labels, settings, 0, (100, 100))[0] - image
    assert added.std() == pytest.approx(0.2, rel=0.03)  # four standard deviations of it, 0.2 / sqrt(2 * 10000)
    assert added.mean() == pytest.approx(0, abs=0.008)


def test_deformation_keeps_the_noise_of_the_image():
    image, labels = read(ELASTIC, (100, 100))
    got, _ = run(image, labels, ELASTIC, 0, (100, 100))
    assert got.std() == pytest.approx(image.std(), rel=0.03)


@pytest.mark.parametrize("failure", [None, AttributeError("_ARRAY_API not found")], ids=["missing", "broken"])
def test_without_elasticdeform_the_cure_is_named(failure, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "elasticdeform":
                raise failure

    if failure is None:
        monkeypatch.setitem(sys.modules, "elasticdeform", None)
    else:
        monkeypatch.delitem(sys.modules, "elasticdeform", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    module._displacement_sheet.cache_clear()
    image, labels = read(ELASTIC, (32, 32))
    cure = "run `pip install --no-binary elasticdeform elasticdeform`, .* it needs a C compiler; or set elastic=0"
    with pytest.raises(InputError, match=cure):
        run(image, labels, ELASTIC, 0, (32, 32))
    image, labels = read(OFF, (32, 32))
    run(image, labels, OFF, 0, (32, 32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"elastic": -1.0}, "`elastic` must be a number of at least 0, but got elastic=-1.0"),
        ({"noise": float("nan")}, "`noise` must be a number of at least 0, but got noise=nan"),
        ({"brightness": float("inf")}, "`brightness` must be a number of at least 0, but got brightness=inf"),
        ({"shift": float("inf")}, "`shift` must be a number of at least 0, but got shift=inf"),
        ({"blur": -0.5}, "`blur` must be a number of at least 0, but got blur=-0.5"),
        ({"scale": 1.5}, "`scale` must be at most 1, twice as large or small, but got scale=1.5"),
        ({"perspective": 0.25}, "`perspective` must be below 0.25, or the image folds .* perspective=0.25"),
        ({"color": 1.0}, "`color` must be below 1, or it inverts colours, but got color=1.0"),
        ({"stain": 2.0}, "`stain` must be below 1, or it inverts colours, but got stain=2.0"),
        ({"contrast": 1.0}, "`contrast` must be below 1, or it inverts the image, but got contrast=1.0"),
        (
            {"elastic": 20.0},
            r"`elastic_spacing` must be at least 1 and four times `elastic`, .* elastic_spacing=48.0, elastic=20.0",
        ),
    ],
)
def test_impossible_strengths_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**wrong)


@pytest.mark.parametrize(
    ("settings", "read_shape", "shape", "labels_shape", "message"),
    [
        (OFF, (8,), (8,), (8,), r"windows must be \(y, x\) or \(z, y, x\), but got \(8,\) and labels of \(8,\)"),
        (OFF, (8, 8), (8, 8), (4, 8, 8), r"windows must be \(y, x\) or \(z, y, x\), but got \(8, 8\) and labels of"),
        (OFF, (8, 8), (8, 8), (10, 10), r"`labels_shape` must not be larger than `image_shape`"),
        (
            OFF,
            (9, 8),
            (8, 8),
            (8, 8),
            r"a window of \(8, 8\) must be read as \(8, 8\), margin 0 in y and x, but got an",
        ),
        (
            ELASTIC,
            (8, 8),
            (8, 8),
            (8, 8),
            r"a window of \(8, 8\) must be read as \(30, 30\), margin 11 in y and x, but got an image of \(8, 8\)",
        ),
        (
            dataclasses.replace(OFF, rotate=True),
            (8, 6),
            (8, 6),
            (8, 6),
            r"`rotate` needs windows that are square in \(y, x\), but got \(8, 6\) .* or set rotate=False",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(settings, read_shape, shape, labels_shape, message):
    image, labels = np.zeros((*read_shape, 1), np.float32), np.zeros(read_shape, np.uint8)
    with pytest.raises(InputError, match=message):
        run(image, labels, settings, 0, shape, labels_shape)


@pytest.mark.parametrize("seed", range(8))
def test_labels_lie_in_the_middle_or_just_before_it_however_the_window_is_turned(seed):
    picture = np.arange(64, dtype=np.float32).reshape(8, 8)
    settings = dataclasses.replace(OFF, reflect=True, rotate=True)
    rng = np.random.default_rng(seed)
    image, labels = augment(
        picture[..., None], picture.astype(int), settings, rng, image_shape=(8, 8), labels_shape=(3, 3)
    )
    np.testing.assert_array_equal(labels, image[2:5, 2:5, 0])


@pytest.mark.parametrize(
    ("name", "expected"), [("default", Augmentation()), ("none", OFF), ("histology", Augmentation.histology())]
)
def test_settings_may_name_an_augmentation(name, expected):
    settings = TrainingSettings.from_dict({"windows": {"augmentation": name, "batch_size": 2}})
    assert settings.windows.augmentation == expected
    assert settings.windows.batch_size == 2
    assert TrainingSettings.from_dict(settings.to_dict()) == settings


def test_unknown_names_of_augmentations_are_refused():
    with pytest.raises(InputError, match="`windows.augmentation` cannot be 'histolgy'; did you mean `histology`?"):
        TrainingSettings.from_dict({"windows": {"augmentation": "histolgy"}})
