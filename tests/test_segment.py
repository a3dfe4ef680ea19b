"""Block by block: no seams, no voxel twice, continued after a kill, refused where it cannot be."""

import dataclasses
import gc
import json
import resource

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

import genenet as gn
from genenet import segment
from genenet.averaging import MeanPredictor, as_votes
from genenet.blocks import BlockPredictor, Slab
from genenet.calibration import expected_calibration_error, fit_temperature
from genenet.cost import inference_bytes
from genenet.doubt import sharpened
from genenet.ensemble import Ensemble
from genenet.folder import partial_path
from genenet.manifest import path_beside
from genenet.network import save_network
from genenet.normalization import Normalization
from genenet.segment import segment_volume
from genenet.selection_rules import Candidates, best_first, greedy, greedy_with_replacement, per_second
from genenet.tiling import blocks, choose_core, chunk_side, fit_core
from genenet.views import Look
from genenet.volume import create_volume, open_volume

CLASSES = gn.SegmentationClass(0, "background", "#000000"), gn.SegmentationClass(7, "cell", "#56b4e9")
PLAIN = Normalization((0.0,), (1.0,))


def predictor(seed=0, **values):
    values = {"n_scales": 2, "n_features": 3, "n_convs": 1, "activation": "tanh", "window_size": 64, **values}
    net = gn.EncoderDecoder(n_classes=2, **values)
    return BlockPredictor(net.build(seed=seed), net.plan_layers(), PLAIN, net.window_shape())


def image(shape=(3, 50, 70), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 16), st.integers(1, 16)),
)
def test_blocks_cover_every_voxel_once(shape, core):
    count = np.zeros(shape, int)
    for box in blocks(shape, core):
        count[box] += 1
    assert (count == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 3000), min_size=3, max_size=3),
    st.sampled_from([1, 2, 8, 16]),
    st.integers(2**8, 2**22),
    st.booleans(),
)
def test_cores_are_aligned_and_small_enough(shape, stride, max_voxels, flat):
    core = choose_core(shape, (1, stride, stride), max_voxels, free=(flat, False, False))
    assert all(side % step == 0 for side, step in zip(core, (1, stride, stride), strict=True))
    assert np.prod(core) <= max_voxels or core == (1, stride, stride)
    if flat and core[1] < shape[1] and np.prod([1, *core[1:]]) * 2 <= max_voxels:
        assert core[0] >= 1


VARIANTS = [
    {},
    {"padding": "valid"},
    {"padding": "valid", "upsampling": "resize", "n_scales": 1},
    {"pooling": "strided", "upsampling": "resize", "dilation": 2, "n_scales": 1},
    {"normalization": "batch", "n_scales": 3, "activation": "crelu"},
]


@pytest.mark.parametrize("values", VARIANTS, ids=str)
@pytest.mark.parametrize("max_voxels", [300, 1000, 5000])
def test_seams_are_invisible(values, max_voxels, tmp_path):
    member = predictor(**values)
    volume = image()
    mean = MeanPredictor((member,))
    whole = mean.reach(mean.choose_core(volume.shape, 10**9))
    expected = mean.predict(mean.read(open_volume(volume).read_mirrored, (0, 0, 0), whole)[..., None], whole)
    expected = expected.probabilities[: volume.shape[0], : volume.shape[1], : volume.shape[2]]
    segment_volume(
        mean, CLASSES, open_volume(volume), tmp_path / "o.npy", identity="a", max_voxels=max_voxels,
        extras={"probabilities": tmp_path / "p.npy"},
    )  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, atol=2e-3)
    labels = np.load(tmp_path / "o.npy")
    sure = abs(expected[..., 0] - 0.5) > 1e-5
    np.testing.assert_array_equal(labels[sure], np.array([0, 7])[expected.argmax(-1)][sure])


@st.composite
def any_network(draw):
    """A small network, flat or deep, anisotropic or not, with one kind of padding."""
    pick = lambda *choices: draw(st.sampled_from(choices))  # noqa: E731
    values = {
        "n_scales": pick(1, 2), "n_convs": pick(1, 2), "padding": pick("same", "valid"),
        "upsampling": pick("transposed", "resize"), "pooling": pick("max", "strided"),
        "merge": pick("concatenate", "sum", "gate"), "dilation": pick(1, 2),
    }  # fmt: skip
    if pick(True, False):
        values |= {"spatial_mode": "3d", "pool_z": pick("always", "never"), "window_depth": 40, "window_size": 64}
    else:
        values["window_size"] = 96
    return values


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_network(), st.tuples(*[st.integers(1, side) for side in (7, 45, 45)]), st.tuples(*[st.integers(1, 3)] * 3))
def test_blocks_of_any_network_and_size_have_no_seams(tmp_path, values, shape, multiples):
    try:
        member = predictor(**values)
    except gn.InputError:
        reject()
    mean, volume = MeanPredictor((member,)), image(shape)
    whole = mean.reach(mean.choose_core(shape, 10**9))
    expected = mean.predict(mean.read(open_volume(volume).read_mirrored, (0, 0, 0), whole)[..., None], whole)
    core = tuple(step * n for step, n in zip(member.stride, multiples, strict=True))
    segment_volume(
        mean, CLASSES, open_volume(volume), tmp_path / "o.npy", identity="a", block=core, overwrite=True,
        extras={"probabilities": tmp_path / "p.npy"},
    )  # fmt: skip
    z, y, x = shape
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected.probabilities[:z, :y, :x], atol=2e-3)


def test_a_mean_filter_equals_scipy(tmp_path):
    """The whole chain against an independent one: a 3x3 mean of the mirrored image."""
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_convs=1, n_features=1, activation="identity")
    model = net.build()
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    values = {v.path: v for v in model.trainable_variables}
    values["encode__stack0__conv0/kernel"].assign(np.full((3, 3, 1, 1), 1 / 9))
    across = np.zeros((3, 3, 2, 1))
    across[1, 1, 1] = 1  # the skip is the second of the merged channels
    values["decode__stack0__conv0/kernel"].assign(across)
    values["head/kernel"].assign(np.array([[[[0.0, 1.0]]]]))
    mean = MeanPredictor((BlockPredictor(model, net.plan_layers(), PLAIN, net.window_shape()),))
    volume = image()
    segment_volume(
        mean, CLASSES, open_volume(volume), tmp_path / "o.npy", identity="a", max_voxels=900,
        extras={"probabilities": tmp_path / "p.npy"},
    )  # fmt: skip
    expected = 1 / (1 + np.exp(-uniform_filter(volume, size=(1, 3, 3), mode="mirror")))
    np.testing.assert_allclose(np.load(tmp_path / "p.npy")[..., 1], expected, atol=1e-3)


def test_members_of_different_geometry_are_averaged(tmp_path):
    members = predictor(0), predictor(1, padding="valid"), predictor(2, n_scales=3, upsampling="resize")
    volume, parts = image(), []
    for index, chosen in enumerate([(members[0],), (members[1],), (members[2],), members]):
        path = tmp_path / f"{index}.npy"
        segment_volume(
            MeanPredictor(chosen), CLASSES, open_volume(volume), tmp_path / f"o{index}.npy", identity="a",
            max_voxels=1500, extras={"probabilities": path},
        )  # fmt: skip
        parts.append(np.load(path).astype(np.float32))
    np.testing.assert_allclose(parts[3], sum(parts[:3]) / 3, atol=2e-3)


def test_distance_maps_are_those_of_the_members_that_have_them(tmp_path):
    with_distances = predictor(1, distance_weight=1.0, padding="valid"), predictor(2, distance_weight=0.5)
    mean = MeanPredictor((predictor(0), *with_distances))
    volume = image()
    whole = mean.reach(mean.choose_core(volume.shape, 10**9))
    images = mean.read(open_volume(volume).read_mirrored, (0, 0, 0), whole)[..., None]
    expected = mean.predict(images, whole).distances[:3, :50, :70]
    assert expected.std() > 1e-3
    paths = {name: tmp_path / f"{name}.npy" for name in ("probabilities", "distances")}
    segment_volume(
        mean, CLASSES, open_volume(volume), tmp_path / "o.npy", identity="a", max_voxels=1500, extras=paths
    )  # fmt: skip
    np.testing.assert_allclose(np.load(paths["distances"]), expected, atol=2e-3)
    assert np.load(paths["distances"]).dtype == np.float16
    assert np.load(paths["probabilities"]).shape == (*volume.shape, 2)
    with pytest.raises(gn.InputError, match="none of the networks gives distances"):
        segment_volume(
            MeanPredictor((predictor(0),)), CLASSES, open_volume(volume), tmp_path / "q.npy", identity="a",
            extras={"distances": tmp_path / "d.npy"},
        )  # fmt: skip
    assert not (tmp_path / "q.npy").exists()


def test_votes_are_counted():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
    assert as_votes(probabilities).tolist() == [[1, 0, 0], [0, 0, 1]]
    mean = MeanPredictor(tuple(predictor(seed) for seed in range(3)), vote=True)
    reach = mean.reach((1, 16, 16))
    answer = mean.predict(mean.read(open_volume(image()).read_mirrored, (0, 0, 0), reach)[..., None], reach)
    assert set(np.unique(answer.probabilities.round(3))) <= {0, np.float32(0.333), np.float32(0.667), 1}


def test_group_normalization_sees_training_windows_only():
    member = predictor(normalization="group", n_features=8, window_size=64)
    core = MeanPredictor((member,)).choose_core((5, 500, 500))
    assert core[0] == 1
    assert member.reach(core).input[1] <= 64 < member.reach((1, core[1] + 4, core[2])).input[1] + 4


class Dies(Exception):
    pass


def test_a_stopped_segmentation_is_continued(tmp_path):
    mean = MeanPredictor((predictor(),))
    volume = open_volume(image(), name="image")
    segment_volume(mean, CLASSES, volume, tmp_path / "whole.ome.zarr", identity="a", max_voxels=900)
    done = []

    def die(voxels, total):
        done.append(voxels)
        if len(done) == 4:
            raise Dies

    out = tmp_path / "o.ome.zarr"
    with pytest.raises(Dies):
        segment_volume(mean, CLASSES, volume, out, identity="a", max_voxels=900, progress=die)
    assert not out.exists()
    with pytest.raises(gn.InputError, match='an unfinished segmentation .*networks "a", now "b"'):
        segment_volume(mean, CLASSES, volume, out, identity="b", max_voxels=900)
    summary = segment_volume(mean, CLASSES, volume, out, identity="a", max_voxels=900)
    assert summary.n_kept == 4
    labels = open_volume(out).read(tuple(slice(0, n) for n in volume.shape))
    assert summary.fractions == pytest.approx([(labels == 0).mean(), (labels == 7).mean()])
    box = tuple(slice(0, n) for n in volume.shape)
    np.testing.assert_array_equal(open_volume(out).read(box), open_volume(tmp_path / "whole.ome.zarr").read(box))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.ome.zarr", "whole.ome.zarr"]


def test_outputs_are_never_overwritten_unasked(tmp_path):
    mean = MeanPredictor((predictor(),))
    (tmp_path / "o.npy").write_text("mine")
    with pytest.raises(gn.InputError, match="o.npy exists"):
        segment_volume(mean, CLASSES, open_volume(image()), tmp_path / "o.npy", identity="a")
    assert (tmp_path / "o.npy").read_text() == "mine"
    assert not partial_path(tmp_path / "o.npy").exists()
    segment_volume(mean, CLASSES, open_volume(image()), tmp_path / "o.npy", identity="a", overwrite=True)
    assert np.load(tmp_path / "o.npy").shape == (3, 50, 70)


def test_other_intensities_are_warned_of(tmp_path, caplog):
    mean = MeanPredictor((predictor(),))
    segment_volume(mean, CLASSES, open_volume(image()), tmp_path / "a.npy", identity="a")
    assert not caplog.records
    segment_volume(mean, CLASSES, open_volume(100 * image() + 500), tmp_path / "b.npy", identity="a")
    assert "expect little of the result" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"extras": {"entropy": "e.tif"}},
            "e.tif is to hold float16; write .ome.zarr instead; maps may be whole numbers",
        ),
        ({"ome_version": "0.6"}, "OME-Zarr is written in version 0.4 or 0.5, but got '0.6'"),
        ({"extras": {"entropy": "o.ome.zarr"}}, "every map needs a file of its own"),
        ({"extras": {"entropy": "x.h5:/a", "margin": "x.h5:/b"}}, "every map needs a file of its own"),
    ],
)
def test_what_is_refused_binds_nobody(options, message, tmp_path):
    mean, volume = MeanPredictor((predictor(),)), open_volume(image())
    if "extras" in options:
        options = {"extras": {name: str(tmp_path / file) for name, file in options["extras"].items()}}
    with pytest.raises(gn.InputError, match=message):
        segment_volume(mean, CLASSES, volume, tmp_path / "o.ome.zarr", identity="a", **options)
    assert list(tmp_path.iterdir()) == []
    segment_volume(mean, CLASSES, volume, tmp_path / "o.ome.zarr", identity="a")


def test_a_run_that_did_no_block_binds_nobody(tmp_path, monkeypatch):
    mean, volume = MeanPredictor((predictor(),)), open_volume(image())

    def fails(*_, **__):
        raise gn.InputError("the disk is full")

    with monkeypatch.context() as broken, pytest.raises(gn.InputError, match="the disk is full"):
        broken.setattr(segment, "_open_writers", fails)
        segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", identity="a", block=(1, 16, 16))
    done = segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", identity="b", block=(1, 32, 32))
    assert done.block == (1, 32, 32)


@pytest.mark.parametrize("part", ["", "/0"])
def test_the_image_is_not_written_over(part, tmp_path):
    with create_volume(tmp_path / "i.ome.zarr", (3, 50, 70), np.float32) as writer:
        writer.write((slice(0, 3), slice(0, 50), slice(0, 70)), image())
    mean, volume = MeanPredictor((predictor(),)), open_volume(f"{tmp_path / 'i.ome.zarr'}{part}")
    for output, extras in (("i.ome.zarr", {}), ("o.npy", {"entropy": tmp_path / "x" / ".." / "i.ome.zarr"})):
        with pytest.raises(gn.InputError, match="i.ome.zarr is what is read; choose another output"):
            segment_volume(mean, CLASSES, volume, tmp_path / output, identity="a", overwrite=True, extras=extras)
    np.testing.assert_array_equal(volume.read((slice(0, 3), slice(0, 50), slice(0, 70))), image())


def test_many_chunks_are_packed_by_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "MOST_FILES", 150)
    monkeypatch.setattr(segment, "FLAT_CHUNK", (1, 8, 8))
    maps = {name: tmp_path / f"{name}.ome.zarr" for name in ("probabilities", "entropy")}
    segment_volume(
        MeanPredictor((predictor(),)), CLASSES, open_volume(image()), tmp_path / "o.ome.zarr", identity="a",
        extras=maps, block=(1, 32, 32),
    )  # fmt: skip
    # 3 x 7 x 9 chunks, and twice as many of two classes.
    for path, first in ((tmp_path / "o.ome.zarr", ()), (maps["probabilities"], (1,))):
        stored = zarr.open_group(path, mode="r")["0"]
        assert stored.chunks == (*first, 1, 8, 8) and stored.shards == (*(2 * n for n in first), 1, 32, 32)
    monkeypatch.setattr(segment, "MOST_FILES", 200)
    maps = {name: tmp_path / f"{name}2.ome.zarr" for name in ("probabilities",)}
    segment_volume(
        MeanPredictor((predictor(),)), CLASSES, open_volume(image()), tmp_path / "o2.ome.zarr", identity="a",
        extras=maps, block=(1, 32, 32),
    )  # fmt: skip
    assert zarr.open_group(tmp_path / "o2.ome.zarr", mode="r")["0"].shards is None
    assert zarr.open_group(maps["probabilities"], mode="r")["0"].shards == (2, 1, 32, 32)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 1200), min_size=3, max_size=3))
def test_blocks_are_whole_chunks(core):
    most = segment.FLAT_CHUNK if core[0] == 1 else segment.CHUNK
    for side, longest in zip(core, most, strict=True):
        assert side % chunk_side(side, longest) == 0


def test_other_channels_are_refused(tmp_path):
    mean = MeanPredictor((predictor(),))
    with pytest.raises(gn.InputError, match="has 3 channels, but the network was trained on 1"):
        segment_volume(mean, CLASSES, open_volume(image((2, 20, 20, 3))), tmp_path / "o.npy", identity="a")


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif", ".h5", ".npy"])
def test_outputs_by_suffix(suffix, tmp_path):
    mean = MeanPredictor((predictor(),))
    out = tmp_path / f"o{suffix}"
    segment_volume(mean, CLASSES, open_volume(image()), out, identity="a", max_voxels=2000)
    written = open_volume(out)
    assert written.dtype == np.uint8
    assert set(np.unique(written.read((slice(0, 3), slice(0, 50), slice(0, 70))))) <= {0, 7}


# -- ensembles ---


@pytest.fixture
def networks(tmp_path, data_settings):
    """Three untrained networks with made-up scores; what counts is the bookkeeping."""
    data = gn.Dataset.open(data_settings)
    found = []
    for seed, score in enumerate((0.2, 0.5, 0.3)):
        net = gn.EncoderDecoder(n_classes=3, n_scales=1, n_features=4, n_convs=1, window_size=32)
        folder = tmp_path / "networks" / str(seed)
        found.append(
            save_network(
                folder,
                net.build(seed=seed),
                net,
                data.normalization(),
                data.classes,
                {"adjusted_rand": score},
                details={},
            )
        )
    return found


def test_the_curve_is_that_of_the_n_best(networks, data_settings, tmp_path):
    data = gn.Dataset.open(data_settings)
    chosen = Ensemble.select(networks, data, precision="float32")
    assert [point.alone for point in chosen.curve] == [0.5, 0.3, 0.2]
    ranked = sorted(networks, key=lambda n: -n.scores["adjusted_rand"])
    for point in chosen.curve:
        alone = Ensemble(tuple(ranked[: point.n_members])).score(data, precision="float32")
        assert point.adjusted_rand == pytest.approx(alone.adjusted_rand, abs=1e-6)
    best = max(chosen.curve, key=lambda point: point.adjusted_rand)
    assert len(chosen.members) == best.n_members
    chosen.save(tmp_path / "ensemble")
    again = Ensemble.open(tmp_path / "ensemble")
    assert again.identity == chosen.identity
    assert again.curve == chosen.curve
    assert str(tmp_path) not in (tmp_path / "ensemble" / "curve.csv").read_text()
    assert again.is_selected_from(networks)
    assert not again.is_selected_from(networks[:2])
    assert "validation adjusted Rand score" in again.summary()
    assert gn.evaluate(tmp_path / "ensemble", data).adjusted_rand == pytest.approx(best.adjusted_rand, abs=0.02)


def test_ensembles_segment_and_are_scored_alike(networks, data_settings, tmp_path):
    ensemble = Ensemble(tuple(networks), vote=True)
    ensemble.segment(data_settings["image"], tmp_path / "o.tif", precision="float32")
    data = gn.Dataset.open(data_settings)
    by_file = gn.evaluate(tmp_path / "o.tif", data)
    assert by_file.adjusted_rand == pytest.approx(ensemble.score(data, precision="float32").adjusted_rand, abs=1e-9)


def test_members_with_other_classes_are_refused(networks, data_settings, tmp_path):
    with pytest.raises(gn.InputError, match="needs at least one network"):
        Ensemble(())
    data_settings["classes"][2]["value"] = 9
    data_settings["ignore"] = 2
    image_file, labels = data_settings["image"], np.load(data_settings["labels"])
    labels[0, 0, 0] = 9
    np.save(data_settings["labels"], labels)
    with pytest.raises(gn.InputError, match=r"know the class values \[0, 1, 2\], but the data has \[0, 1, 9\]"):
        gn.evaluate(networks[0], gn.Dataset.open({**data_settings, "image": image_file}))
    renamed = (networks[0].classes[0], dataclasses.replace(networks[0].classes[1], name="vesicle"))
    other = dataclasses.replace(networks[1], classes=(*renamed, networks[0].classes[2]))
    with pytest.raises(gn.InputError, match="has other classes than .*1 vesicle.*1 disc.*; they cannot be averaged"):
        Ensemble((networks[0], other))
    net = gn.EncoderDecoder(n_classes=3, n_channels=2, n_scales=1, n_features=2)
    with pytest.raises(gn.InputError, match="reads another number of channels than"):
        Ensemble((networks[0], dataclasses.replace(networks[1], blueprint=net)))
    with pytest.raises(gn.InputError, match="is not a network"):
        gn.Network.open(tmp_path)
    with pytest.raises(gn.InputError, match="there is no"):
        gn.evaluate(tmp_path / "nowhere", gn.Dataset.open(data_settings))


def test_fit_core_needs_a_window():
    plan = gn.UNet(n_classes=2).plan_layers()
    fit = fit_core(plan, (384, 16))
    # 384 + 92 before + 96 after, and the smallest that fits around 16.
    assert fit.input == (572, 204)
    assert fit.lead == (92, 92)
    assert fit.skip == (0, 0)


def test_slabs_are_cut_and_joined():
    slab = Slab(depth=5, margin=1, keep=3)
    images = np.arange(11.0).reshape(11, 1, 1, 1)
    windows = slab.cut(images)
    assert windows[..., 0, 0, 0].tolist() == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10]]
    assert slab.join(windows).ravel().tolist() == list(range(1, 10))
    assert slab.count(9) == 3 and slab.count(7) == 3


@pytest.mark.parametrize(("depth", "slab"), [(5, Slab(5, 1, 3)), (8, Slab(8, 2, 4)), (2, Slab(2, 0, 2)), (40, None)])
def test_only_shallow_windows_ask_for_slabs(depth, slab):
    net = gn.EncoderDecoder(
        n_classes=2, spatial_mode="3d", pool_z="never", n_scales=1, n_features=2, window_size=32, window_depth=depth
    )
    member = BlockPredictor(None, net.plan_layers(), PLAIN, net.window_shape())
    assert member.slab == slab
    assert member.stride[0] == (slab.keep if slab else 1)


# -- doubt, weights, temperatures ---


def answers(mean, volume):
    """What an ensemble says about a whole volume, and each member alone."""
    reach = mean.reach(mean.choose_core(volume.shape, 10**9))
    images = mean.read(open_volume(volume).read_mirrored, (0, 0, 0), reach)[..., None]
    box = tuple(slice(0, n) for n in volume.shape)
    alone = [MeanPredictor((m,)).predict(images, reach).inside(box).probabilities for m in mean.members]
    return mean.predict(images, reach, member_entropy=True).inside(box), alone


def test_doubt_is_that_of_the_mean_and_of_the_members(tmp_path):
    """The mutual information is the mean divergence of members from their mean, by Kullback and Leibler."""
    mean = MeanPredictor((predictor(0), predictor(1), predictor(2)))
    volume = image()
    _, alone = answers(mean, volume)
    expected = np.mean(alone, 0)
    paths = {name: tmp_path / f"{name}.npy" for name in ("entropy", "disagreement", "margin")}
    segment_volume(
        mean, CLASSES, open_volume(volume), tmp_path / "o.npy", identity="a", max_voxels=1500, extras=paths
    )  # fmt: skip
    found = {name: np.load(path).astype(np.float32) for name, path in paths.items()}
    np.testing.assert_allclose(found["entropy"], -(expected * np.log2(expected)).sum(-1), atol=1e-3)
    apart = np.mean([(p * np.log2(p / expected)).sum(-1) for p in alone], 0)
    np.testing.assert_allclose(found["disagreement"], apart, atol=1e-3)
    np.testing.assert_allclose(found["margin"], abs(expected[..., 0] - expected[..., 1]), atol=1e-3)
    segment_volume(
        mean, CLASSES, open_volume(volume), tmp_path / "w.npy", identity="a", extras_dtype="uint8",
        extras={"entropy": tmp_path / "whole.npy"},
    )  # fmt: skip
    whole = np.load(tmp_path / "whole.npy")
    assert whole.dtype == np.uint8
    np.testing.assert_allclose(whole / 255, found["entropy"], atol=0.003)


def test_another_map_at_the_same_place_is_not_continued(tmp_path):
    mean, volume = MeanPredictor((predictor(),)), open_volume(image())
    options = {"identity": "a", "max_voxels": 1500}

    def die(done, total):
        raise Dies

    with pytest.raises(Dies):
        segment_volume(
            mean, CLASSES, volume, tmp_path / "o.npy", progress=die, extras={"entropy": tmp_path / "m.npy"}, **options
        )  # fmt: skip
    with pytest.raises(gn.InputError, match="other settings"):
        segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", extras={"margin": tmp_path / "m.npy"}, **options)
    (notes,) = tmp_path.glob("*.jsonl")
    notes.write_text(notes.read_text() + '{"block": 7')  # half a line, of a process that was killed
    with pytest.raises(Dies):
        segment_volume(
            mean, CLASSES, volume, tmp_path / "o.npy", progress=die, extras={"entropy": tmp_path / "m.npy"}, **options
        )  # fmt: skip
    assert [json.loads(line)["block"] for line in notes.read_text().splitlines()[1:]] == [0, 1]
    notes.write_text("{")
    with pytest.raises(gn.InputError, match=r"o\.part\.npy\.jsonl is damaged; --restart begins anew"):
        segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", **options)
    segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", restart=True, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.part.npy", "o.npy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extras": {"entropie": "e.npy"}}, "there is no map `entropie`; did you mean `entropy`"),
        ({"extras": {"disagreement": "d.npy"}}, "one network alone does not disagree"),
        ({"extras": {"entropy": "e.npy"}, "extras_dtype": "int8"}, "written as float16 or uint8, but got 'int8'"),
        ({"extras": {"entropy": "e.npy", "margin": "e.npy"}}, "every map needs a file of its own"),
    ],
)
def test_maps_that_cannot_be_are_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(gn.InputError, match=message):
        segment_volume(MeanPredictor((predictor(),)), CLASSES, open_volume(image()), "o.npy", identity="a", **options)
    assert not list(tmp_path.iterdir())


def test_members_count_by_weight_and_temperature():
    members, volume = (predictor(0), predictor(1)), image()
    _, alone = answers(MeanPredictor(members), volume)
    weighted = answers(MeanPredictor(members, weights=(3.0, 1.0)), volume)[0].probabilities
    np.testing.assert_allclose(weighted, (3 * alone[0] + alone[1]) / 4, atol=1e-6)
    logits = [np.log(p[..., 1] / p[..., 0]) for p in alone]
    cooled = answers(MeanPredictor(members, temperatures=(2.0, 0.5)), volume)[0].probabilities[..., 1]
    np.testing.assert_allclose(
        cooled, (1 / (1 + np.exp(-logits[0] / 2)) + 1 / (1 + np.exp(-logits[1] * 2))) / 2, atol=1e-5
    )


# -- selection and calibration ---


def said(labels, n_right, strength, seed):
    """A network of two classes that is right about the first voxels, and so sure of everything."""
    right = np.arange(len(labels)) < n_right
    right = np.random.default_rng(seed).permutation(right)
    chosen = np.where(right, labels, 1 - labels)
    return np.where(np.arange(2) == chosen[:, None], strength, 1 - strength)


def test_greedy_selection_never_scores_less_than_it_could():
    """The first choice is the best network; every later one is the best addition, by trying all."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400).astype(np.uint8)
    members = [said(labels, n, 0.6 + 0.03 * n % 7 / 10, n) for n in range(320, 250, -10)]
    candidates = Candidates(labels, members)
    for rule, again in ((greedy, False), (greedy_with_replacement, True)):
        order, total = rule(candidates, 5), 0
        assert len(order) == 5 and (again or len(set(order)) == 5)
        for place, number in enumerate(order):
            allowed = [n for n in range(len(members)) if again or n not in order[:place]]
            best = max(candidates.score(total + members[n]) for n in allowed)
            total = total + members[number]
            assert candidates.score(total) == best
    assert best_first(candidates, 3) == [0, 1, 2]
    assert greedy(candidates, 99) and len(greedy(candidates, 99)) == len(members)


def test_the_limit_of_time_is_kept():
    labels = np.tile(np.array([0, 1], np.uint8), 100)
    members = [said(labels, 190, 0.8, 0), said(labels, 180, 0.8, 1), said(labels, 150, 0.8, 2)]
    seconds = [10.0, 1.0, 0.5]
    candidates = Candidates(labels, members, seconds)
    assert per_second(0.4)(candidates, 9) == []
    assert per_second(1.2)(candidates, 9) == [1]  # more per second than the third, though that is faster
    assert set(per_second(1.6)(candidates, 9)) == {1, 2}
    assert set(per_second(100)(candidates, 9)) == {0, 1, 2}
    # Where nothing helps any more, the slow one does not come first for losing little per second.
    late = Candidates(labels, [said(labels, 200, 0.6, 0), said(labels, 90, 0.9, 1), said(labels, 90, 0.9, 1)],
                      [1.0, 50.0, 0.1])  # fmt: skip
    assert per_second(100)(late, 9) == [0, 2, 1]


def test_a_temperature_mends_what_is_too_sure():
    """Labels drawn from known probabilities, which are then sharpened: the temperature that was put in comes out."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet((1, 1, 1), 60_000)
    labels = (rng.random(60_000)[:, None] > true.cumsum(-1)).sum(-1).astype(np.uint8)
    shown = sharpened(true, 0.4)
    assert fit_temperature(labels, shown) == pytest.approx(1 / 0.4, rel=0.03)
    assert fit_temperature(labels, true) == pytest.approx(1, rel=0.03)
    before, after = (expected_calibration_error(labels, p) for p in (shown, sharpened(shown, 1 / 0.4)))
    assert before > 0.1 and after < 0.01


def test_ensembles_are_selected_by_rules_and_calibrated(networks, data_settings, tmp_path):
    data = gn.Dataset.open(data_settings)
    cache = tmp_path / "predictions"
    made = Ensemble.select(networks, data, rule="greedy_with_replacement", max_members=5, calibrate=True, cache=cache)
    assert len(list(cache.iterdir())) == len(networks)
    assert len(made.curve) == 5 and len(made.temperatures) == len(made.members)
    assert made.calibration is not None and 0 <= made.calibration[1] <= 1
    made.save(tmp_path / "ensemble")
    again = Ensemble.open(tmp_path / "ensemble")
    assert (again.weights, again.temperatures, again.identity) == (made.weights, made.temperatures, made.identity)
    assert again.calibration == pytest.approx(made.calibration)
    assert again.is_selected_from(networks) and not again.is_selected_from(networks[:1])
    assert again.chosen_by == {"rule": "greedy_with_replacement", "max_members": 5, "calibrate": True}
    few = Ensemble.select(networks, data, max_members=1, cache=cache)
    assert few.is_selected_from(networks) and len(few.candidates) == 1
    n_joined = round(sum(made.weights)) if made.weights else len(made.members)
    assert again.score(data).adjusted_rand == pytest.approx(made.curve[n_joined - 1].adjusted_rand, abs=1e-6)
    for network in networks:  # read, not worked out again
        (network.folder / "model.keras").unlink()
    assert Ensemble.select(networks, data, rule="greedy", cache=cache).curve[0].alone == made.curve[0].alone
    with pytest.raises(gn.InputError, match="there is no rule `greedily` to select by; did you mean `greedy`"):
        Ensemble.select(networks, data, rule="greedily")
    with pytest.raises(gn.InputError, match="belong together"):
        Ensemble.select(networks, data, rule="per_second")
    with pytest.raises(gn.InputError, match="`weights` must be 1 positive number"):
        Ensemble((networks[0],), weights=(0.0,))


# -- faults ---


def probabilities(volume, tmp_path, name="p", member=None, **options):
    segment_volume(
        MeanPredictor((member or predictor(padding="same"),)), CLASSES, open_volume(volume), tmp_path / f"{name}.npy",
        identity="a", extras={"probabilities": tmp_path / f"{name}p.npy"}, overwrite=True, **options,
    )  # fmt: skip
    return np.load(tmp_path / f"{name}p.npy").astype(np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_bad_slices_do_not_spread(bad, tmp_path, caplog):
    """A 2-D network: other slices stay as they are; and what is not a number counts as the mean."""
    volume = image()
    good = probabilities(volume, tmp_path, max_voxels=1500)
    spoiled = volume.copy()
    spoiled[1] = bad
    found = probabilities(spoiled, tmp_path, max_voxels=1500)
    np.testing.assert_allclose(found[[0, 2]], good[[0, 2]], atol=1e-3)
    if not np.isfinite(bad):
        assert "holds NaN or infinity" in caplog.text
        blank = volume.copy()
        blank[1] = 0
        np.testing.assert_allclose(found, probabilities(blank, tmp_path), atol=1e-3)


def test_bad_voxels_stay_within_the_halo(tmp_path):
    member = predictor()
    volume = image((1, 120, 120))
    spoiled = volume.copy()
    spoiled[0, 60, 60] = 1e30
    good, found = probabilities(volume, tmp_path), probabilities(spoiled, tmp_path)
    (before, after), _ = member.plan.halo()
    reach = max(before, after) + member.plan.total_stride[0]
    far = np.ones((120, 120), bool)
    far[60 - reach : 61 + reach, 60 - reach : 61 + reach] = False
    np.testing.assert_allclose(found[0, far], good[0, far], atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, 1e30])
def test_bad_slices_stay_within_the_halo_in_three_dimensions(bad, tmp_path):
    member = predictor(spatial_mode="3d", n_scales=1, window_size=24, window_depth=16, pool_z="never")
    volume = image((30, 24, 24))
    spoiled = volume.copy()
    spoiled[15] = bad
    good, found = (probabilities(each, tmp_path, member=member, block=(8, 24, 24)) for each in (volume, spoiled))
    (before, after), *_ = member.plan.halo()
    far = np.ones(30, bool)
    far[15 - max(before, after) : 16 + max(before, after)] = False
    assert far.sum() > 10 and np.isfinite(found).all()
    np.testing.assert_allclose(found[far], good[far], atol=1e-3)


@pytest.mark.parametrize("name", ["i.tif", "i.ome.zarr"])
def test_a_damaged_file_ends_it_and_what_is_done_stays(name, tmp_path):
    values = (image((6, 64, 64)) * 20 + 100).astype(np.uint8)
    path = tmp_path / name
    if name == "i.tif":
        tifffile.imwrite(path, values, compression="zlib", photometric="minisblack")
        with tifffile.TiffFile(path) as file:
            page = file.pages[4]
            start, length = page.dataoffsets[0], page.databytecounts[0]
        content = bytearray(path.read_bytes())
        content[start : start + length] = bytes(length)
        bad, whole = bytes(content), path.read_bytes()
        damaged = path
    else:
        with create_volume(path, values.shape, values.dtype, chunks=(1, 64, 64)) as writer:
            writer.write((slice(0, 6), slice(0, 64), slice(0, 64)), values)
        damaged = path / "0" / "c" / "4" / "0" / "0"
        whole, bad = damaged.read_bytes(), damaged.read_bytes()[:100]
    damaged.write_bytes(bad)
    mean, options = MeanPredictor((predictor(),)), {"identity": "a", "block": (1, 32, 32)}
    with pytest.raises(gn.InputError, match=f"cannot read .*{name}"):
        segment_volume(mean, CLASSES, open_volume(path), tmp_path / "o.npy", **options)
    assert not (tmp_path / "o.npy").exists()
    damaged.write_bytes(whole)
    done = segment_volume(mean, CLASSES, open_volume(path), tmp_path / "o.npy", **options)
    assert done.n_kept >= 4
    segment_volume(mean, CLASSES, open_volume(values), tmp_path / "w.npy", **options)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), np.load(tmp_path / "w.npy"))


def test_a_block_is_read_once_and_normalised_once_for_each_kind(monkeypatch):
    kinds = PLAIN, Normalization((1.0,), (2.0,))
    calls = []
    real = Normalization.__call__
    monkeypatch.setattr(Normalization, "__call__", lambda self, values: calls.append(self) or real(self, values))
    members = [dataclasses.replace(predictor(seed), normalization=kinds[seed % 2]) for seed in range(4)]
    mean = MeanPredictor(tuple(members))
    reach = mean.reach((1, 16, 16))
    mean.predict(np.zeros((*reach.input, 1), np.float32) + np.arange(reach.input[2])[:, None], reach)
    assert sorted(calls, key=kinds.index) == list(kinds)


class Unreadable:
    """A volume of which some slices cannot be read."""

    def __init__(self, values, bad):
        self.values, self.bad, self.shape, self.dtype = values, bad, values.shape, values.dtype

    def __getitem__(self, key):
        if key[0].start <= self.bad < key[0].stop:
            raise OSError(5, "Input/output error")
        return self.values[key]


def test_a_block_that_cannot_be_read_ends_it_and_loses_nothing(tmp_path):
    mean, volume = MeanPredictor((predictor(),)), image((6, 50, 70))
    options = {"identity": "a", "max_voxels": 1500}
    source = Unreadable(volume, 4)
    with pytest.raises(gn.InputError, match="cannot read the picture: .*Input/output error"):
        segment_volume(mean, CLASSES, open_volume(source, name="the picture"), tmp_path / "o.npy", **options)
    assert not (tmp_path / "o.npy").exists()
    source.bad = -1
    summary = segment_volume(mean, CLASSES, open_volume(source, name="the picture"), tmp_path / "o.npy", **options)
    assert summary.n_kept > 4
    segment_volume(mean, CLASSES, open_volume(volume), tmp_path / "w.npy", **options)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), np.load(tmp_path / "w.npy"))


def test_a_chunk_that_is_absent_on_purpose_is_zero(tmp_path):
    volume = np.abs(image((4, 64, 64))) + 1
    with create_volume(tmp_path / "i.ome.zarr", volume.shape, volume.dtype, chunks=(1, 32, 32)) as writer:
        writer.write((slice(0, 2), slice(0, 64), slice(0, 64)), volume[:2])  # the rest is never written
    volume[2:] = 0
    np.testing.assert_allclose(
        probabilities(tmp_path / "i.ome.zarr", tmp_path, "a"), probabilities(volume, tmp_path, "b"), atol=1e-3
    )


@pytest.mark.parametrize("suffix", [".ome.zarr", ".h5"])
def test_a_disk_that_fills_loses_nothing(suffix, tmp_path):
    mean, volume = MeanPredictor((predictor(),)), image((6, 200, 200))
    options = {"identity": "a", "max_voxels": 2**14, "extras": {"probabilities": tmp_path / f"p{suffix}"}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        # What was told keeps the files alive: HDF5 cannot let go of one while it cannot be written.
        with pytest.raises(gn.InputError, match="cannot write .*; free some space or choose another folder") as told:
            segment_volume(mean, CLASSES, open_volume(volume), tmp_path / f"o{suffix}", **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    del told
    gc.collect()
    assert not (tmp_path / f"o{suffix}").exists()
    segment_volume(mean, CLASSES, open_volume(volume), tmp_path / f"o{suffix}", **options)
    segment_volume(mean, CLASSES, open_volume(volume), tmp_path / "w.npy", identity="a", max_voxels=2**14)
    box = tuple(slice(0, n) for n in volume.shape)
    np.testing.assert_array_equal(open_volume(tmp_path / f"o{suffix}").read(box), np.load(tmp_path / "w.npy"))


@pytest.mark.parametrize("dies_at", ["levels", "publishing"])
def test_a_kill_while_outputs_are_finished_costs_no_block(dies_at, tmp_path, monkeypatch):
    mean, volume = MeanPredictor((predictor(),)), open_volume(image((4, 300, 300)), name="image")
    options = {"identity": "a", "max_voxels": 2**15, "extras": {"entropy": tmp_path / "e.ome.zarr"}}
    name, module = ("add_levels", segment) if dies_at == "levels" else ("publish", segment.place)
    real, calls = getattr(module, name), []

    def dies_at_the_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise Dies
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, dies_at_the_second)
    with pytest.raises(Dies):
        segment_volume(mean, CLASSES, volume, tmp_path / "o.ome.zarr", **options)
    assert (tmp_path / "o.ome.zarr").exists() == (dies_at == "publishing")
    summary = segment_volume(mean, CLASSES, volume, tmp_path / "o.ome.zarr", **options)
    assert summary.n_blocks == 0 and summary.n_kept > 4 and len(calls) == 3, "what was finished is not done again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.ome.zarr", "o.ome.zarr"]
    assert open_volume(tmp_path / "e.ome.zarr" / "1").shape == (2, 150, 150)


def test_a_map_that_another_program_writes_is_refused(tmp_path):
    mean, volume = MeanPredictor((predictor(),)), open_volume(image(), name="image")
    seen = []

    def meanwhile(done, total):
        if not seen:
            seen.append(done)
            with pytest.raises(gn.InputError, match=r"another program is writing .*e\.npy"):
                segment_volume(mean, CLASSES, volume, tmp_path / "p.npy", identity="a", extras=extras)
            with pytest.raises(gn.InputError, match=r"another program is writing .*e\.npy"):
                segment_volume(mean, CLASSES, volume, tmp_path / "e.npy", identity="a")

    extras = {"entropy": tmp_path / "e.npy"}
    segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", identity="a", extras=extras, progress=meanwhile)
    assert seen and sorted(path.name for path in tmp_path.iterdir()) == ["e.npy", "o.npy"]


def test_a_run_goes_on_by_the_engines_it_began_with(networks, tmp_path, monkeypatch):
    ensemble, volume = Ensemble(tuple(networks)), np.zeros((6, 64, 64), np.uint8)
    options = {"max_voxels": 2**12, "engine": "auto", "precision": "float32"}

    def die(done, total):
        raise Dies

    with pytest.raises(Dies):
        ensemble.segment(volume, tmp_path / "o.npy", progress=die, **options)
    manifest = path_beside(tmp_path / "o.npy")
    first, *rest = manifest.read_text().split("\n")
    begun = json.loads(first)
    begun["chosen"]["engines"] = ["keras/float32"] * 3
    manifest.write_text("\n".join([json.dumps(begun), *rest]))
    monkeypatch.setattr(Ensemble, "fastest", None)  # it must not be asked
    assert ensemble.segment(volume, tmp_path / "o.npy", **options).engines == ("keras/float32",) * 3


# -- memory ---


def test_blocks_fit_the_memory_they_are_given():
    mean = MeanPredictor((predictor(n_features=16, n_scales=3), predictor(n_features=8)))
    sizes = []
    for limit in (10**9, 10**8, 2 * 10**7):
        core = mean.choose_core((50, 2000, 2000), max_bytes=limit)
        assert mean.bytes_for(core) <= limit
        sizes.append(np.prod(core))
    assert sizes[0] > sizes[1] > sizes[2]
    tiny = mean.choose_core((50, 2000, 2000), max_bytes=1)
    assert tiny == (1, 8, 8), "the smallest there is, rather than none"


def test_more_voxels_take_more_memory():
    net = gn.UNet(n_classes=2)
    member = BlockPredictor(None, net.plan_layers(), PLAIN, net.window_shape())
    found = [member.bytes_for((1, side, side)) for side in (64, 256, 1024)]
    assert found == sorted(found)
    # In the first stack: what a convolution reads, its copy, and what it writes, 64 channels each.
    assert found[-1] > 4 * 3 * 64 * 1200**2


def test_dilated_convolutions_move_copies_to_the_batch():
    plan = gn.DilatedNet(n_classes=2, n_scales=2, n_features=8, n_convs=1, kernel_size=3).plan_layers()
    assert [layer.operation.dilation for name, layer in plan.layers.items() if name.endswith("conv0")] == [1, 2]
    # What the second one reads and writes; with two zeros on each side, 31 make 35 and then 36; 31 make 32.
    wanted = 8 * (31**2 + 31**2 + 2 * 36**2 + 2 * 32**2)
    assert inference_bytes(plan, plan.sizes((31, 31)), 1) == 4 * (wanted + plan.n_parameters)


def test_a_block_that_was_chosen_stays_when_it_goes_on(tmp_path):
    mean, volume = MeanPredictor((predictor(),)), open_volume(image(), name="image")
    whole = segment_volume(mean, CLASSES, volume, tmp_path / "w.npy", identity="a", max_voxels=900)

    def die(done, total):
        raise Dies

    with pytest.raises(Dies):
        segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", identity="a", max_voxels=900, progress=die)
    summary = segment_volume(mean, CLASSES, volume, tmp_path / "o.npy", identity="a", memory_bytes=10**9)
    assert summary.block == whole.block and summary.n_kept == 1


def test_ensembles_look_as_they_are_told(networks, tmp_path):
    """Axes belong to the ensemble and are kept with it; augmentation and overlap are asked for each time."""
    image = np.random.default_rng(0).integers(0, 255, (20, 40, 48)).astype(np.uint8)
    straight = Ensemble(tuple(networks))
    across = Ensemble(tuple(networks), axes=("zyx", "y", "z"))
    across.save(tmp_path / "across")
    again = Ensemble.open(tmp_path / "across")
    assert again.axes == ("zyx", "y", "z") and again.identity == across.identity != straight.identity
    assert [len(member.views) for member in again.geometry().members] == [3, 1, 1]
    found = {}
    for name, ensemble, look in (
        ("straight", straight, Look()), ("across", again, Look()), ("flips", straight, Look("flips")),
        ("overlap", straight, Look(overlap=0.5)),
    ):  # fmt: skip
        done = ensemble.segment(
            image, tmp_path / f"{name}.npy", look=look, precision="float32",
            extras={"probabilities": tmp_path / f"{name}-p.npy"},
        )  # fmt: skip
        assert done.engines == ("keras/float32",) * 3
        found[name] = np.load(tmp_path / f"{name}-p.npy").astype(np.float32)
    for name in ("across", "flips", "overlap"):
        assert abs(found[name] - found["straight"]).max() > 1e-4
        np.testing.assert_allclose(found[name].sum(-1), 1, atol=3e-3)
    with pytest.raises(gn.InputError, match="`axes` must be 3 words"):
        Ensemble(tuple(networks), axes=("z",))
    with pytest.raises(gn.InputError, match="slices lie across one or several of z, y and x, but got 'q'"):
        Ensemble(tuple(networks), axes=("z", "z", "q"))


def test_blocks_that_are_the_same_everywhere_ask_the_networks_once(tmp_path, monkeypatch):
    """Beyond the tissue, or where chunks are missing: the same answer, edges of the volume included."""
    pixels = np.full((4, 200, 200), 3.0, np.float32)
    pixels[:, :40, :40] = image((4, 40, 40))
    pixels[3, 150:, 150:] = 5.0
    members = MeanPredictor((predictor(0), predictor(1)))
    asked = []
    predict = MeanPredictor.predict
    monkeypatch.setattr(MeanPredictor, "predict", lambda *a, **k: asked.append(1) or predict(*a, **k))
    maps = {name: tmp_path / f"{name}.npy" for name in ("probabilities", "disagreement")}
    segment_volume(
        members, CLASSES, open_volume(pixels), tmp_path / "o.npy", identity="a", extras=maps, max_voxels=2000
    )
    n_blocks = len(list(blocks(pixels.shape, members.choose_core(pixels.shape, 2000))))
    assert len(asked) < 0.6 * n_blocks
    reach = members.reach(members.choose_core(pixels.shape))
    volume = open_volume(pixels)
    images = members.read(lambda at, n: volume.read_mirrored(at, n)[..., None], (0, 0, 0), reach)
    whole = predict(members, images, reach).inside(tuple(map(slice, pixels.shape)))
    np.testing.assert_allclose(np.load(maps["probabilities"]), whole.probabilities, atol=2e-3)
