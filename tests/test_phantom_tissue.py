"""Synthetic stained sections: the same from the same seed, whole nuclei, a data set that opens."""

import numpy as np
import pytest
import scipy.ndimage
from test_cli import fine

import genenet as gn
from genenet.errors import InputError
from genenet.phantom_tissue import tissue, write_tissue


def test_the_same_seed_gives_the_same_section():
    first, again, other = tissue((80, 96), 3), tissue((80, 96), 3), tissue((80, 96), 4)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first[0] != other[0]).any()


def test_nuclei_are_whole_and_darker_than_the_tissue():
    image, nuclei = tissue((200, 240), 0)
    assert image.shape == (200, 240, 3) and nuclei.max() > 40
    for number in np.unique(nuclei)[1:]:
        mask = nuclei == number
        assert mask.sum() >= 30 and scipy.ndimage.label(mask)[1] == 1
    # Haematoxylin takes red light away, eosin hardly any.
    assert image[nuclei > 0][:, 0].mean() < 0.75 * image[nuclei == 0][:, 0].mean()


def test_as_files_they_are_a_data_set(tmp_path):
    path = write_tissue(tmp_path / "nuclei", (64, 72), n_images=5)
    data = gn.Dataset.open(path)
    assert (len(data.training), len(data.validation)) == (4, 1) and data.n_channels == 3
    for arguments, message in (
        ({}, "exists; choose another folder"),
        ({"n_images": 1, "overwrite": True}, "at least 2"),
    ):
        with pytest.raises(InputError, match=message):
            write_tissue(tmp_path / "nuclei", **arguments)
    said = fine("data", "phantom", tmp_path / "other", "--tissue", "--shape", "3", "48", "64")
    assert "data.yaml" in said and len(list((tmp_path / "other" / "images").iterdir())) == 3
