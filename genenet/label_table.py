"""Which label value of a file means which class."""

from collections.abc import Mapping

import numpy as np

from genenet.errors import InputError

# Class index of voxels that nobody labelled; they count nowhere.
UNLABELLED = 255

# Stands for a value that no class has while a table is looked up: no class has this index.
_STRANGE = UNLABELLED - 1


class LabelTable:
    """The class index of every label value.

    Args:
        indices: Class index by label value; `UNLABELLED` for the ignore value.
        others: The class index of all values not listed, or None if there must be no other.
    """

    def __init__(self, indices: Mapping[int, int], others: int | None = None) -> None:
        self._values = np.array(sorted(indices))
        self._indices = np.array([indices[value] for value in sorted(indices)], np.uint8)
        self._others = np.uint8(_STRANGE if others is None else others)
        self._bytes = np.full(256, self._others, np.uint8)
        is_byte = (self._values >= 0) & (self._values < 256)
        self._bytes[self._values[is_byte]] = self._indices[is_byte]

    def to_indices(self, labels: np.ndarray, name: str) -> np.ndarray:
        """Turn a file's label values into class indices, uint8.

        >>> LabelTable({0: 0, 7: 1}).to_indices(np.array([7, 0, 7]), "labels.tif")
        array([1, 0, 1], dtype=uint8)

        Args:
            labels: Integers of any shape.
            name: Of the file, for the message.

        Raises:
            InputError: A value that no class has.
        """
        if labels.dtype == np.uint8:
            found = self._bytes[labels]
        else:
            place = np.minimum(np.searchsorted(self._values, labels), len(self._values) - 1)
            found = np.where(self._values[place] == labels, self._indices[place], self._others)
        if self._others == _STRANGE and (unknown := found == _STRANGE).any():
            strangers = np.unique(labels[unknown])
            listed = ", ".join(map(str, strangers[:8])) + (", ..." if len(strangers) > 8 else "")
            raise InputError(
                f"{name} holds label values that no class has: {listed}; add them to `classes`, name one as "
                "`ignore`, or let a class have them `also`: a list of values, or `others` for all that remain"
            )
        return found
