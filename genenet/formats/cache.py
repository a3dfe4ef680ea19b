"""Decoded pieces of compressed files, kept until room is needed."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

# Enough for the slices that neighbouring windows share, and little beside one network's memory.
MAX_BYTES = 32 * 2**20


class Recent:
    """The arrays used last, up to a number of bytes; one array is kept whatever its size. Safe among threads.

    >>> recent = Recent(max_bytes=8)
    >>> recent.get("a", lambda: np.zeros(8, np.uint8)).shape
    (8,)
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Give the array of `key`, made by `make` unless it is still here."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = make()  # outside the lock: decoding is slow, and two threads may do it at once
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = array
                self._n_bytes += array.nbytes
            while self._n_bytes > self.max_bytes and len(self._arrays) > 1:
                self._n_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
