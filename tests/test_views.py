"""Networks that look at volumes along other axes, mirrored, turned, or in windows that overlap."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genenet as gn
from genenet.averaging import MeanPredictor
from genenet.blending import Tiles
from genenet.blocks import BlockPredictor
from genenet.errors import InputError
from genenet.normalization import Normalization
from genenet.plan import WindowShape
from genenet.tiling import blocks
from genenet.views import View, views
from genenet.volume import open_volume

IDENTITY = Normalization((0.0,), (1.0,))


def predictor(seed=0, **values):
    values = {"n_scales": 1, "n_features": 2, "n_convs": 1, "activation": "tanh", "window_size": 32, **values}
    net = gn.EncoderDecoder(n_classes=2, **values)
    return BlockPredictor(net.build(seed=seed), net.plan_layers(), IDENTITY, net.window_shape())


FLAT = predictor(n_scales=2)
ODD = predictor(1, padding="valid", upsampling="resize")
PLANAR = predictor(2, spatial_mode="3d", pool_z="never", window_size=24, window_depth=16)
SHALLOW = predictor(3, spatial_mode="3d", pool_z="never", window_size=24, window_depth=4)
DEEP = predictor(4, spatial_mode="3d", window_size=24, window_depth=24)
MEMBERS = {"flat": FLAT, "odd": ODD, "planar": PLANAR, "shallow": SHALLOW, "deep": DEEP}


def image(shape=(6, 26, 38), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def answer(mean, volume, core, member_entropy=False):
    """What an ensemble says, put together from blocks."""
    read = open_volume(volume).read_mirrored
    reach = mean.reach(core)
    found = np.zeros((*volume.shape, 2), np.float32)
    for box in blocks(volume.shape, core):
        images = mean.read(read, [side.start for side in box], reach)[..., None]
        inside = tuple(slice(side.stop - side.start) for side in box)
        found[box] = mean.predict(images, reach).inside(inside).probabilities
    return found


def whole(mean, volume):
    return answer(mean, volume, mean.choose_core(volume.shape, 10**9))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_views_have_a_way_back(order, mirrored):
    view, array = View(tuple(order), mirrored), np.arange(48).reshape(2, 3, 4, 2)
    np.testing.assert_array_equal(view.turn_back(view.turn(array)), array)
    assert view.turn(array).shape[:3] == view.turn_sides(array.shape[:3])
    assert view.turn_sides_back(view.turn_sides((5, 6, 7))) == (5, 6, 7)


@pytest.mark.parametrize("augmentation", ["flips", "rotations"])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_augmentations_are_groups(n_dims, augmentation):
    """Every view once, and the mean over them does not change when the volume is mirrored or turned."""
    array = np.arange(27).reshape(3, 3, 3)
    seen = {view.turn(array).tobytes() for view in views(n_dims, "z", augmentation)}
    assert len(seen) == len(views(n_dims, "z", augmentation))
    turned = array[:, ::-1] if augmentation == "flips" else np.rot90(array, axes=(1, 2))
    assert {view.turn(np.ascontiguousarray(turned)).tobytes() for view in views(n_dims, "z", augmentation)} == seen


@pytest.mark.parametrize(
    ("name", "axes", "augmentation"),
    [("flat", "y", "none"), ("flat", "zyx", "none"), ("flat", "x", "rotations"), ("odd", "z", "rotations"),
     ("planar", "z", "flips"), ("shallow", "z", "flips"), ("deep", "z", "rotations")],
)  # fmt: skip
def test_seams_are_invisible_from_every_side(name, axes, augmentation):
    member = MEMBERS[name]
    member = dataclasses.replace(member, views=views(member.plan.n_dims, axes, augmentation))
    mean, volume = MeanPredictor((member,)), image()
    expected = whole(mean, volume)
    for max_voxels in (200, 900):
        core = mean.choose_core(volume.shape, max_voxels)
        np.testing.assert_allclose(answer(mean, volume, core), expected, atol=1e-5, err_msg=str(core))


def test_a_network_across_another_axis_sees_the_turned_volume():
    volume = image((20, 24, 28))
    across = whole(MeanPredictor((dataclasses.replace(FLAT, views=views(2, "y")),)), volume)
    turned = whole(MeanPredictor((FLAT,)), np.ascontiguousarray(volume.transpose(1, 0, 2)))
    np.testing.assert_allclose(across, turned.transpose(1, 0, 2, 3), atol=1e-6)
    all_three = whole(MeanPredictor((dataclasses.replace(FLAT, views=views(2, "zyx")),)), volume)
    each = [whole(MeanPredictor((dataclasses.replace(FLAT, views=views(2, axis)),)), volume) for axis in "zyx"]
    np.testing.assert_allclose(all_three, np.mean(each, 0), atol=1e-6)


def test_an_augmented_answer_turns_with_the_volume():
    volume = image((4, 32, 48))
    for name in ("flat", "planar"):
        member = dataclasses.replace(MEMBERS[name], views=views(MEMBERS[name].plan.n_dims, "z", "rotations"))
        straight = whole(MeanPredictor((member,)), volume)
        turned = whole(MeanPredictor((member,)), np.ascontiguousarray(np.rot90(volume, axes=(1, 2))))
        np.testing.assert_allclose(np.rot90(straight, axes=(1, 2)), turned, atol=1e-5)


def test_members_of_all_kinds_mix():
    """2-D along several axes, 3-D, thin slabs and overlapping windows: the mean of what each says alone."""
    members = (
        dataclasses.replace(FLAT, views=views(2, "yx", "flips")),
        dataclasses.replace(ODD, overlap=0.5),
        SHALLOW,
        dataclasses.replace(DEEP, views=views(3, "z", "flips")),
    )
    volume = image()
    mean = MeanPredictor(members)
    alone = [whole(MeanPredictor((member,)), volume) for member in members]
    for max_voxels in (3000, 10**9):
        together = answer(mean, volume, mean.choose_core(volume.shape, max_voxels))
        np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-5)


@pytest.mark.parametrize("name", sorted(MEMBERS))
@pytest.mark.parametrize("overlap", [0.0, 0.4])
def test_overlapping_windows_leave_no_seams(name, overlap):
    member = dataclasses.replace(MEMBERS[name], overlap=overlap)
    mean, volume = MeanPredictor((member,)), image((9, 36, 50))
    stride = member.stride
    small = answer(mean, volume, stride)
    large = answer(mean, volume, tuple(2 * side if side > 1 else 9 for side in stride))
    np.testing.assert_allclose(small, large, atol=1e-5)
    np.testing.assert_allclose(small.sum(-1), 1, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 300), st.integers(0, 40), st.floats(0, 0.95), st.integers(1, 4))
def test_windows_that_overlap_cover_every_core(length, margin, overlap, n_steps):
    window = WindowShape((length + 2 * margin,), (length,))
    tiles = Tiles.overlapping(window, (margin,), overlap)
    (step,) = tiles.step
    assert 1 <= step <= length and (step % 32 == 0 or step & (step - 1) == 0)
    core = (n_steps * step,)
    reach = tiles.reach(core)
    # A "network" that gives the positions it reads: the blend of equal answers is the position itself.
    positions = np.arange(reach.input[0], dtype=np.float32)[None, :, None]
    (blended,) = tiles.blend(positions, core, lambda cut: [cut[:, margin : margin + length]])
    np.testing.assert_allclose(blended[0, :, 0], reach.lead[0] + np.arange(core[0]), atol=1e-2)
    assert math.isclose(
        float(tiles.blend(positions * 0 + 1, core, lambda cut: [cut[:, margin : margin + length]])[0].mean()),
        1,
        abs_tol=1e-5,
    )


def test_the_middle_of_a_window_counts_most():
    """Two windows, one of which says 1: the blend falls from one middle to the other."""
    tiles = Tiles.overlapping(WindowShape((16,), (16,)), (0,), 0.5)
    calls = iter([0.0, 1.0, 0.0, 0.0])
    reach = tiles.reach((16,))
    (blended,) = tiles.blend(
        np.zeros((1, *reach.input, 1), np.float32), (16,), lambda cut: [np.full_like(cut, next(calls))]
    )
    line = blended[0, :, 0]
    assert line[4] > 0.99 and line[-1] < 0.5 and (np.diff(line[4:]) <= 1e-6).all()


@pytest.mark.parametrize("bad", [("", "none"), ("zz", "none"), ("w", "none"), ("z", "spin")])
def test_unknown_views_are_refused(bad):
    with pytest.raises(InputError, match="z, y and x|test-time augmentation"):
        views(2, *bad)


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_unusable_overlaps_are_refused(overlap):
    with pytest.raises(InputError, match="overlap"):
        _ = dataclasses.replace(FLAT, overlap=overlap).stride
