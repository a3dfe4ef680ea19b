"""Data files: what they may say, what is refused, and what comes out of the windows."""

import dataclasses

import numpy as np
import pytest

import genenet as gn
from genenet.augment import Augmentation
from genenet.dataset import Dataset, resolve_data
from genenet.folder import write_yaml
from genenet.holding import in_memory
from genenet.label_table import UNLABELLED, LabelTable
from genenet.normalization import Normalization, fit_normalization
from genenet.plan import WindowShape
from genenet.settings import WindowSettings
from genenet.volume import open_volume
from genenet.weights import boundary_weights, class_weights
from genenet.windows import TrainingWindows, prefetch

PLAIN = WindowSettings(batch_size=3, augmentation=Augmentation.off(), class_balance=0.0)


def windows(data, settings=PLAIN, *, size=16, core=None, seed=0):
    shape = WindowShape((size, size), (core or size,) * 2)
    return TrainingWindows(data, shape, data.normalization(), settings, seed=seed)


def test_a_data_file_is_opened(data_file, data_settings):
    data = Dataset.open(data_file)
    assert [entry.name for entry in data.classes] == ["background", "disc", "core"]
    assert data.training[0].shape == (4, 64, 64)
    assert data.validation[0].start == (4, 0, 0)
    assert data.voxel_size_nm == (50, 10, 10)
    labels = np.load(data_settings["labels"])
    assert data.counts == tuple(np.bincount(labels[:4].ravel(), minlength=3))
    assert Dataset.open(data) is data


def test_paths_are_relative_to_the_file(data_file, data_settings, tmp_path, monkeypatch):
    write_yaml(tmp_path / "data.yaml", {**data_settings, "image": "image.npy", "labels": "labels.npy"})
    monkeypatch.chdir("/")
    data = Dataset.open(tmp_path / "data.yaml")
    again = Dataset.open(resolve_data(tmp_path / "data.yaml"))
    assert again.counts == data.counts
    assert resolve_data(tmp_path / "data.yaml")["image"] == str(tmp_path / "image.npy")


def test_splits_by_box_and_by_file(data_settings, tmp_path):
    np.save(tmp_path / "other.npy", np.load(data_settings["image"])[:2])
    np.save(tmp_path / "other_labels.npy", np.load(data_settings["labels"])[:2])
    data_settings["training"] = [{"z": [0, 2], "y": [0, 32]}, {"z": [2, 4], "x": [10, 60]}]
    data_settings["validation"] = {"image": str(tmp_path / "other.npy"), "labels": str(tmp_path / "other_labels.npy")}
    data = Dataset.open(data_settings)
    assert [part.shape for part in data.training] == [(2, 32, 64), (2, 64, 50)]
    assert data.validation[0].shape == (2, 64, 64)
    # Beyond a box the image goes on, but its labels are nobody's business.
    part = data.training[0]
    np.testing.assert_array_equal(
        part.read_image((0, 30, 0), (1, 6, 4))[0, ..., 0], np.load(data_settings["image"])[0, 30:36, :4]
    )
    assert (part.read_labels((0, 30, 0), (1, 6, 4))[0, 2:] == UNLABELLED).all()
    assert (part.read_labels((0, -3, 0), (1, 6, 4))[0, :3] == UNLABELLED).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.int64])
def test_any_integers_become_class_indices(dtype, data_settings):
    labels = np.load(data_settings["labels"]).astype(dtype)
    labels = np.array([40, 7, 100], dtype)[labels]
    labels[:, :8] = 3
    np.save(data_settings["labels"], labels)
    for entry, value in zip(data_settings["classes"], (40, 7, 100), strict=True):
        entry["value"] = value
    data = Dataset.open({**data_settings, "ignore": 3})
    found = data.training[0].read_labels((0, 0, 0), (4, 64, 64))
    assert (found[:, :8] == UNLABELLED).all()
    np.testing.assert_array_equal(np.array([40, 7, 100])[found[:, 8:]], labels[:4, 8:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "x.tif"}, "unknown key `images`"),
        ({"classes": [{"value": 0, "name": "a", "colour": "#000000"}] * 2}, "unknown key `classes.0.colour`"),
        ({"classes": [{"value": 0, "name": "only"}]}, "`classes`"),
        ({"classes": [{"value": 0, "name": "a"}, {"value": 0, "name": "b"}]}, "label value 0 is of class 'a' and of"),
        ({"classes": [{"value": 0, "name": "a"}, {"value": 1, "name": "b", "also": [0]}]}, "label value 0 is of"),
        ({"classes": [{"value": 0, "name": "a"}, {"value": 1, "name": "b", "also": 2}]}, "`classes.1.also`"),
        (
            {"classes": [{"value": v, "name": str(v), "also": "others"} for v in (0, 1)]},
            "two classes have `also: others`",
        ),
        (
            {"classes": [{"value": 0, "name": "a", "color": "red"}, {"value": 1, "name": "b"}]},
            "a class color must look",
        ),
        ({"ignore": 1}, "`ignore` is 1, but a class has that value"),
        ({"training": {"z": [0, 9]}}, r"training: `z: \[0, 9\]` must lie within \[0, 6\]"),
        ({"training": {"z": [3, 3]}}, "must lie within"),
        ({"validation": {"time": [3, 4]}}, "unknown key `validation.time`"),
        ({"image": "nowhere.tif"}, "there is no file or folder nowhere.tif"),
        ({"image": None}, "there is no `image`"),
        ({"voxel_size_nm": [1, 2]}, "`voxel_size_nm`"),
    ],
)
def test_data_files_that_cannot_be_used(change, message, data_settings):
    with pytest.raises(gn.InputError, match=message):
        Dataset.open({**data_settings, **change})


def test_a_missing_or_broken_data_file(tmp_path):
    with pytest.raises(gn.InputError, match="there is no file .*data.yaml"):
        Dataset.open(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text("image: [")
    with pytest.raises(gn.InputError, match="is not valid YAML"):
        Dataset.open(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text("- 1")
    with pytest.raises(gn.InputError, match="must hold keys such as"):
        Dataset.open(tmp_path / "data.yaml")


def test_volumes_that_cannot_be_used(data_settings):
    image, labels = np.load(data_settings["image"]), np.load(data_settings["labels"])
    np.save(data_settings["labels"], np.where(labels == 2, 5, labels))
    with pytest.raises(gn.InputError, match="labels.npy holds label values that no class has: 5"):
        Dataset.open(data_settings)
    np.save(data_settings["labels"], np.where(labels == 2, 1, labels))
    with pytest.raises(gn.InputError, match=r"class 'core' \(value 2\) has no voxel in the training part"):
        Dataset.open(data_settings)
    np.save(data_settings["labels"], labels[:, :32])
    with pytest.raises(gn.InputError, match=r"image.npy has shape \(6, 64, 64\), but .*labels.npy has \(6, 32, 64\)"):
        Dataset.open(data_settings)
    np.save(data_settings["labels"], labels.astype(np.float32))
    with pytest.raises(gn.InputError, match="holds float32, but labels must be integers"):
        Dataset.open(data_settings)
    unlabelled = labels.copy()
    unlabelled[4:] = 9
    np.save(data_settings["labels"], unlabelled)
    with pytest.raises(gn.InputError, match="no voxel of the validation part is labelled"):
        Dataset.open({**data_settings, "ignore": 9})
    np.save(data_settings["labels"], labels)
    broken = image.astype(np.float32)
    broken[1, 3, 4] = np.nan
    np.save(data_settings["image"], broken)
    with pytest.raises(gn.InputError, match="image.npy holds NaN or infinity: 1 voxels of slice z=1"):
        Dataset.open(data_settings).normalization()
    np.save(data_settings["image"], np.zeros_like(image))
    with pytest.raises(gn.InputError, match="has one value only in the training part"):
        Dataset.open(data_settings).normalization()


def test_normalization_is_that_of_the_training_part():
    volume = open_volume(np.random.default_rng(0).normal(100, 20, (6, 8, 8, 2)))
    box = slice(0, 3), slice(0, 8), slice(0, 8)
    found = fit_normalization([(volume, box)])
    values = found(volume.read(box))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(values.std((0, 1, 2)), 1, atol=1e-5)
    assert Normalization.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_a_class_may_have_several_label_values(dtype):
    labels = np.array([0, 3, 9, 255, 100], dtype)
    table = LabelTable({0: 0, 1: 1, 3: 1, 255: UNLABELLED}, others=2)
    assert table.to_indices(labels, "labels").tolist() == [0, 1, 2, UNLABELLED, 2]
    with pytest.raises(gn.InputError, match="no class has: 9, 100; .*`others` for all that remain"):
        LabelTable({0: 0, 3: 1, 255: UNLABELLED}).to_indices(labels, "labels")


def test_instances_are_one_class_by_also_others(data_settings):
    labels = np.load(data_settings["labels"]).astype(np.int32)
    np.save(data_settings["labels"], np.where(labels > 0, labels + np.arange(labels.size).reshape(labels.shape), 0))
    classes = [{"value": 0, "name": "background"}, {"value": 1, "name": "cell", "also": "others"}]
    part = Dataset.open({**data_settings, "classes": classes}).training[0]
    np.testing.assert_array_equal(part.read_labels((0, 0, 0), part.shape), labels[part.box] > 0)


def test_large_volumes_stay_on_disk(data_settings):
    volume = open_volume(data_settings["image"])
    assert in_memory(volume, limit=10) is volume
    assert in_memory(volume).voxel_size_nm == volume.voxel_size_nm


# -- weights ---


def test_class_weights_by_hand():
    # Frequencies 0.9, 0.09, 0.01: inverse, relative to the rarest, 1/90, 1/9, 1; the floor lifts the first to 0.05.
    raw = np.array([0.05, 1 / 9, 1])
    expected = raw / (raw * [0.9, 0.09, 0.01]).sum()
    np.testing.assert_allclose(class_weights([900, 90, 10], floor=0.05)[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(class_weights([900, 90, 10], balance=0)[:3], 1, rtol=1e-6)
    assert class_weights([5, 5])[UNLABELLED] == 0


def test_boundary_weights_fall_from_boundaries():
    labels = np.zeros((20, 40), np.uint8)
    labels[:, 20:] = 1
    found = boundary_weights(labels)
    assert found.max() == pytest.approx(25)
    assert found[10, 19] == found[10, 20] == found.max()
    assert (np.diff(found[10, 20:]) <= 1e-5).all()
    assert found[10, 0] == 0
    assert (boundary_weights(np.zeros((8, 8), np.uint8)) == 0).all()
    labels[:, 20:] = UNLABELLED
    assert (boundary_weights(labels) == 0).all()


# -- windows ---


def test_windows_hold_image_and_labels_of_the_same_place(data_file, data_settings):
    data = Dataset.open(data_file)
    image = data.normalization()(np.load(data_settings["image"])[..., None])[..., 0]
    labels = np.load(data_settings["labels"])
    found = windows(data, size=16, core=8)
    for step in range(4):
        images, targets, weights, _ = found.batch(step)
        assert images.shape == (3, 16, 16, 1) and targets.shape == weights.shape == (3, 8, 8)
        assert images.dtype == np.float32 and targets.dtype == np.int32
        for window, target in zip(images[..., 0], targets, strict=True):
            places = [
                (z, y, x)
                for z in range(4)
                for y in range(57)
                for x in range(57)
                if np.allclose(image[z, y : y + 8, x : x + 8], window[4:12, 4:12])
            ]
            assert len(places) == 1
            z, y, x = places[0]
            np.testing.assert_array_equal(labels[z, y : y + 8, x : x + 8], target)


def test_a_batch_follows_from_seed_and_step(data_file):
    data = Dataset.open(data_file)
    settings = WindowSettings(batch_size=2)
    one, other = windows(data, settings), windows(data, settings)
    ahead = list(prefetch(other.batch, range(1, 8)))
    assert len(ahead) == 7
    for mine, theirs in zip(one.batch(3)[:3], ahead[2][:3], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(one.batch(0)[0], one.batch(1)[0])
    assert not np.array_equal(one.batch(0)[0], windows(data, settings, seed=1).batch(0)[0])


def test_prefetching_stops_when_nobody_asks_any_more():
    made = []

    def make(step):
        made.append(step)
        return step

    batches = prefetch(make, range(100), n_ahead=3)
    assert [next(batches) for _ in range(2)] == [0, 1]
    batches.close()
    assert len(made) <= 6
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda step: 1 // (3 - step), range(5)))


def test_a_grid_is_walked_through_before_it_repeats(data_file):
    data = Dataset.open(data_file)
    settings = dataclasses.replace(PLAIN, batch_size=4, spacing=(2, 24, 24))
    found = windows(data, settings, size=16)
    # z 0, 2; y and x 0, 24, 48: 18 windows.
    starts = [found._draw(np.random.default_rng(0), number)[1] for number in range(36)]
    assert len({tuple(start) for start in starts[:18]}) == 18
    assert {tuple(s) for s in starts[:18]} == {tuple(s) for s in starts[18:]}
    assert starts[:18] != starts[18:]


def test_rare_classes_are_drawn_more_often(data_file):
    data = Dataset.open(data_file)
    rare = dataclasses.replace(PLAIN, batch_size=16, rare_class_share=1.0)
    shares = [np.mean([(windows(data, s).batch(step)[1] == 2).mean() for step in range(8)]) for s in (PLAIN, rare)]
    assert shares[1] > 1.3 * shares[0]


def test_sparse_annotation_is_found(data_settings):
    labels = np.load(data_settings["labels"])
    sparse = np.full_like(labels, 9)
    sparse[1] = labels[1]
    sparse[4] = labels[4]
    np.save(data_settings["labels"], sparse)
    data = Dataset.open({**data_settings, "ignore": 9})
    found = windows(data, size=16)
    for step in range(6):
        _, targets, weights, _ = found.batch(step)
        assert ((weights > 0).sum((1, 2)) > 0).all()
        assert (targets[weights == 0] == 0).all()
        assert weights.mean() == pytest.approx(1, rel=1e-4)


def test_boundary_weights_reach_the_loss(data_file):
    data = Dataset.open(data_file)
    plain = windows(data, PLAIN).batch(0)[2]
    heavy = windows(data, dataclasses.replace(PLAIN, boundary_weight=25.0)).batch(0)[2]
    assert heavy.max() > 20
    assert (heavy >= plain - 1e-6).all()


def test_windows_larger_than_the_data_are_refused(data_file):
    with pytest.raises(gn.InputError, match="writes 1x80x80 voxels is larger than the training part 4x64x64"):
        windows(Dataset.open(data_file), size=80)


def test_windows_reach_over_the_edge_in_mirror_image(data_file, data_settings):
    data = Dataset.open(data_file)
    image = np.load(data_settings["image"]).astype(np.float32)
    part = data.training[0]
    expected = np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect")[2:3, :20, :20]
    np.testing.assert_array_equal(part.read_image((2, -5, -5), (1, 20, 20))[..., 0], expected)


def test_real_data_is_opened(real_data):
    """docs/facts.md's neighbours: the class shares that the vnc data came with."""
    data = Dataset.open(
        {
            "image": str(real_data / "vnc" / "image.tif"),
            "labels": str(real_data / "vnc" / "labels.tif"),
            "classes": [{"value": value, "name": str(value)} for value in range(5)],
            "training": {"z": [0, 11]},
            "validation": {"z": [11, 14]},
        }
    )
    shares = np.array(data.counts) / sum(data.counts)
    np.testing.assert_allclose(shares, [0.737, 0.172, 0.031, 0.053, 0.007], atol=0.01)


def test_parts_that_share_voxels_are_refused(data_settings):
    with pytest.raises(gn.InputError, match=r"the training and the validation part share voxels of .*labels.npy"):
        Dataset.open({**data_settings, "validation": {"z": [3, 6]}})
    with pytest.raises(gn.InputError, match="share voxels"):
        Dataset.open({**data_settings, "training": {"y": [0, 40]}, "validation": {"y": [39, 64]}})
    Dataset.open({**data_settings, "training": {"y": [0, 40]}, "validation": {"y": [40, 64]}})


def test_mistyped_keys_are_pointed_at(data_settings, tmp_path):
    settings = dict(data_settings)
    settings["trainning"] = settings.pop("training")
    with pytest.raises(gn.InputError, match=r"unknown key `trainning`; did you mean `training`\?$"):
        Dataset.open(settings)
    del settings["trainning"]
    with pytest.raises(gn.InputError, match="`training` is missing$"):
        Dataset.open(settings)
    with pytest.raises(gn.InputError, match="two classes have the same name"):
        Dataset.open({**data_settings, "classes": [{"value": 0, "name": "a"}, {"value": 1, "name": "a"}]})
    with pytest.raises(gn.InputError, match="`voxel_size_nm.0`"):
        Dataset.open({**data_settings, "voxel_size_nm": [0, 1, 1]})
    (tmp_path / "d.yaml").write_text("classes:\n  - {value: 0, name: a, color: #000000}\n  - {value: 1, name: b}\n")
    with pytest.raises(gn.InputError, match=r"near line \d+: .* a colour must be quoted"):
        Dataset.open(tmp_path / "d.yaml")


def test_windows_of_sparse_labels_hold_classes_as_often_as_they_are(data_settings):
    labels = np.load(data_settings["labels"])
    labels[:, 24:] = 3  # little is labelled
    np.save(data_settings["labels"], labels)
    data = Dataset.open({**data_settings, "ignore": 3})
    found = windows(data, dataclasses.replace(PLAIN, batch_size=1), size=8, core=1)
    drawn = np.bincount([int(found.batch(step).labels[0, 0, 0]) for step in range(600)], minlength=3) / 600
    np.testing.assert_allclose(drawn, np.array(data.counts) / sum(data.counts), atol=0.08)
    balanced = dataclasses.replace(PLAIN, batch_size=1, rare_class_share=1.0)
    found = windows(data, balanced, size=8, core=1)
    drawn = np.bincount([int(found.batch(step).labels[0, 0, 0]) for step in range(600)], minlength=3) / 600
    np.testing.assert_allclose(drawn, 1 / 3, atol=0.08)
