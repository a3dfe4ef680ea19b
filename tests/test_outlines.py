"""Outlines that give back the pixels they were drawn around, as QuPath reads them, and as pictures."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image

import genenet as gn
from genenet.object_table import measure_objects
from genenet.outlines import corners_of, polygons_of, write_outlines
from genenet.overlay import draw_outlines
from genenet.volume import open_volume


def features_of(path):
    found = json.loads(path.read_text())
    assert found["type"] == "FeatureCollection"
    return found["features"]


def polygons_in(feature):
    geometry = feature["geometry"]
    return geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]


def filled(polygons, shape):
    """How many times every pixel's centre lies inside."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    places = np.stack([x.ravel(), y.ravel()], 1)
    inside = [[Outline(ring).contains_points(places).astype(int) for ring in rings] for rings in polygons]
    return sum(around - sum(holes) for around, *holes in inside).reshape(shape)


def turn(ring):
    """Twice the area, above 0 if the ring turns from x to y."""
    x, y = np.array(ring).T
    return np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 16), st.integers(1, 16)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(2, 6),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32),
)
def test_outlines_give_the_pixels_back(tmp_path_factory, shape, block, n_values, times, seed):
    path = tmp_path_factory.mktemp("outlines") / "o.geojson"
    labels = np.random.default_rng(seed).choice([0, 1, 2, 300, 70_000, 5][:n_values], shape).astype(np.uint32)
    labels = labels.repeat(times, 2)
    n = write_outlines(labels, path, block=(1, *block))
    features, back = features_of(path), np.zeros_like(labels)
    assert n == len(features) == sum(len(np.unique(each[each > 0])) for each in labels)
    for feature in features:
        z = feature["geometry"].get("plane", {"z": 0})["z"]
        times_inside = filled(polygons_in(feature), labels.shape[1:])
        assert set(np.unique(times_inside)) <= {0, 1} and not back[z][times_inside > 0].any()
        back[z][times_inside > 0] = int(feature["properties"]["name"])
        for around, *holes in polygons_in(feature):
            assert turn(around) > 0 and all(turn(hole) < 0 for hole in holes)
            for ring in (around, *holes):
                assert ring[0] == ring[-1] and len({tuple(point) for point in ring}) == len(ring) - 1
                steps = np.sign(np.diff(ring, axis=0))
                assert (np.abs(steps).sum(1) == 1).all() and not (steps * np.roll(steps, 1, 0)).any()  # corners only
    np.testing.assert_array_equal(back, labels)


def test_by_hand():
    #  1 1 1 .     around: 0,0 - 3,0 - 3,2 - 2,2 - 2,3 - 0,3; the hole at 1,1 touches that ring at 2,2,
    #  1 . 1 .     where the centre and the pixel at 2,2 share a corner; the last pixel lies apart.
    #  1 1 . 1
    labels = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1]])
    [(number, polygons)] = polygons_of(corners_of(np.pad(labels, 1)))
    assert number == 1 and len(polygons) == 2
    around, hole = polygons[0]
    assert set(around) == {(0, 0), (3, 0), (3, 2), (2, 2), (2, 3), (0, 3)}
    assert set(hole) == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert set(polygons[1][0]) == {(3, 2), (4, 2), (4, 3), (3, 3)}


def test_an_island_in_a_lake_in_an_island():
    labels = np.zeros((9, 9), int)
    labels[:, :], labels[1:8, 1:8], labels[2:7, 2:7], labels[3:6, 3:6] = 1, 0, 1, 0
    [(_, polygons)] = polygons_of(corners_of(np.pad(labels, 1)))
    assert [[len(ring) for ring in rings] for rings in polygons] == [[5, 5], [5, 5]]
    assert polygons[0][1][0] in {(1, 1), (8, 1), (8, 8), (1, 8)}
    np.testing.assert_array_equal(filled(polygons, labels.shape), labels)


def test_what_qupath_is_told(tmp_path):
    labels = np.zeros((2, 20, 30), np.uint16)
    labels[0, 2:8, 3:9], labels[0, 10:15, 10:12], labels[1, 0:3, 0:3] = 4, 9, 2
    table = measure_objects(labels, np.full(labels.shape, 7.5))
    table.loc[0, "mean_0"] = np.nan
    options = {"classification": "cell", "color": (1, 2, 3), "object_type": "annotation"}
    seen = []
    n = write_outlines(
        labels, tmp_path / "o.geojson", table, progress=lambda *done: seen.append(done), block=(1, 6, 8), **options
    )
    assert n == 3 and seen[-1] == (labels.size, labels.size)
    first, second, third = features_of(tmp_path / "o.geojson")
    assert first == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[3, 2], [9, 2], [9, 8], [3, 8], [3, 2]]]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "cell", "color": [1, 2, 3]},
            "name": "4",
            "measurements": {"voxels": 36, "mean_0": 7.5},
        },
    }
    assert second["properties"]["name"] == "9"
    assert third["geometry"]["plane"] == {"c": -1, "z": 1, "t": 0}
    assert third["properties"]["measurements"] == {"voxels": 9}  # JSON knows no NaN
    with pytest.raises(gn.InputError, match=r"o\.geojson exists"):
        write_outlines(labels, tmp_path / "o.geojson")
    assert write_outlines(np.zeros((4, 4), np.uint8), tmp_path / "o.geojson", overwrite=True) == 0
    assert features_of(tmp_path / "o.geojson") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"object_type": "cell"}, "`object_type` is detection or annotation, but got 'cell'"),
        ({"block": (2, 8, 8)}, r"`block` begins with 1, but got \(2, 8, 8\)"),
        ({"table": measure_objects(np.array([[1]]))}, "the table lacks object 2 of the array; measure it again"),
    ],
)
def test_outlines_that_cannot_be_are_refused(options, message, tmp_path):
    with pytest.raises(gn.InputError, match=message):
        write_outlines(np.array([[1, 2]]), tmp_path / "o.geojson", **options)
    assert not list(tmp_path.iterdir())


def picture(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures(channels, dtype, tmp_path):
    image = np.full((1, 40, 60, *channels), 100, dtype)
    image[:, 20:] = 200
    labels = np.zeros((1, 40, 60), np.uint16)
    labels[0, 5:15, 5:15], labels[0, 5:15, 15:25] = 1, 2
    draw_outlines(image, labels, tmp_path / "o.png", color=(255, 0, 0))
    drawn = picture(tmp_path / "o.png")
    is_red = (drawn == (255, 0, 0)).all(-1)
    assert drawn.shape == (40, 60, 3)
    expected = labels[0] > 0
    expected[6:14, 6:15], expected[6:14, 16:24] = False, False  # inside; the pixels of 2 mark the border to 1
    np.testing.assert_array_equal(is_red, expected)
    low, high = (100, 200) if dtype == np.uint8 else (0, 255)
    assert drawn[0, 0].tolist() == [low, low, 0 if channels == (2,) else low] and drawn[30, 0, 0] == high


def test_large_pictures_are_made_smaller(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 255, (3, 50, 70, 3)).astype(np.uint8), np.zeros((3, 50, 70), np.uint8)
    labels[2, 10:30, 10:30] = 1
    assert draw_outlines(image, labels, tmp_path / "a.png", z=2, max_side=20) == (13, 18)
    monkeypatch.setattr("genenet.overlay.BLOCK", 9)
    draw_outlines(image, labels, tmp_path / "b.png", z=2, max_side=20)
    drawn = picture(tmp_path / "a.png")
    np.testing.assert_array_equal(drawn, picture(tmp_path / "b.png"))
    assert drawn[11, 0].tolist() == np.rint(image[2, 44:48, 0:4].mean((0, 1))).tolist()
    is_drawn = (drawn == (0, 255, 0)).all(-1)
    assert is_drawn[3, 3:8].all() and is_drawn[3:8, 3].all() and not is_drawn[4:7, 4:7].any()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 4, 5), {}, r"must have one shape, but the array has \(1, 4, 5\) and the array has \(1, 4, 4\)"),
        ((1, 4, 4), {"z": 1}, r"`z` must lie in \[0, 0\], but got 1"),
    ],
)
def test_pictures_that_cannot_be_are_refused(shape, options, message, tmp_path):
    with pytest.raises(gn.InputError, match=message):
        draw_outlines(np.zeros(shape), open_volume(np.zeros((1, 4, 4), np.uint8)), tmp_path / "o.png", **options)
    (tmp_path / "o.png").touch()
    with pytest.raises(gn.InputError, match=r"o\.png exists"):
        draw_outlines(np.zeros((4, 4)), np.zeros((4, 4), int), tmp_path / "o.png")
