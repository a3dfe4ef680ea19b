"""From folders of images to numbered objects: image sets, two branches, merging, scores, pruning, the program."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from test_cli import fine, refused

import genenet as gn
import genenet.prune_branches as prune_branches_module
from genenet.augment import Augmentation
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import read_json, write_json, write_yaml
from genenet.genes import EncoderDecoder, ResNetUNet
from genenet.image_sets import expand_parts
from genenet.instance_segmentation import (
    Maps,
    _DistanceMeans,
    _with_members,
    evaluate_instances,
    is_tuned,
    maps_of,
    merge_slices,
    predict_maps,
    read_merging,
    select_branches,
    true_objects,
    tune_merging,
)
from genenet.instances import Merging, merge
from genenet.losses import DiceLoss
from genenet.normalization import with_channels
from genenet.prune_branches import prune_branches
from genenet.prune_ensemble import prune_ensemble
from genenet.prune_network import PruningSettings
from genenet.segment_instances import images_in, segment_folder, segment_instances
from genenet.train_branches import blueprints, branch_settings, train_branches
from genenet.validation import true_distances, validate, worth
from genenet.volume import open_volume


def tissue(shape, seed):
    """Violet discs, numbered with gaps, on pink."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    objects = np.zeros(shape, np.uint16)
    for number in range(shape[0] * shape[1] // 500):
        cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(5, 8)
        objects[(np.hypot(y - cy, x - cx) < radius) & (objects == 0)] = 3 * number + 7
    image = np.array([[235, 190, 215], [110, 70, 150]])[(objects > 0).astype(int)] + rng.normal(0, 8, (*shape, 3))
    return np.clip(image, 0, 255).astype(np.uint8), objects


def write_tissue(folder):
    """Four images to learn from, two of other sizes to validate on."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    shapes = [(96, 96)] * 4 + [(80, 112), (64, 96)]
    for index, shape in enumerate(shapes):
        image, objects = tissue(shape, index)
        name = f"{'liver' if index < 4 else 'kidney'}_{index}"
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        tifffile.imwrite(folder / "labels" / f"{name}.tif", objects)
    content = {
        "classes": [{"value": 0, "name": "background"}, {"value": 1, "name": "nuclei", "also": "others"}],
        "training": {"image": "images/liver*.png", "labels": "labels"},
        "validation": {"image": "images/kidney*.png", "labels": "labels/*.tif"},
    }
    write_yaml(folder / "data.yaml", content)
    return folder / "data.yaml"


QUICK = {"steps": 2, "validate_every": 2, "checkpoint_every": 1, "precision": "float32"}


def quick(**changes):
    windows = {"batch_size": 2, "augmentation": Augmentation.off(), **changes.pop("windows", {})}
    return branch_settings(**{**QUICK, **changes}, windows=windows)


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    return write_tissue(tmp_path_factory.mktemp("tissue"))


@pytest.fixture(scope="module")
def data(data_file):
    return gn.Dataset.open(data_file)


@pytest.fixture(scope="module")
def branches(data, tmp_path_factory):
    """Two small branches in a folder, hardly trained."""
    folder = tmp_path_factory.mktemp("branches") / "nuclei"
    nets = blueprints(data, depth=18, n_features=4, window_size=64)
    train_branches(nets, data, folder, quick(), n_trials=3)
    return folder


@pytest.fixture(scope="module")
def two_heads(data, tmp_path_factory):
    """One network that gives both maps, trained until it finds discs."""
    net = EncoderDecoder(
        n_classes=2, n_channels=3, n_scales=2, n_features=8, n_convs=1, window_size=64, padding="same",
        log10_learning_rate=-2.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("heads") / "network"
    (net,) = blueprints(data, base=net, two_heads=True).values()
    return gn.train_network(net, data, folder, quick(steps=120, validate_every=60))


# -- image sets ---


def test_a_pattern_stands_for_every_file(data):
    assert [part.shape for part in data.training] == [(1, 96, 96)] * 4
    assert [part.shape for part in data.validation] == [(1, 80, 112), (1, 64, 96)]
    assert data.n_channels == 3
    labels = tifffile.imread(data.validation[1].labels.name)
    np.testing.assert_array_equal(true_objects(data.validation[1])[0], labels)


def test_natural_order_and_names_with_other_suffixes(tmp_path):
    for name in ("a10", "a2"):
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / f"{name}_mask.npy").touch()
    found = expand_parts({"training": [{"image": "a*.png", "labels": "masks/*_mask.npy"}]}, tmp_path, "d")
    assert [entry["image"].rsplit("/", 1)[1] for entry in found["training"]] == ["a2.png", "a10.png"]
    assert found["training"][0]["labels"].endswith("masks/a2_mask.npy")
    plain = {"training": {"z": [0, 4]}, "validation": {"z": [4, 5]}}
    assert expand_parts(plain, tmp_path, "d") == plain


@pytest.mark.parametrize(
    "part, message",
    [
        ({"image": "images/b*.png", "labels": "labels"}, "no file matches `image: images/b"),
        ({"image": "images/*.png"}, "needs `labels`: a folder, or a pattern"),
        ({"image": "images/*.png", "labels": "nowhere"}, "must be a folder or hold a `\\*`"),
        ({"image": "images/*.png", "labels": "images"}, "needs one file of labels, but .* has no file of the name"),
        ({"image": "images/*.png", "labels": "labels/*.npy"}, "has no labels: there is no"),
    ],
)
def test_what_matches_nothing_is_refused(part, message, data_file):
    with pytest.raises(InputError, match=message):
        expand_parts({"training": part}, data_file.parent, "data.yaml")


def test_two_files_of_one_name_are_refused(tmp_path):
    write_tissue(tmp_path)
    shutil.copy(tmp_path / "labels" / "liver_0.tif", tmp_path / "labels" / "liver_0.tiff")
    with pytest.raises(InputError, match="has 2 files of the name liver_0: liver_0.tif, liver_0.tiff"):
        gn.Dataset.open(tmp_path / "data.yaml")


# -- what is trained ---


def test_dice_is_worked_out_by_hand():
    truth = np.array([[[0, 1], [1, 1]]])
    share = np.array([[[0.0, 1.0], [0.5, 0.0]]], np.float32)[..., None]
    # 2 * 1.5 + 1 over 1.5 + 3 + 1
    assert float(DiceLoss(from_logits=False)(truth, share)) == pytest.approx(1 - 4 / 5.5)
    # Without the voxel that was missed: 2 * 1.5 + 1 over 1.5 + 2 + 1
    weight = np.array([[[1, 1], [1, 0]]], np.float32)
    assert float(DiceLoss(from_logits=False)(truth, share, weight)) == pytest.approx(1 - 4 / 4.5)
    scores = np.array([[[-50.0, 50.0], [0.0, -50.0]]], np.float32)[..., None]
    assert float(DiceLoss()(truth, scores)) == pytest.approx(1 - 4 / 5.5)
    assert float(DiceLoss()(np.zeros((1, 2, 2)), np.full((1, 2, 2, 1), -50.0))) == pytest.approx(0)
    assert DiceLoss.from_config(DiceLoss(False).get_config()).from_logits is False


def test_branches_know_what_they_give(branches, data):
    semantic, distance = (gn.Network.open(branches / name) for name in ("semantic", "distance"))
    assert semantic.gives == ("foreground",) and distance.gives == ("distance",)
    assert semantic.scores.keys() == {"adjusted_rand", "mean_iou", "accuracy", "mean_dice"}
    assert distance.scores.keys() == {"distance_mse"}
    header = (branches / "distance" / "history.csv").read_text().splitlines()[0]
    assert header == "step,seconds,loss,learning_rate,distance_mse"
    assert is_tuned(branches, Ensemble.open(branches)) and read_merging(branches) != Merging()
    assert distance.windows.distance_kind == "normalized"
    ensemble = Ensemble.open(branches)
    assert [member.gives for member in ensemble.members] == [("foreground",), ("distance",)]
    assert ensemble.score(data).adjusted_rand == pytest.approx(semantic.scores["adjusted_rand"], abs=0.02)


def test_training_branches_again_changes_nothing(branches, data, monkeypatch):
    before = read_json(branches / "merging.json")
    monkeypatch.setattr("genenet.train_branches.tune", None)
    nets = blueprints(data, depth=18, n_features=4, window_size=64)
    again = train_branches(nets, data, branches, quick(), n_trials=3)
    assert read_json(branches / "merging.json") == before and len(again.members) == 2


def test_squared_error_is_that_of_the_maps(branches, data):
    distance = gn.Network.open(branches / "distance")
    predictor = Ensemble((distance,)).predictor("float32")
    square = n_pixels = 0
    for part in data.validation:
        answer = predictor.predict(
            predictor.read(part.read_image, (0, 0, 0), reach := predictor.reach((1, 96, 128))), reach
        )
        assert answer.probabilities.shape[-1] == 0
        truth = true_distances(part, slice(0, 1), distance.windows, 2)
        assert truth.max() == 1 and truth.min() == 0
        square += np.square(answer.distances[:, : part.shape[1], : part.shape[2]] - truth).sum()
        n_pixels += truth.size
    found = validate(predictor, data.validation, 2, distance.windows)
    # Blocks read less than all that the network sees.
    assert found["distance_mse"] == pytest.approx(square / n_pixels, rel=0.02)
    assert worth(found) == -found["distance_mse"] and worth({}) == -np.inf


def test_a_pretrained_encoder_is_where_training_begins(data, tmp_path):
    from genenet.train_branches import start_from_encoder

    net = ResNetUNet(depth=18, window_size=64)
    from test_resnet_unet import state_dict  # torchvision's layout is written out there

    np.savez(tmp_path / "resnet18.npz", **state_dict(18))
    start = start_from_encoder(tmp_path / "resnet18.npz")(net)
    assert start.normalization.mean[0] == pytest.approx(255 * 0.485)
    assert start.identity and start.details["encoder"].endswith("resnet18.npz")
    deep = gn.Dataset.open(data_of_sixteen_bits(tmp_path / "deep"))
    with pytest.raises(
        InputError, match=r"liver_0\.tif has uint16 values, but a pretrained encoder knows 8-bit images"
    ):
        train_branches(
            {"semantic": net}, deep, tmp_path / "t", quick(), start=start_from_encoder(tmp_path / "resnet18.npz")
        )
    assert not (tmp_path / "t").exists()


def data_of_sixteen_bits(folder):
    data_file = write_tissue(folder)
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            tifffile.imwrite(path.with_suffix(".tif"), np.asarray(image).astype(np.uint16) * 257, photometric="rgb")
    data_file.write_text(data_file.read_text().replace(".png", ".tif"))
    return data_file


@pytest.mark.slow
def test_training_from_a_pretrained_encoder(data, tmp_path):
    from test_resnet_unet import state_dict

    from genenet.train_branches import start_from_encoder

    np.savez(tmp_path / "resnet18.npz", **state_dict(18))
    nets = blueprints(data, depth=18, window_size=64)
    start = start_from_encoder(tmp_path / "resnet18.npz")
    for _ in range(2):  # the second time nothing is left to do
        branches = train_branches(nets, data, tmp_path / "t", quick(), start=start, n_trials=1)
    for member in branches.members:
        assert member.normalization.mean[0] == pytest.approx(255 * 0.485)
        assert member.details["encoder"].endswith("resnet18.npz")


def test_images_with_transparency_are_not_learned_from(tmp_path):
    data_file = write_tissue(tmp_path)
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as image:
            image.convert("RGBA").save(path)
    with pytest.raises(InputError, match=r"liver_0\.png has a fourth channel, transparency; save the image as RGB"):
        gn.Dataset.open(data_file)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda data: blueprints(data, base=EncoderDecoder(2, 3)), "EncoderDecoder cannot give distances alone"),
        (lambda data: Ensemble.select([], data), "needs at least one network"),
    ],
)
def test_networks_that_cannot_be_branches_are_refused(make, message, data):
    with pytest.raises(InputError, match=message):
        make(data)


def test_a_branch_that_is_missing_is_named(branches, data, tmp_path):
    semantic, distance = (gn.Network.open(branches / name) for name in ("semantic", "distance"))
    with pytest.raises(InputError, match="semantic gives no distances, by which objects are told apart"):
        maps_of(Ensemble((semantic,)), data)
    alone = Ensemble((distance,))
    for call in (
        lambda: maps_of(alone, data),
        lambda: alone.score(data),
        lambda: alone.segment(data.validation[0].image, tmp_path / "out.npy"),
    ):
        with pytest.raises(InputError, match="distance gives distances only; put a network beside it"):
            call()
    with pytest.raises(InputError, match="gives distances only and cannot be ranked by classes"):
        Ensemble.select([semantic, distance], data)


# -- objects ---


def test_a_trained_network_finds_the_discs(two_heads, data):
    assert two_heads.gives == ("classes", "distance")
    assert "distance_mse" in two_heads.scores and "adjusted_rand" in two_heads.scores
    ensemble = Ensemble((two_heads,))
    mean, rows = evaluate_instances(ensemble, data)
    assert list(rows["image"]) == ["kidney_4", "kidney_5"]
    assert mean.aggregated_jaccard == pytest.approx(rows["aggregated_jaccard"].mean())
    assert mean.aggregated_jaccard > 0.5
    maps = maps_of(ensemble, data)
    merging, score = tune_merging(maps, n_trials=6)
    usual = np.mean([each.score(Merging()).aggregated_jaccard for each in maps])
    assert score >= usual - 1e-9
    assert score == pytest.approx(np.mean([each.score(merging).aggregated_jaccard for each in maps]), abs=1e-3)
    assert tune_merging(maps, n_trials=6) == (merging, score)


def test_slices_are_merged_by_themselves_and_numbered_through():
    _, objects = tissue((64, 64), 0)
    foreground = np.stack([objects > 0] * 2).astype(np.float32)
    found = merge_slices(foreground, foreground, Merging())
    n = int(found[0].max())
    assert n > 1 and set(np.unique(found[1])) == {0, *range(n + 1, 2 * n + 1)}
    np.testing.assert_array_equal(found[0], merge(foreground[0], foreground[0]))


def test_what_nobody_labelled_does_not_count():
    _, objects = tissue((64, 96), 1)
    foreground, half = (objects > 0).astype(np.float32)[None], objects.copy()
    half[:, 48:] = 0
    truth = (half > 0).astype(np.float32)
    truth[:, 48:] = -1
    maps = Maps("half", foreground, foreground, half[None].astype(np.int64), truth[None])
    whole = Maps("whole", foreground[..., :48], foreground[..., :48], maps.objects[..., :48], maps.truth[..., :48])
    assert maps.score(Merging()).pq >= whole.score(Merging()).pq - 0.1
    everything = Maps("all", foreground, foreground, maps.objects, np.maximum(truth, 0)[None])
    assert everything.score(Merging()).pq < maps.score(Merging()).pq - 0.2
    assert maps.distance_mse == 0


def test_slices_of_a_stack_have_objects_of_their_own(tmp_path):
    _, objects = tissue((48, 64), 2)
    stack = np.stack([objects] * 3)
    np.save(tmp_path / "image.npy", np.zeros((3, 48, 64), np.uint8) + (stack > 0))
    np.save(tmp_path / "labels.npy", stack)
    classes = [{"value": 0, "name": "background"}, {"value": 1, "name": "nuclei", "also": "others"}]
    content = {
        "image": str(tmp_path / "image.npy"), "labels": str(tmp_path / "labels.npy"), "classes": classes,
        "training": {"z": [0, 1]}, "validation": {"z": [1, 3]},
    }  # fmt: skip
    found = true_objects(gn.Dataset.open(content).validation[0])
    assert not set(np.unique(found[0])) & set(np.unique(found[1])) - {0}
    np.testing.assert_array_equal(found > 0, stack[1:] > 0)


def test_distances_of_two_kinds_are_not_averaged(branches, two_heads, data, tmp_path):
    distance = gn.Network.open(branches / "distance")
    other = tmp_path / "other"
    shutil.copytree(distance.folder, other)
    entry = read_json(other / "network.json")
    entry["details"]["training"]["windows"]["distance_kind"] = "truncated"
    write_json(other / "network.json", entry)
    with pytest.raises(InputError, match="distances of one kind only can be averaged"):
        maps_of(Ensemble((two_heads, distance, gn.Network.open(other))), data)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda members, data, folder: prune_branches(members, data, folder, others={"validation": data}),
            "must not be",
        ),
        (
            lambda members, data, folder: PruningSettings("magnitude", compression_ratio=2, scope="layers"),
            "`scope` must",
        ),
        (
            lambda members, data, folder: prune_ensemble(members, data, folder, PruningSettings(keep={"a": 1})),
            "gives distances only; prune such ensembles by `genenet instances prune`",
        ),
    ],
)
def test_prunings_that_cannot_be_are_refused_first(make, message, branches, data, tmp_path):
    with pytest.raises(InputError, match=message):
        make(Ensemble.open(branches), data, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_an_image_becomes_objects_a_table_outlines_and_a_picture(two_heads, data, tmp_path):
    image = data.validation[0].image
    done = segment_instances(
        Ensemble((two_heads,)), image, tmp_path / "out.tif", precision="float32",
        table=tmp_path / "t.csv", outlines=tmp_path / "o.geojson", overlay=tmp_path / "o.png",
    )  # fmt: skip
    labels = tifffile.imread(tmp_path / "out.tif")
    assert labels.shape == (80, 112) and len(done.objects) == labels.max() > 3
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table["object"]) == list(range(1, labels.max() + 1))
    # Discs are darker than what lies between them.
    assert (table["mean_1"] < 130).mean() > 0.8
    outlines = json.loads((tmp_path / "o.geojson").read_text())
    assert len(outlines["features"]) == labels.max()
    assert Image.open(tmp_path / "o.png").size == (112, 80)
    assert {path.name for path in tmp_path.iterdir()} == {"out.tif", "t.csv", "o.geojson", "o.png"}
    # Whole in memory, the same objects.
    predictor = Ensemble((two_heads,)).predictor("float32")
    maps = predict_maps(
        predictor, image.shape[:3], lambda start, shape: with_channels(image.read_mirrored(start, shape))
    )
    maps = [each.astype(np.float16).astype(np.float32) for each in maps]  # as they lie on the disk meanwhile
    np.testing.assert_array_equal(labels, merge_slices(*maps, Merging())[0])
    with pytest.raises(InputError, match="out.tif exists; remove it, choose another name"):
        segment_instances(Ensemble((two_heads,)), image, tmp_path / "out.tif")


def test_stopped_it_goes_on_with_the_maps_that_are_there(two_heads, data, tmp_path, monkeypatch):
    image, ensemble = data.validation[0].image, Ensemble((two_heads,))
    monkeypatch.setattr(
        "genenet.segment_instances.merge_volume", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        segment_instances(ensemble, image, tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists() and (tmp_path / "out.npy.maps" / "foreground.ome.zarr").exists()
    monkeypatch.undo()
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "segment", lambda *_, **__: asked.append(1))
        segment_instances(ensemble, image, tmp_path / "out.npy")
        assert not asked
    assert not (tmp_path / "out.npy.maps").exists() and np.load(tmp_path / "out.npy").max() > 3
    # Stopped after merging, it goes on with the other files, among them one that it had begun.
    (tmp_path / "out.npy").rename(tmp_path / "first.npy")
    table, outlines = tmp_path / "t.csv", tmp_path / "o.geojson"
    with monkeypatch.context() as patch:
        patch.setattr("genenet.segment_instances.write_outlines", lambda *_, **__: (_ for _ in ()).throw(SystemError))
        with pytest.raises(SystemError):
            segment_instances(ensemble, image, tmp_path / "out.npy", table=table, outlines=outlines)
    with pytest.raises(InputError, match="exists"):  # other files than those of that run
        segment_instances(ensemble, image, tmp_path / "out.npy", table=table)
    with monkeypatch.context() as patch:
        patch.setattr("genenet.segment_instances.merge_volume", None)
        done = segment_instances(ensemble, image, tmp_path / "out.npy", table=table, outlines=outlines)
    assert len(done.objects) == len(json.loads(outlines.read_text())["features"]) > 3
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.load(tmp_path / "first.npy"))
    # Maps of another image are not taken for these, and not thrown away without being asked.
    (tmp_path / "out.npy.maps").mkdir()
    write_json(tmp_path / "out.npy.maps" / "made_by.json", {"networks": "others"})
    with pytest.raises(InputError, match="holds the maps of a stopped run with other networks, settings or another"):
        segment_instances(ensemble, image, tmp_path / "out.npy", overwrite=True)
    segment_instances(ensemble, image, tmp_path / "out.npy", overwrite=True, restart=True)
    assert not (tmp_path / "out.npy.maps").exists()


def test_a_folder_of_images_of_all_sizes(two_heads, data_file, tmp_path):
    images = images_in(data_file.parent / "images")
    assert [path.name for path in images][:2] == ["kidney_4.png", "kidney_5.png"]
    done = segment_folder(Ensemble((two_heads,)), images[:3], tmp_path / "out", precision="float32")
    assert done.n_images == 3
    names = {f"{path.stem}{suffix}" for path in images[:3] for suffix in (".tif", ".geojson", ".png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"objects.csv", "made_by.json", *names}
    table = pd.read_csv(tmp_path / "out" / "objects.csv")
    assert list(table.columns)[:2] == ["image", "object"] and len(table) == len(done.objects)
    before = (tmp_path / "out" / "kidney_4.tif").stat().st_mtime_ns
    again = segment_folder(Ensemble((two_heads,)), images[:3], tmp_path / "out", precision="float32")
    assert (tmp_path / "out" / "kidney_4.tif").stat().st_mtime_ns == before
    assert len(again.objects) == len(done.objects)
    with pytest.raises(InputError, match="kidney_4.tif was made by other networks or settings; choose another folder"):
        segment_folder(Ensemble((two_heads,)), images[:1], tmp_path / "out", merging=Merging(threshold=0.4))
    assert len(segment_folder(Ensemble((two_heads,)), images[:1], tmp_path / "out", overwrite=True).objects) > 3
    with pytest.raises(InputError, match="there are no images to find objects in"):
        segment_folder(Ensemble((two_heads,)), [], tmp_path / "none")
    labels = data_file.parent / "labels"
    with pytest.raises(InputError, match="kidney_4.tif is not of this program; choose another folder"):
        segment_folder(Ensemble((two_heads,)), images[:1], labels)
    for where, message in (
        (data_file.parent / "images", "holds the images; choose another folder"),
        (tmp_path / "twice", "two images are called kidney_4"),
    ):
        with pytest.raises(InputError, match=message):
            segment_folder(Ensemble((two_heads,)), [*images, images[0]] if "twice" in str(where) else images, where)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no image in"):
        images_in(tmp_path / "empty")


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda image: np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),
            "4 channels, .* on 3; if the fourth",
        ),
        (lambda image: image[..., 0], "has 1 channel, but the network was trained on 3"),
    ],
    ids=["rgba", "grey"],
)
def test_images_of_other_channels_are_refused(make, message, two_heads, data_file, tmp_path):
    with Image.open(data_file.parent / "images" / "kidney_5.png") as image:
        Image.fromarray(make(np.asarray(image))).save(tmp_path / "other.png")
    for call in (
        lambda: segment_folder(Ensemble((two_heads,)), [tmp_path / "other.png"], tmp_path / "out"),
        lambda: segment_instances(Ensemble((two_heads,)), tmp_path / "other.png", tmp_path / "o.npy"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert not (tmp_path / "o.npy").exists()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_images_of_other_types_are_taken_as_they_are(dtype, two_heads, data_file, tmp_path):
    with Image.open(data_file.parent / "images" / "kidney_5.png") as image:
        tifffile.imwrite(tmp_path / "other.tif", np.asarray(image).astype(dtype), photometric="rgb")
    found = segment_folder(Ensemble((two_heads,)), [tmp_path / "other.tif"], tmp_path / "out", precision="float32")
    segment_folder(
        Ensemble((two_heads,)), [data_file.parent / "images" / "kidney_5.png"], tmp_path / "eight", precision="float32"
    )
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out" / "other.tif"), tifffile.imread(tmp_path / "eight" / "kidney_5.tif")
    )
    assert len(found.objects) > 3


def test_a_range_that_the_networks_do_not_know_is_warned_of(two_heads, data_file, tmp_path, caplog):
    with Image.open(data_file.parent / "images" / "kidney_5.png") as image:
        tifffile.imwrite(tmp_path / "deep.tif", np.asarray(image).astype(np.uint16) * 257, photometric="rgb")
    segment_folder(Ensemble((two_heads,)), [tmp_path / "deep.tif"], tmp_path / "out", precision="float32")
    assert "deep.tif has intensities of" in caplog.text


def test_an_image_without_objects(two_heads, tmp_path):
    Image.fromarray(np.full((40, 50, 3), (235, 190, 215), np.uint8)).save(tmp_path / "empty.png")
    done = segment_instances(
        Ensemble((two_heads,)), tmp_path / "empty.png", tmp_path / "o.npy",
        merging=Merging(threshold=1.0), table=tmp_path / "t.csv", outlines=tmp_path / "o.geojson",
    )  # fmt: skip
    assert len(done.objects) == 0 and np.load(tmp_path / "o.npy").max() == 0
    assert json.loads((tmp_path / "o.geojson").read_text())["features"] == []


def test_the_best_of_each_kind_are_chosen(branches, two_heads, data, tmp_path):
    semantic, distance = (gn.Network.open(branches / name) for name in ("semantic", "distance"))
    # The network with two heads was trained; its distances are better than those with the untrained branch.
    chosen = select_branches([semantic, distance, two_heads], data)
    assert two_heads in chosen.members and distance not in chosen.members
    chosen = select_branches([semantic, distance], data)
    assert chosen.members == (semantic, distance)
    weighed = Ensemble((semantic, two_heads), weights=(2.0, 1.0))
    assert _with_members(weighed, [distance]).weights == (2.0, 1.0, 1.0)
    together = _with_members(weighed, [distance])
    means = _DistanceMeans(data, together)
    means.add(two_heads, 1.0)
    expected = np.mean([each.distance_mse for each in maps_of(together, data)])
    assert means.add(distance, 1.0) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="gives no distances, by which objects are told apart"):
        select_branches([semantic], data)
    with pytest.raises(InputError, match="none of the networks tells foreground from background"):
        select_branches([distance], data)


# -- pruning ---


@pytest.mark.slow
def test_branches_are_pruned_together(branches, data, tmp_path):
    ensemble = Ensemble.open(branches)
    settings = PruningSettings("magnitude", compression_ratio=3, scope="layer")
    args = {"merging": read_merging(branches), "others": {"same": data}}
    curve = prune_branches(ensemble, data, tmp_path / "p", settings, **args)
    assert list(curve["compression_ratio"]) == [1, 1, 2, 2, 3, 3] and set(curve["data"]) == {"validation", "same"}
    one, same = (curve[curve["data"] == name].drop(columns="data") for name in ("validation", "same"))
    np.testing.assert_allclose(one.to_numpy(), same.to_numpy(), equal_nan=True)
    # Every layer keeps a half and then a third, so its multiply-adds do too, up to whole weights.
    np.testing.assert_allclose(one["theoretical_speedup"], [1, 2, 3], rtol=0.02)
    pruned = Ensemble.open(tmp_path / "p" / "cr3")
    for member, before in zip(pruned.members, ensemble.members, strict=True):
        kernels = [w for w in member.load("float32").get_weights() if w.ndim == 4]
        zeros = sum(int((w == 0).sum()) for w in kernels) / sum(w.size for w in kernels)
        assert zeros == pytest.approx(2 / 3, abs=0.01)
        assert member.details["pruned"]["from"] == str(before.folder)
    assert (tmp_path / "p" / "curve.png").stat().st_size > 5000
    assert read_merging(tmp_path / "p" / "cr3") == read_merging(branches)
    assert (curve["measured_speedup"] > 0).all()
    again = prune_branches(ensemble, data, tmp_path / "p", settings, **args)
    unlike = ["data", "measured_speedup"]
    np.testing.assert_allclose(again.drop(columns=unlike).to_numpy(), curve.drop(columns=unlike).to_numpy())


@pytest.mark.slow
def test_pruning_of_branches_continues_after_a_kill(branches, data, tmp_path, monkeypatch):
    ensemble, folder = Ensemble.open(branches), tmp_path / "p"
    settings = PruningSettings("magnitude", compression_ratio=4, scope="network")

    def killed(done, total):
        assert total == 4
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_branches(ensemble, data, folder, settings, quick(), progress=killed)
    so_far = pd.read_csv(folder / "curve.csv")
    assert list(so_far["compression_ratio"]) == [1, 2] and "theoretical_speedup" not in so_far
    assert len(Ensemble.open(folder / "cr2").members) == 2

    scored = []
    score = prune_branches_module.score_branches
    monkeypatch.setattr(
        prune_branches_module, "score_branches", lambda *args: scored.append(args[0]) or score(*args)
    )  # fmt: skip
    curve = prune_branches(ensemble, data, folder, settings, quick())
    assert len(scored) == 1 and list(curve["compression_ratio"]) == [1, 2, 4]
    pd.testing.assert_frame_equal(curve.iloc[:2][so_far.columns], so_far)
    for member in Ensemble.open(folder / "cr4").members:
        kernels = [w for w in member.load("float32").get_weights() if w.ndim == 4]
        zeros = sum(int((w == 0).sum()) for w in kernels) / sum(w.size for w in kernels)
        assert zeros == pytest.approx(3 / 4, abs=0.01)
    assert {str(member.folder) for member in Ensemble.open(folder / "cr2").members} == {
        str(folder / f"branch{index}" / "rounds" / "1") for index in range(2)
    }


def test_other_data_are_checked_before_pruning(branches, data, tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml"):
        prune_branches(Ensemble.open(branches), data, tmp_path / "p", others={"x": tmp_path / "none.yaml"})
    assert not (tmp_path / "p").exists()


def test_foreground_is_scored_before_merging():
    objects = np.array([[[0, 0, 1, 1, 2, 2]]])
    foreground = np.array([[[0.9, 0.1, 0.5, 0.4, 0.8, 0.9]]], np.float32)
    truth = np.array([[[0, 0, 1, 1, 1, -1]]], np.float32)
    # 3 found and 3 true where somebody labelled, 2 of them the same.
    assert Maps("x", foreground, foreground, objects, truth).semantic_dice == pytest.approx(2 * 2 / (3 + 3))
    nothing = np.zeros_like(foreground)
    assert math.isnan(Maps("x", nothing, nothing, np.zeros_like(objects), nothing).semantic_dice)


@pytest.mark.slow
def test_branches_lose_channels_by_their_own_losses(branches, data, tmp_path):
    import pruning

    ensemble = Ensemble.open(branches)
    settings = PruningSettings(target=pruning.Target(share=0.3), n_batches=1, search="first_order", at_once=8)
    curve = prune_branches(ensemble, data, tmp_path / "p", settings, quick(), rounds=2)
    assert curve["compression_ratio"].is_monotonic_increasing and curve["theoretical_speedup"].is_monotonic_increasing
    assert curve["compression_ratio"].iloc[0] == 1 and curve["theoretical_speedup"].iloc[2] > 1.1
    pruned = Ensemble.open(tmp_path / "p" / "round2")
    for member, before in zip(pruned.members, ensemble.members, strict=True):
        assert member.gives == before.gives
        # Channels are gone, and no weight is zero for it.
        assert member.load("float32").count_params() < before.load("float32").count_params()
    assert read_merging(tmp_path / "p" / "round2") == Merging()


# -- search ---


def test_a_search_after_objects(data_file, tmp_path):
    import search
    from search import Range

    net = EncoderDecoder(
        n_classes=2, n_channels=3, n_scales=1, n_convs=1, window_size=32, padding="same", distance_weight=1.0
    )
    space = search.Space(net, {"n_features": Range(2, 4)})
    study = search.Study.create(
        tmp_path / "study", space, data=str(data_file), n_trials=2, training=quick(), objectives=["aggregated_jaccard"],
        baseline=False,
    )  # fmt: skip
    for base, objectives, message in (
        (EncoderDecoder(2, 3), ["aggregated_jaccard"], "to search for objects, networks must give distances"),
        (ResNetUNet(target="distance"), ["adjusted_rand"], "those of this space give distances only"),
    ):
        with pytest.raises(InputError, match=message):
            search.Study.create(
                tmp_path / "none", search.Space(base, {"log10_learning_rate": Range(-3, -2)}), data=str(data_file),
                objectives=objectives, baseline=False,
            )  # fmt: skip
    with pytest.raises(InputError, match="the original U-Net finds no objects to compare with"):
        search.Study.create(
            tmp_path / "none", space, data=str(data_file), objectives=["aggregated_jaccard"], baseline=True
        )
    study.run()
    board = study.leaderboard()
    assert len(board) == 2 and board["aggregated_jaccard"].is_monotonic_decreasing
    assert {"pq", "adjusted_rand"} <= set(board.columns)


@pytest.mark.slow
def test_a_search_over_what_two_heads_share(data_file, tmp_path):
    """As docs/nuclei.md has it."""
    import search

    net = ResNetUNet(depth=18, distance_weight=1.0, window_size=64)
    space = search.Space(
        net,
        {
            "n_features": search.Range(4, 6),
            "branches": search.Choice("shared", "separate"),
        },
    )
    study = search.Study.create(
        tmp_path / "study", space, data=str(data_file), n_trials=2, objectives=["aggregated_jaccard"],
        training=quick(), baseline=False,
    )  # fmt: skip
    study.run()
    board = study.leaderboard()
    assert len(board) == 2 and board["aggregated_jaccard"].notna().all()
    best, *_ = study.networks()
    assert best.blueprint.kind == "ResNetUNet" and set(best.gives) == {"foreground", "distance"}
    assert (
        len(segment_folder(Ensemble((best,)), images_in(data_file.parent / "images")[:1], tmp_path / "o").objects) >= 0
    )


# -- the program ---


@pytest.mark.slow
def test_branches_are_combined_and_slides_done_by_several(branches, two_heads, data_file, tmp_path):
    networks = branches / "semantic", branches / "distance", two_heads.folder
    said = fine("instances", "combine", tmp_path / "best", *networks, "--data", data_file, "--trials", "2")
    assert "AJI" in said
    assert (tmp_path / "best" / "members.json").exists() and (tmp_path / "best" / "merging.json").exists()
    assert "exists" in refused("instances", "combine", tmp_path / "best", *networks, "--data", data_file)
    image, plain = data_file.parent / "images" / "kidney_4.png", tmp_path / "plain.ome.zarr"
    one = "segment", tmp_path / "best", image
    fine(*one, plain, "--instances", "--precision", "float32")
    fine(
        *one, tmp_path / "two.ome.zarr", "--instances", "--precision", "float32", "--cluster", "local", "--workers", "2"
    )
    box = slice(0, 1), slice(0, 80), slice(0, 112)
    found = open_volume(plain).read(box)
    np.testing.assert_array_equal(open_volume(tmp_path / "two.ome.zarr").read(box), found)
    fine(*one, tmp_path / "turned.ome.zarr", "--instances", "--precision", "float32", "--tta", "flips")
    turned = open_volume(tmp_path / "turned.ome.zarr").read(box)
    assert turned.max() > 3 and ((turned > 0) == (found > 0)).mean() > 0.8


@pytest.mark.slow
def test_the_program_trains_segments_scores_and_prunes(data_file, tmp_path):
    settings = {"windows": {"augmentation": "none"}, "precision": "float32", "validate_every": 2}
    write_yaml(tmp_path / "settings.yaml", settings)
    train = [
        "instances", "train", tmp_path / "run", "--data", data_file, "--depth", "18", "--set", "n_features=4",
        "--set", "window_size=64", "--steps", "2", "--batch-size", "2", "--trials", "2", "--two-heads",
        "--settings", tmp_path / "settings.yaml",
    ]  # fmt: skip
    said = fine(*train, "--dry-run")
    assert "would train" in said and not (tmp_path / "run").exists()
    said = fine(*train)
    assert "both, step 2: adjusted Rand score" in said and "AJI" in said
    found = json.loads(fine("instances", "evaluate", tmp_path / "run", "--data", data_file, "--json"))
    assert [row["image"] for row in found["images"]] == ["kidney_4", "kidney_5"]
    assert "aggregated Jaccard index" in fine(
        "instances", "tune", tmp_path / "run", "--data", data_file, "--trials", "2"
    )
    images = data_file.parent / "images"
    fine("segment", tmp_path / "run", images, tmp_path / "out", "--instances")
    assert (tmp_path / "out" / "objects.csv").exists()
    one = images / "kidney_4.png"
    fine("segment", tmp_path / "run", one, tmp_path / "one.tif", "--instances", "--table", tmp_path / "one.csv")
    assert (tmp_path / "one.csv").exists()
    said = fine(
        "instances", "prune", tmp_path / "run", tmp_path / "pruned", "--data", data_file, "--compression-ratio", "2",
        "--retrain-steps", "2", "--other", f"again={data_file}",
    )  # fmt: skip
    assert "again" in said and (tmp_path / "pruned" / "cr2" / "members.json").exists()
    said = fine(
        "instances", "prune", tmp_path / "run", tmp_path / "smaller", "--data", data_file, "--method", "structured",
        "--target", "multiply_adds=0.5", "--retrain-steps", "2",
    )  # fmt: skip
    assert "measured_speedup" in said and (tmp_path / "smaller" / "round1" / "members.json").exists()
    assert "needs either a `target` or channels to `keep`" in refused(
        "instances", "prune", tmp_path / "run", tmp_path / "p", "--data", data_file, "--method", "loss"
    )
    assert "is about objects; ask for them by --instances" in refused(
        "segment", tmp_path / "run", one, tmp_path / "x.tif", "--outlines", tmp_path / "x.geojson"
    )
    assert "--part must be training or validation" in refused(
        "instances", "evaluate", tmp_path / "run", "--data", data_file, "--part", "test"
    )
    assert "is not the folder of networks" in refused("instances", "tune", images, "--data", data_file)
    assert "which is read; choose another folder" in refused(
        "instances", "prune", tmp_path / "run", tmp_path / "run", "--data", data_file, "--overwrite"
    )
    assert "--table names one file" in refused(
        "segment", tmp_path / "run", images, tmp_path / "many", "--instances", "--table", tmp_path / "t.csv"
    )
    for option, words in (("--restart", []), ("--block", ["2"]), ("--workers", ["2"]), ("--cluster", ["local"])):
        assert f"{option} is for one large image" in refused(
            "segment", tmp_path / "run", images, tmp_path / "many", "--instances", option, *words
        )
    assert "--maps-dtype is about classes and maps" in refused(
        "segment", tmp_path / "run", one, tmp_path / "x.tif", "--instances", "--maps-dtype", "uint8"
    )
    assert "would find objects in 6 images" in fine(
        "segment", tmp_path / "run", images, tmp_path / "many", "--instances", "--dry-run"
    )
    assert not (tmp_path / "many").exists()
    assert "--other takes name=data.yaml" in refused(
        "instances", "prune", tmp_path / "run", tmp_path / "p", "--data", data_file, "--other", "again"
    )
