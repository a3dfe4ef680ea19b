"""Volumes: every format gives back what was written into it, reads lazily, and refuses what is no volume."""

import json
import os
import pickle
import resource
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.formats import place
from genenet.formats import tiff as tiff_format
from genenet.formats.cache import Recent
from genenet.formats.stored import name_axes, reading
from genenet.volume import create_volume, open_volume, reopen_volume

VOXEL_NM = (50.0, 4.6, 4.7)
ALL = (slice(None), slice(None), slice(None))


def values(shape, dtype, seed=0):
    drawn = np.random.default_rng(seed).normal(0, 1000, shape)
    return (
        drawn > 0 if dtype == "bool" else (abs(drawn).astype(dtype) if dtype.startswith("u") else drawn.astype(dtype))
    )


def random_boxes(shape, n=6, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield tuple(slice(*sorted(int(end) for end in rng.choice(size + 1, 2, replace=False))) for size in shape[:3])


def assert_reads(volume, array):
    assert (volume.shape, volume.dtype) == (array.shape, array.dtype)
    for box in (ALL, *random_boxes(array.shape)):
        part = volume.read(box)
        assert part.dtype == array.dtype
        np.testing.assert_array_equal(part, array[box])


# --- what create_volume writes -----------------------------------------------------------------------------------

WRITTEN = sorted(place.FORMATS) + [".h5:/cells/raw"]


@pytest.mark.parametrize("shape", [(5, 40, 30), (1, 40, 30), (5, 40, 30, 3), (4, 40, 30, 2), (1, 40, 30, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int32", "bool", "float16"])
@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_is_written_is_read(tmp_path, suffix, dtype, shape):
    array, path = values(shape, dtype), f"{tmp_path}/cells{suffix}"
    if ".tif" in suffix and dtype in ("bool", "float16"):
        with pytest.raises(InputError, match=f"a TIFF file holds .*is to hold {dtype}; write .ome.zarr instead"):
            create_volume(path, shape, dtype)
        assert not list(tmp_path.iterdir())
        return
    with create_volume(path, shape, dtype, voxel_size_nm=VOXEL_NM, chunks=(2, 16, 16)) as writer:
        assert (writer.shape, writer.dtype) == (shape, np.dtype(dtype))
        writer.write((slice(0, shape[0]), slice(0, 23), slice(None)), array[:, :23])
        writer.flush()
        writer.write((slice(0, shape[0]), slice(23, 40), slice(0, 30)), array[:, 23:])
    volume = open_volume(path)
    assert_reads(volume, array)
    if suffix != ".npy":
        assert volume.voxel_size_nm == pytest.approx(VOXEL_NM, rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 40, 30), (1, 40, 30), (3, 40, 30, 2), (3, 40, 30, 3)])
@pytest.mark.parametrize("suffix", WRITTEN)
def test_writing_goes_on_where_it_stopped(tmp_path, suffix, shape):
    array, path = values(shape, "uint8"), f"{tmp_path}/cells{suffix}"
    create_volume(path, shape, "uint8").close()
    for start in range(0, 40, 10):
        with reopen_volume(path) as writer:
            assert (writer.shape, writer.dtype) == (shape, np.uint8)
            box = (slice(None), slice(start, start + 10), slice(None))
            writer.write(box, array[box])
    assert_reads(open_volume(path), array)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_one_channel_is_none(tmp_path, suffix):
    path = f"{tmp_path}/cells{suffix}"
    with create_volume(path, (2, 9, 8, 1), "uint8") as writer:
        writer.write(ALL, np.full((2, 9, 8, 1), 7))
        assert writer.shape == (2, 9, 8)
    assert open_volume(path).n_channels == 1
    assert (open_volume(path).read(ALL) == 7).all()


@pytest.mark.parametrize("suffix", WRITTEN)
def test_nothing_is_overwritten_unasked(tmp_path, suffix):
    path = f"{tmp_path}/cells{suffix}"
    create_volume(path, (2, 9, 8), "uint8").close()
    with pytest.raises(InputError, match="exists; remove it"):
        create_volume(path, (3, 9, 8), "uint8")
    assert open_volume(path).shape == (2, 9, 8)
    create_volume(path, (3, 9, 8), "uint8", overwrite=True).close()
    assert open_volume(path).shape == (3, 9, 8)


def test_other_datasets_are_never_overwritten(tmp_path):
    path = tmp_path / "cells.h5"
    create_volume(f"{path}:/raw", (2, 9, 8), "uint8").close()
    with pytest.raises(InputError, match="holds other datasets: /raw; choose another file"):
        create_volume(f"{path}:/labels", (2, 9, 8), "uint8", overwrite=True)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, suffix):
    array = np.random.default_rng(0).integers(0, 255, (16, 256, 256), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with (
            pytest.raises(InputError, match="cannot write .*; free some space or choose another folder"),
            create_volume(tmp_path / f"cells{suffix}", array.shape, array.dtype) as writer,
        ):
            writer.write(ALL, array)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if suffix in (".npy", ".tif", ".ome.tif"):  # these take their room at once
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on the disk")
@pytest.mark.parametrize("suffix", [".npy", ".tif", ".ome.tif"])
def test_mapped_files_take_their_room_at_once(tmp_path, suffix):
    path = tmp_path / f"cells{suffix}"
    create_volume(path, (16, 256, 256), "uint8").close()
    assert path.stat().st_blocks * 512 >= 16 * 256 * 256  # POSIX counts blocks of 512 bytes


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_writer_refuses_what_does_not_fit(tmp_path, suffix):
    with create_volume(f"{tmp_path}/cells{suffix}", (4, 9, 8), "uint8") as writer:
        with pytest.raises(ValueError, match=r"takes an array of shape \(4, 9, 8\), but got \(4, 9, 7\)"):
            writer.write(ALL, np.zeros((4, 9, 7), np.uint8))
        with pytest.raises(ValueError, match="holds uint8, but got values from 0 to 300; create it with a wider"):
            writer.write(ALL, np.arange(288).reshape(4, 9, 8) + 13 * (np.arange(288) == 287).reshape(4, 9, 8))
        with pytest.raises(ValueError, match="holds uint8, but got float64; convert"):
            writer.write(ALL, np.zeros((4, 9, 8)))
        with pytest.raises(ValueError, match=r"inside the volume \(4, 9, 8\) .*got \[0:5, 0:9, 0:8\]"):
            writer.write((slice(0, 5), slice(0, 9), slice(0, 8)), np.zeros((5, 9, 8)))
        writer.write(ALL, np.ones((4, 9, 8), np.int64))  # a wider type is no matter when the values fit
    with pytest.raises(ValueError, match="is closed; open it with `reopen_volume`"):
        writer.write(ALL, np.ones((4, 9, 8)))
    writer.close()


def test_classes_are_kept_as_ome_zarr_says(tmp_path):
    classes = (SegmentationClass(0, "background", "#000000"), SegmentationClass(4, "granule", "#e69f00"))
    create_volume(tmp_path / "l.ome.zarr", (2, 9, 8), "uint8", classes=classes, voxel_size_nm=VOXEL_NM).close()
    ome = json.loads((tmp_path / "l.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    assert ome["image-label"] == {
        "colors": [{"label-value": 0, "rgba": [0, 0, 0, 0]}, {"label-value": 4, "rgba": [230, 159, 0, 255]}],
        "properties": [{"label-value": 0, "class": "background"}, {"label-value": 4, "class": "granule"}],
    }
    (image,) = ome["multiscales"]
    assert image["axes"][0] == {"name": "z", "type": "space", "unit": "nanometer"}
    assert image["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": list(VOXEL_NM)}]


def test_channels_come_first_in_ome_zarr(tmp_path):
    create_volume(tmp_path / "rgb.ome.zarr", (2, 9, 8, 3), "uint8").close()
    array = zarr.open_array(tmp_path / "rgb.ome.zarr" / "0", mode="r")
    assert (array.shape, array.metadata.dimension_names) == ((3, 2, 9, 8), ("c", "z", "y", "x"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cells.xyz", (2, 9, 8), "uint8"), r"names its format, one of \.ome\.zarr, .*but got .*cells\.xyz"),
        (("cells", (2, 9, 8), "uint8"), "names its format"),
        (("cells.npy", (9, 8), "uint8"), r"must be \(z, y, x\) or \(z, y, x, channels\), but got \(9, 8\)"),
        (("cells.npy", (0, 9, 8), "uint8"), r"but got \(0, 9, 8\)"),
        (("cells.npy", (2, 9, 8), "complex64"), "integers, floats or booleans, but .* is to hold complex64"),
    ],
)
def test_create_volume_refuses(tmp_path, arguments, message):
    name, *rest = arguments
    with pytest.raises(InputError, match=message):
        create_volume(tmp_path / name, *rest)
    assert not list(tmp_path.iterdir())


def test_voxel_sizes_are_three_positive_lengths(tmp_path):
    with pytest.raises(InputError, match=r"three positive lengths \(z, y, x\), but got \(0\.0, 4\.0, 4\.0\)"):
        create_volume(tmp_path / "cells.npy", (2, 9, 8), "uint8", voxel_size_nm=(0, 4, 4))


def test_reopen_volume_refuses(tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", np.zeros((2, 9, 8), np.uint8), compression="zlib")
    with pytest.raises(InputError, match="is compressed and cannot be written in place; write a new file"):
        reopen_volume(tmp_path / "cells.tif")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "cells.png")
    with pytest.raises(InputError, match="is written into one of"):
        reopen_volume(tmp_path / "cells.png")


# --- what other programs write -----------------------------------------------------------------------------------


def tiff(**options):
    def write(folder, array):
        tifffile.imwrite(folder / "cells.tif", array, **{"photometric": "minisblack"} | options)
        return folder / "cells.tif"

    return write


def ome_tiff(folder, array):
    metadata = {"axes": "ZYX"}
    for axis, size in zip("ZYX", VOXEL_NM, strict=True):
        metadata |= {f"PhysicalSize{axis}": size / 1000, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite(folder / "c.ome.tif", array, metadata=metadata, compression="zlib")
    return folder / "c.ome.tif"


def imagej_tiff(folder, array):
    z, y, x = VOXEL_NM
    metadata = {"axes": "ZYX", "spacing": z / 1000, "unit": "\\u00B5m"}
    tifffile.imwrite(folder / "c.tif", array, imagej=True, metadata=metadata, resolution=(1000 / x, 1000 / y))
    return folder / "c.tif"


def hdf5(**options):
    def write(folder, array):
        with h5py.File(folder / "cells.h5", "w") as file:
            file.create_dataset("volume/raw", data=array, **options).attrs["element_size_um"] = (
                np.array(VOXEL_NM) / 1000
            )
        return f"{folder}/cells.h5:/volume/raw"

    return write


def ilastik(folder, array):
    with h5py.File(folder / "cells.h5", "w") as file:
        dataset = file.create_dataset("exported_data", data=array[None, ..., None])
        dataset.attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "tzyxc"]})
        dataset.attrs["element_size_um"] = np.array(VOXEL_NM) / 1000
    return folder / "cells.h5"


def zarr_array(zarr_format):
    def write(folder, array):
        stored = zarr.create_array(folder / "c.zarr", shape=array.shape, dtype=array.dtype, zarr_format=zarr_format)
        stored[:] = array
        return folder / "c.zarr"

    return write


def ome_zarr(version, unit="micrometer", inner=""):
    def write(folder, array):
        group = zarr.open_group(folder / "c.ome.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
        top, group = group, group.require_group(inner) if inner else group
        for level, step in enumerate((1, 2)):
            part = array[None, None, :, ::step, ::step]
            group.create_array(f"s{level}", shape=part.shape, dtype=part.dtype)[:] = part
        space = [{"name": axis, "type": "space", "unit": unit} for axis in "zyx"]
        scale = [1, 1, *(size / 1000 / 2 for size in VOXEL_NM)]
        image = {
            "axes": [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *space],
            "datasets": [
                {
                    "path": f"s{level}",
                    "coordinateTransformations": [
                        {"type": "scale", "scale": scale},
                        {"type": "translation", "translation": [0] * 5},
                    ],
                }
                for level in (0, 1)
            ],
            "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 2, 2]}],
        }
        metadata = {"multiscales": [image], "version": version}
        group.attrs.update(metadata if version == "0.4" else {"ome": metadata})
        assert top is not None
        return folder / "c.ome.zarr" / inner

    return write


def npy(**options):
    def write(folder, array):
        np.save(folder / "cells.npy", np.asarray(array, **options))
        return folder / "cells.npy"

    return write


def slice_folder(suffix):
    def write(folder, array):
        for z, page in enumerate(array):
            file = folder / f"slice{z + 7}{suffix}"  # slice7 ... slice11: natural order is not the alphabet's
            if suffix == ".tif":
                tifffile.imwrite(file, page, compression="zlib")
            else:
                Image.fromarray(page).save(file)
        (folder / "notes.txt").write_text("not a slice")
        return folder

    return write


# Who writes it, whether the voxel size is known, and the types it can hold.
MANY = ("uint8", "uint16", "float32")
FOREIGN = {
    "TIFF, mapped": (tiff(), False, (*MANY, "int16", "float64")),
    "TIFF, big-endian": (tiff(byteorder=">"), False, MANY),
    "TIFF, zlib strips": (tiff(compression="zlib", rowsperstrip=7), False, MANY),
    "TIFF, zlib, predictor, big-endian": (tiff(compression="zlib", predictor=True, byteorder=">"), False, MANY),
    "TIFF, LZW": (tiff(compression="lzw"), False, MANY),
    "TIFF, tiles": (tiff(tile=(16, 16)), False, MANY),
    "TIFF, zstd tiles": (tiff(tile=(16, 32), compression="zstd"), False, MANY),
    "TIFF, deep tiles": (tiff(tile=(2, 16, 16), compression="zlib", volumetric=True), False, MANY),
    "TIFF, no metadata": (tiff(metadata=None), False, MANY),
    "TIFF, time for depth": (tiff(metadata={"axes": "TYX"}, compression="zlib"), False, MANY),
    "TIFF, 1 bit": (tiff(), False, ("bool",)),
    "OME-TIFF": (ome_tiff, True, MANY),
    "ImageJ": (imagej_tiff, True, MANY),
    "HDF5": (hdf5(), True, (*MANY, "bool", "float16")),
    "HDF5, gzip": (hdf5(chunks=(2, 16, 16), compression="gzip"), True, MANY),
    "HDF5, ilastik": (ilastik, True, MANY),
    "Zarr 2": (zarr_array(2), False, (*MANY, "bool")),
    "Zarr 3": (zarr_array(3), False, (*MANY, "bool")),
    "OME-Zarr 0.4": (ome_zarr("0.4"), True, MANY),
    "OME-Zarr 0.5": (ome_zarr("0.5"), True, MANY),
    "OME-Zarr 0.4, labels": (ome_zarr("0.4", inner="labels/nuclei"), True, ("uint8",)),
    "OME-Zarr 0.5, labels": (ome_zarr("0.5", inner="labels/nuclei"), True, ("uint8",)),
    "OME-Zarr, unit unknown": (ome_zarr("0.5", unit="parsec"), False, ("uint8",)),
    "npy": (npy(), False, (*MANY, "bool", "int64", "float16")),
    "npy, Fortran order": (npy(order="F"), False, MANY),
    "npy, big-endian": (npy(dtype=">f4"), False, ("float32",)),
    "slices, PNG": (slice_folder(".png"), False, ("uint8", "uint16", "bool")),
    "slices, TIFF": (slice_folder(".tif"), False, MANY),
}


@pytest.mark.parametrize(("kind", "dtype"), [(kind, dtype) for kind, row in FOREIGN.items() for dtype in row[2]])
def test_what_others_write_is_read(tmp_path, kind, dtype):
    write, has_voxel_size, _ = FOREIGN[kind]
    array = values((5, 37, 41), dtype)
    volume = open_volume(write(tmp_path, array))
    assert_reads(volume, array)
    assert_reads(pickle.loads(pickle.dumps(volume)), array)
    assert volume.voxel_size_nm == (pytest.approx(VOXEL_NM, rel=1e-6) if has_voxel_size else None)


def channels_last(axes, **options):
    """Write `(z, y, x, c)` as a TIFF of other axes."""

    def write(folder, array):
        stored = array.transpose(["ZYXC".index("C" if axis == "S" else axis) for axis in axes])
        tifffile.imwrite(folder / "c.tif", stored, metadata={"axes": axes}, **options)
        return folder / "c.tif"

    return write


def zarr_channels_first(folder, array):
    group = zarr.open_group(folder / "c.ome.zarr", mode="w")
    group.create_array("0", data=np.moveaxis(array, 3, 0))
    axes = [{"name": "c", "type": "channel"}] + [{"name": axis, "type": "space"} for axis in "zyx"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    return folder / "c.ome.zarr"


CHANNELS = {
    "TIFF, RGB": channels_last("ZYXS", photometric="rgb"),
    "TIFF, RGB, zlib": channels_last("ZYXS", photometric="rgb", compression="zlib", tile=(16, 16)),
    "TIFF, RGB, planar": channels_last("ZSYX", photometric="rgb", compression="zlib", planarconfig="separate"),
    "TIFF, planes": channels_last("ZCYX", photometric="minisblack"),
    "TIFF, planes, zlib": channels_last("CZYX", photometric="minisblack", compression="zlib"),
    "TIFF, unnamed": tiff(),
    "OME-TIFF": channels_last("CZYX", ome=True, photometric="minisblack", compression="zlib"),
    "ImageJ": channels_last("ZCYX", imagej=True),
    "HDF5": hdf5(),
    "Zarr 2": zarr_array(2),
    "Zarr 3": zarr_array(3),
    "OME-Zarr": zarr_channels_first,
    "npy": npy(),
    "slices, PNG": slice_folder(".png"),
    "slices, TIFF": slice_folder(".tif"),
}


@pytest.mark.parametrize("kind", CHANNELS)
def test_channels_come_last(tmp_path, kind):
    array = values((5, 37, 41, 3), "uint8")
    volume = open_volume(CHANNELS[kind](tmp_path, array))
    assert volume.n_channels == 3
    assert_reads(volume, array)


def jpeg(path, array):
    Image.fromarray(array).save(path, quality=95)


SINGLE = {".tif": tifffile.imwrite, ".png": lambda path, array: Image.fromarray(array).save(path), ".npy": np.save}


@pytest.mark.parametrize("suffix", SINGLE)
def test_an_image_is_a_volume_of_one_slice(tmp_path, suffix):
    array = values((37, 41), "uint16")
    SINGLE[suffix](tmp_path / f"cells{suffix}", array)
    assert_reads(open_volume(tmp_path / f"cells{suffix}"), array[None])


def test_a_colour_image_is_a_volume_of_one_slice(tmp_path):
    array = values((37, 41, 3), "uint8")
    tifffile.imwrite(tmp_path / "cells.tif", array, photometric="rgb")
    assert_reads(open_volume(tmp_path / "cells.tif"), array[None])
    jpeg(tmp_path / "cells.jpg", np.full((37, 41, 3), 90, np.uint8))
    assert_reads(open_volume(tmp_path / "cells.jpg"), np.full((1, 37, 41, 3), 90, np.uint8))


def test_the_suffix_may_be_missing(tmp_path):
    array = values((3, 37, 41), "uint16")
    tifffile.imwrite(tmp_path / "a", array, photometric="minisblack")
    np.save(tmp_path / "b.npy", array)
    (tmp_path / "b.npy").rename(tmp_path / "b.bin")
    with h5py.File(tmp_path / "c", "w") as file:
        file["raw"] = array
    zarr.create_array(tmp_path / "d", data=array)
    for source in ("a", "b.bin", "c", "c:/raw", "d"):
        assert_reads(open_volume(tmp_path / source), array)


def test_arrays_of_other_libraries_are_volumes(tmp_path):
    array = values((3, 37, 41), "uint16")
    for source in (array, zarr.create_array(tmp_path / "a.zarr", data=array), np.asfortranarray(array)):
        assert_reads(open_volume(source), array)
    assert open_volume(volume := open_volume(array, name="mine")) is volume
    assert volume.name == "mine"


def test_a_level_of_an_image_has_the_image_s_axes_and_scale(tmp_path):
    array = values((5, 36, 40), "uint8")
    path = ome_zarr("0.5")(tmp_path, array)
    assert_reads(open_volume(path / "s1"), array[:, ::2, ::2])
    assert open_volume(path / "s1").voxel_size_nm == pytest.approx(VOXEL_NM)


def test_a_stray_zarr_file_above_makes_no_zarr(tmp_path):
    (tmp_path / "zarr.json").write_text("{}")
    (tmp_path / "here" / "slices").mkdir(parents=True)
    np.save(tmp_path / "here" / "a.npy", np.zeros((2, 3, 4), np.uint8))
    assert open_volume(tmp_path / "here" / "a.npy").shape == (2, 3, 4)
    with pytest.raises(InputError, match="there is no slice in the folder"):
        open_volume(tmp_path / "here" / "slices")


def test_an_image_one_folder_down_is_found(tmp_path):
    array = values((5, 36, 40), "uint8")
    path = ome_zarr("0.4", inner="0")(tmp_path, array)
    assert_reads(open_volume(path.parent), array)


def test_old_ome_zarr_has_five_fixed_axes(tmp_path):
    array = values((5, 36, 40), "uint8")
    group = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=array[None, None])
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "0"}]}]
    assert_reads(open_volume(tmp_path / "old.zarr"), array)


def write_ome_set(folder, array):
    """Write every slice into a file of its own; each names all of them."""
    depth, height, width = array.shape
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(depth)
    )
    for z in range(depth):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{z}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{width}" SizeY="{height}" '
            f'SizeZ="{depth}" SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / f"{z}.ome.tif", array[z], description=xml, metadata=None, compression="zlib")


def test_an_ome_tiff_may_stand_in_several_files(tmp_path):
    array = values((3, 37, 41), "uint8")
    write_ome_set(tmp_path, array)
    assert_reads(open_volume(tmp_path / "0.ome.tif"), array)
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(InputError, match="refers to a file that is not there; put the files of the set together"):
        open_volume(tmp_path / "0.ome.tif").read(ALL)


def test_stacks_beyond_four_gigabytes_are_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_format, "_IMAGEJ_MAX_BYTES", 1000)
    array = np.random.default_rng(0).integers(0, 255, (3, 30, 40)).astype(np.uint8)
    with create_volume(tmp_path / "large.tif", array.shape, array.dtype, voxel_size_nm=(50, 10, 10)) as writer:
        writer.write(ALL, array)
    assert (tmp_path / "large.tif").read_bytes()[:4] == b"II+\x00"
    assert_reads(open_volume(tmp_path / "large.tif"), array)
    assert open_volume(tmp_path / "large.tif").voxel_size_nm == (50, 10, 10)


def test_print_resolutions_are_no_voxel_sizes(tmp_path):
    image = values((9, 8), "uint8")
    tifffile.imwrite(tmp_path / "scan.tif", image, resolution=(300, 300), resolutionunit="INCH")
    assert open_volume(tmp_path / "scan.tif").voxel_size_nm is None
    tifffile.imwrite(tmp_path / "cells.tif", image, resolution=(4e4, 4e4), resolutionunit="CENTIMETER")  # 0.25 µm
    assert open_volume(tmp_path / "cells.tif").voxel_size_nm == pytest.approx((250, 250, 250))


def test_names_of_axes():
    assert name_axes("TZCYX", (1, 3, 2, 9, 8), "it") == "_zcyx"
    assert name_axes("QYX", (3, 9, 8), "it", time_is_depth=True) == "zyx"
    with pytest.raises(InputError, match=r"those of it are t, y, x with lengths \(3, 9, 8\); save one time point"):
        name_axes("tyx", (3, 9, 8), "it")


# --- laziness ----------------------------------------------------------------------------------------------------


def sparse_npy(folder):
    with (folder / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (1000, 10_000, 10_000)}
        )
        file.truncate(file.tell() + 10**11)
    return folder / "huge.npy"


def sparse_zarr(folder):
    zarr.create_array(folder / "huge.zarr", shape=(1000, 10_000, 10_000), chunks=(8, 256, 256), dtype="u1")
    return folder / "huge.zarr"


def sparse_hdf5(folder):
    with h5py.File(folder / "huge.h5", "w") as file:
        file.create_dataset("raw", shape=(1000, 10_000, 10_000), chunks=(8, 256, 256), dtype="u1")
    return folder / "huge.h5"


@pytest.mark.parametrize("make", [sparse_npy, sparse_zarr, sparse_hdf5])
def test_a_hundred_gigabytes_are_read_piece_by_piece(tmp_path, make):
    path = make(tmp_path)
    tracemalloc.start()
    volume = open_volume(path)
    assert volume.read((slice(500, 501), slice(0, 1000), slice(9000, 10_000))).sum() == 0
    assert volume.read_mirrored((-2, 9990, 4), (4, 20, 8)).shape == (4, 20, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8


def test_only_the_strips_under_a_box_are_decoded(tmp_path):
    tifffile.imwrite(tmp_path / "c.tif", values((6, 64, 50), "uint8"), compression="zlib", rowsperstrip=8)
    with tifffile.TiffFile(tmp_path / "c.tif") as file:
        spoiled = [
            (page.dataoffsets[row], page.databytecounts[row]) for page in file.pages for row in (0, 1, 4, 5, 6, 7)
        ]
    with (tmp_path / "c.tif").open("r+b") as file:
        for offset, count in spoiled:
            file.seek(offset)
            file.write(b"\xff" * count)
    volume = open_volume(tmp_path / "c.tif")
    assert volume.read((slice(0, 6), slice(17, 31), slice(3, 9))).shape == (6, 14, 6)
    with pytest.raises(InputError, match="cannot read .*c.tif"):
        volume.read((slice(0, 1), slice(15, 31), slice(3, 9)))


def test_recent_pieces_are_kept_until_there_is_no_room():
    made = []

    def get(key, n_bytes):
        return recent.get(key, lambda: made.append(key) or np.zeros(n_bytes, np.uint8))

    recent = Recent(max_bytes=10)
    for key in "abacab":  # 4 bytes each: c pushes out b, then b pushes out c
        assert get(key, 4).nbytes == 4
    assert made == ["a", "b", "c", "b"]
    assert get("d", 99) is get("d", 99)  # one piece is kept whatever its size


@pytest.mark.parametrize("kind", ["TIFF, zlib strips", "slices, PNG", "HDF5, gzip", "OME-Zarr 0.5"])
def test_threads_may_read_at_once(tmp_path, kind):
    array = values((5, 128, 128), "uint16")
    volume = open_volume(FOREIGN[kind][0](tmp_path, array))
    boxes = list(random_boxes(array.shape, n=60))
    with ThreadPoolExecutor(8) as pool:
        for box, part in zip(boxes, pool.map(volume.read, boxes), strict=True):
            np.testing.assert_array_equal(part, array[box])


# --- mirrored reading --------------------------------------------------------------------------------------------

axis = st.tuples(st.integers(1, 6), st.integers(0, 14), st.integers(0, 14))


@settings(deadline=None, max_examples=200)
@given(axes=st.tuples(axis, axis, axis), channels=st.sampled_from([(), (2,)]))
def test_mirrored_reading_is_numpy_s_reflection(axes, channels):
    array = np.arange(np.prod([size for size, _, _ in axes]) * (channels or (1,))[0])
    array = array.reshape(*(size for size, _, _ in axes), *channels)
    padding = [(before, after) for _, before, after in axes]
    window = open_volume(array).read_mirrored(
        [-before for before, _ in padding], [size + before + after for size, before, after in axes]
    )
    np.testing.assert_array_equal(window, np.pad(array, padding + [(0, 0)] * len(channels), mode="reflect"))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_window_anywhere_is_a_part_of_the_reflection(data):
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    start = [data.draw(st.integers(-9, 9)) for _ in range(3)]
    shape = [data.draw(st.integers(0, 9)) for _ in range(3)]
    padded = np.pad(array, 20, mode="reflect")
    expected = padded[tuple(slice(20 + low, 20 + low + size) for low, size in zip(start, shape, strict=True))]
    np.testing.assert_array_equal(open_volume(array).read_mirrored(start, shape), expected)


def test_a_window_inside_is_not_copied():
    array = np.zeros((4, 50, 60), np.uint8)
    assert np.shares_memory(open_volume(array).read_mirrored((0, 10, 10), (4, 20, 20)), array)


def test_what_is_read_cannot_be_changed():
    array = np.zeros((4, 50, 60), np.uint8)
    for part in (open_volume(array).read(ALL), open_volume(array).read_mirrored((-1, 0, 0), (4, 9, 9))):
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 1
    array[0] = 1  # the user's own array is still theirs


# --- refusals ----------------------------------------------------------------------------------------------------


def two_datasets(folder):
    with h5py.File(folder / "two.h5", "w") as file:
        file["raw"] = file["labels/nuclei"] = np.zeros((2, 9, 8))


def named_axes(names, shape):
    def make(folder):
        zarr.create_array(folder / "a.zarr", data=np.zeros(shape, np.uint8), dimension_names=names)

    return make


def uneven_slices(folder):
    for z, size in enumerate([8, 8, 9]):
        Image.fromarray(np.zeros((size, 8), np.uint8)).save(folder / f"s{z}.png")


def mixed_slices(folder):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "a.png")
    tifffile.imwrite(folder / "b.tif", np.zeros((9, 8), np.uint8))


def typed_slices(folder):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((9, 8), np.uint16)).save(folder / "b.png")


def group_without_level(folder):
    zarr.open_group(folder / "a.zarr", mode="w").attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]


def group_of_two(folder):
    group = zarr.open_group(folder / "a.zarr", mode="w")
    for name in ("em", "lm"):
        group.create_array(name, data=np.zeros((2, 9, 8)))


def uneven_pages(folder):
    with tifffile.TiffWriter(folder / "a.tif") as file:
        for size in (8, 8, 9):
            file.write(np.zeros((size, 8), np.uint8), contiguous=False, metadata=None)


def save_npy(array, **options):
    return lambda folder: np.save(folder / "a.npy", array, **options)


def tiff_of(shape, axes, **options):
    return lambda folder: tifffile.imwrite(folder / "a.tif", np.zeros(shape, "u1"), metadata={"axes": axes}, **options)


def nothing(folder):
    pass


REFUSED = {
    "missing": (nothing, "cells.tif", r"there is no file or folder .*cells\.tif; check the name"),
    "misspelt": (save_npy(np.zeros((2, 9, 8))), "b.npy", r"no file .*b\.npy; did you mean .*a\.npy\?"),
    "missing HDF5": (nothing, "cells.h5:/raw", r"there is no file or folder .*cells\.h5;"),
    "missing Zarr": (nothing, "cells.ome.zarr/labels", "there is no file or folder"),
    "unknown": (lambda folder: (folder / "a.xyz").write_text("?"), "a.xyz", "is of no known format; known are .ome"),
    "wrong dataset": (two_datasets, "two.h5:/rwa", r"no dataset /rwa in .*two\.h5; it holds: /labels/nuclei, /raw"),
    "several datasets": (
        two_datasets,
        "two.h5",
        r"several datasets: /labels/nuclei, /raw; name one, as in .*two\.h5:/",
    ),
    "empty HDF5": (lambda folder: h5py.File(folder / "a.h5", "w").close(), "a.h5", "holds no dataset"),
    "no HDF5": (lambda folder: (folder / "a.h5").write_text("?"), "a.h5", r"cannot read .*a\.h5: .*complete"),
    "wrong group": (group_of_two, "a.zarr/xm", r"no array or image at .*xm; .*a\.zarr holds: em, lm"),
    "several arrays": (group_of_two, "a.zarr", "holds 2 arrays and images; name one of: em, lm"),
    "no level": (group_without_level, "a.zarr", "name no readable level: .*give the array, as in"),
    "empty Zarr": (lambda folder: (folder / "a.zarr").mkdir(), "a.zarr", "no array or image at .* holds: nothing"),
    "time series": (
        named_axes("tzyx", (3, 2, 9, 8)),
        "a.zarr",
        r"are t, z, y, x with lengths \(3, 2, 9, 8\); save one",
    ),
    "strange axis": (named_axes("wyx", (3, 9, 8)), "a.zarr", "the axes of a volume are z, y, x and channels"),
    "five axes": (save_npy(np.zeros((1, 1, 2, 9, 8))), "a.npy", r"has 2 to 4 axes, .*has shape \(1, 1, 2, 9, 8\)"),
    "one axis": (save_npy(np.zeros(9)), "a.npy", "has 2 to 4 axes"),
    "no voxels": (save_npy(np.zeros((0, 9, 8))), "a.npy", r"holds no voxels: its shape is \(0, 9, 8\)"),
    "complex": (save_npy(np.zeros((2, 9, 8), complex)), "a.npy", "integers, floats or booleans, but .*complex128"),
    "strings": (save_npy(np.full((2, 9, 8), "a")), "a.npy", "integers, floats or booleans, but .*<U1"),
    "objects": (save_npy(np.full((2, 9), None), allow_pickle=True), "a.npy", r"cannot read .*a\.npy: .*bject"),
    "no npy": (lambda folder: (folder / "a.npy").write_text("?"), "a.npy", r"cannot read .*a\.npy"),
    "no TIFF": (lambda folder: (folder / "a.tif").write_text("?"), "a.tif", r"cannot read .*a\.tif"),
    "no PNG": (lambda folder: (folder / "a.png").write_text("?"), "a.png", r"cannot read .*a\.png"),
    "uneven pages": (uneven_pages, "a.tif", r"holds 2 images, of shapes \(2, 8, 8\), \(9, 8\); save one stack"),
    "time and depth": (tiff_of((3, 2, 9, 8), "TZYX", imagej=True), "a.tif", "are t, z, y, x with lengths"),
    "empty folder": (nothing, ".", r"there is no slice in the folder .*; slices are \.png"),
    "uneven slices": (uneven_slices, ".", r"s0\.png has \(8, 8\) uint8 and s2\.png has \(9, 8\) uint8; remove"),
    "slices of two types": (typed_slices, ".", r"a\.png has \(9, 8\) uint8 and b\.png has \(9, 8\) uint16"),
    "slices of two kinds": (mixed_slices, ".", "one kind of file, but .* holds 1 png and 1 tiff; move one kind away"),
    "stacks for slices": (
        tiff_of((2, 9, 8), "ZYX"),
        ".",
        r"a slice is a single image, but .*a\.tif has shape \(2, 9, 8\)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_open_volume_refuses(tmp_path, kind):
    make, source, message = REFUSED[kind]
    make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_volume(f"{tmp_path}/{source}")
    assert "\n" not in str(caught.value)


def test_open_volume_refuses_what_is_not_here():
    with pytest.raises(InputError, match="a volume is a path or an array, but got list"):
        open_volume([[1, 2]])


def test_sixteen_bit_colour_is_not_cut_to_eight(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values((9, 8, 3), "uint16")))
    with pytest.raises(InputError, match=r"a\.png has 16 bits for each of several channels.*save it as TIFF"):
        open_volume(tmp_path / "a.png")


@pytest.mark.parametrize(
    "kind", [kind for kind, row in FOREIGN.items() if kind.startswith(("TIFF", "OME-TIFF", "ImageJ", "npy", "HDF5"))]
)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_refused(tmp_path, kind, kept):
    write, _, dtypes = FOREIGN[kind]
    path = Path(str(write(tmp_path, values((6, 64, 64), dtypes[0]))).partition(":")[0])
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(InputError, match=f"{path.name}"):
        volume = open_volume(path)
        assert path.suffix != ".tif", "a TIFF file must be refused when it is opened, before hours of work"
        volume.read(ALL)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_slice_that_was_cut_off_is_refused(tmp_path, suffix):
    slice_folder(suffix)(tmp_path, values((3, 64, 64), "uint8"))
    path = tmp_path / f"slice8{suffix}"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=rf"slice8\{suffix}"):
        open_volume(tmp_path).read(ALL)


def test_a_spoiled_chunk_is_refused(tmp_path):
    path = zarr_array(3)(tmp_path, values((5, 37, 41), "uint8"))
    (path / "c" / "0" / "0" / "0").write_bytes(b"?")
    with pytest.raises(InputError, match=r"cannot read .*c\.zarr"):
        open_volume(path).read(ALL)


def test_a_file_one_may_not_read_is_refused():
    with (
        pytest.raises(InputError, match="cannot read a.npy: .*Permission denied; .*that you may read it"),
        reading("a.npy"),
    ):
        raise PermissionError(13, "Permission denied")


def test_a_box_lies_inside():
    volume = open_volume(np.zeros((4, 9, 8)))
    assert volume.read((slice(2, 2), slice(None), slice(None))).shape == (0, 9, 8)
    for box in [(slice(0, 5),) * 3, (slice(-1, 2),) * 3, (slice(3, 2),) * 3, (slice(0, 4, 2),) * 3]:
        with pytest.raises(ValueError, match=r"a box must lie inside the volume \(4, 9, 8\) of the array, but got"):
            volume.read(box)


# --- names beside --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITTEN)
def test_an_output_is_published_under_its_name(tmp_path, suffix):
    path = f"{tmp_path}/cells{suffix}"
    partial = place.partial_name(path)
    for depth in (2, 3):
        create_volume(partial, (depth, 9, 8), "uint8").close()
        place.publish(partial, path)
        assert open_volume(path).shape == (depth, 9, 8)
        assert [file.name for file in tmp_path.iterdir()] == [Path(path.partition(":")[0]).name]


# --- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif("GENENET_DATA" not in os.environ, reason="GENENET_DATA is not set")
def test_real_data(tmp_path):
    data = Path(os.environ["GENENET_DATA"])
    image = open_volume(data / "vnc" / "image.tif")
    assert (image.shape, image.dtype) == ((14, 1024, 1024), np.uint8)
    whole = tifffile.imread(data / "vnc" / "image.tif")
    for box in random_boxes(image.shape):
        np.testing.assert_array_equal(image.read(box), whole[box])
    nuclei = open_volume(next((data / "monuseg" / "images").glob("*.jpg")))
    assert (nuclei.shape, nuclei.dtype) == ((1, 1000, 1000, 3), np.uint8)
    assert open_volume(data / "monuseg" / "images").shape == (30, 1000, 1000, 3)
    platelet = open_volume(data / "platelet" / "train_z00_image.tif")
    assert (platelet.shape, platelet.dtype) == ((1, 800, 800), np.uint16)
    shutil.copy(data / "platelet" / "train_z00_image.tif", tmp_path / "a.tif")
    assert_reads(open_volume(tmp_path), tifffile.imread(tmp_path / "a.tif")[None])


@pytest.mark.parametrize("suffix", [".tif", ".svs"])
def test_slides_are_read_at_full_resolution(suffix, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (300, 420, 3)).astype(np.uint8)
    path, tiles = tmp_path / f"slide{suffix}", {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        if suffix == ".tif":  # coarser levels below the first page
            options = {"resolutionunit": "CENTIMETER", **tiles}
            writer.write(image, subifds=1, resolution=(40000, 40000), **options)
            writer.write(image[::2, ::2], subfiletype=1, resolution=(20000, 20000), **options)
        else:  # Aperio's: a thumbnail, and coarser levels as pages of their own
            head = "Aperio Image Library v11.2.1 \r\n420x300 [0,0 420x300] (64x64)"
            writer.write(image, description=f"{head} RAW/RGB|AppMag = 40|MPP = 0.2500", **tiles)
            writer.write(image[::10, ::10], photometric="rgb", metadata=None)
            writer.write(image[::4, ::4], description=f"{head} -> 105x75 RAW/RGB", **tiles)
    volume = open_volume(path)
    assert volume.shape == (1, 300, 420, 3) and volume.voxel_size_nm[1:] == (250, 250)
    np.testing.assert_array_equal(volume.read((slice(0, 1), slice(50, 130), slice(400, 420)))[0], image[50:130, 400:])
