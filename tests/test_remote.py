"""Volumes by URL, from a real HTTP server on this machine."""

import functools
import http.server
import pickle
import threading

import numpy as np
import pytest

import genenet as gn
from genenet.convert import convert
from genenet.formats import remote
from genenet.volume import create_volume, open_volume

pytest.importorskip("aiohttp", reason="pip install 'genenet[remote]'")
pytest.importorskip("upath", reason="pip install 'genenet[remote]'")

VALUES = np.random.default_rng(0).integers(0, 255, (5, 40, 50)).astype(np.uint8)
ALL = tuple(slice(0, n) for n in VALUES.shape)


class Quiet(http.server.SimpleHTTPRequestHandler):
    broken = False

    def do_GET(self):
        if self.broken:
            self.send_error(500, "out of order")
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the URL by which it is served."""
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["a.ome.zarr", "a.zarr", "a.tif", "a.ome.tif", "a.h5", "a.npy"])
def test_any_format_is_read_by_url(served, name):
    folder, url = served
    with create_volume(folder / name, VALUES.shape, VALUES.dtype, voxel_size_nm=(50, 10, 10)) as writer:
        writer.write(ALL, VALUES)
    volume = open_volume(f"{url}/{name}")
    np.testing.assert_array_equal(volume.read(ALL), VALUES)
    window = (-2, 3, 5), (4, 9, 60)
    np.testing.assert_array_equal(volume.read_mirrored(*window), open_volume(VALUES).read_mirrored(*window))
    assert volume.voxel_size_nm == open_volume(folder / name).voxel_size_nm
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).read(ALL), VALUES)


def test_a_level_a_group_and_a_dataset_are_named_in_the_url(served):
    folder, url = served
    with create_volume(folder / "a.ome.zarr", VALUES.shape, VALUES.dtype, voxel_size_nm=(50, 10, 10)) as writer:
        writer.write(ALL, VALUES)
    level = open_volume(f"{url}/a.ome.zarr/0")
    assert level.shape == VALUES.shape and level.voxel_size_nm == (50, 10, 10)
    with create_volume(f"{folder}/b.h5:/raw/one", VALUES.shape, VALUES.dtype) as writer:
        writer.write(ALL, VALUES)
    np.testing.assert_array_equal(open_volume(f"{url}/b.h5:/raw/one").read(ALL), VALUES)


def test_absent_chunks_are_zeros_and_a_broken_server_is_one_line(served, monkeypatch):
    folder, url = served
    create_volume(folder / "a.ome.zarr", VALUES.shape, VALUES.dtype).close()
    volume = open_volume(f"{url}/a.ome.zarr")
    assert not volume.read(ALL).any()
    monkeypatch.setattr(Quiet, "broken", True)
    with pytest.raises(gn.InputError, match=r"cannot read http://.*a\.ome\.zarr"):
        volume.read(ALL)


def test_what_is_not_there_is_named(served):
    _, url = served
    for name in ("none.ome.zarr", "none.tif"):
        with pytest.raises(gn.InputError, match=rf"{name.split('.')[0]}\.") as raised:
            open_volume(f"{url}/{name}")
        assert url in str(raised.value)
    with pytest.raises(gn.InputError, match=r"cannot read http://127\.0\.0\.1:9/a\.tif: .*onnect"):
        open_volume("http://127.0.0.1:9/a.tif")
    with pytest.raises(gn.InputError, match="cannot read spam://"):
        open_volume("spam://x/a.tif")
    with pytest.raises(gn.InputError, match="written to files of this machine"):
        create_volume(f"{url}/new.ome.zarr", (1, 2, 3), np.uint8)


def test_a_file_that_changed_is_copied_again(served):
    folder, url = served
    np.save(folder / "a.npy", VALUES)
    np.testing.assert_array_equal(open_volume(f"{url}/a.npy").read(ALL), VALUES)
    np.save(folder / "a.npy", np.concatenate([VALUES, VALUES]))
    assert open_volume(f"{url}/a.npy").shape == (10, 40, 50)


def test_volumes_are_converted_from_a_url(served, tmp_path):
    folder, url = served
    np.save(folder / "a.npy", VALUES)
    convert(f"{url}/a.npy", tmp_path / "mine.ome.zarr")
    np.testing.assert_array_equal(open_volume(tmp_path / "mine.ome.zarr").read(ALL), VALUES)


def test_a_dataset_may_be_remote(served, data_settings):
    folder, url = served
    np.save(folder / "image.npy", np.load(data_settings["image"]))
    data = gn.Dataset.open({**data_settings, "image": f"{url}/image.npy"})
    assert data.training[0].read_image((0, 0, 0), (1, 8, 8)).shape == (1, 8, 8, 1)
