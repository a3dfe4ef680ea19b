"""Labels of channels, and which labels belong together."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

# One label per channel; channels with the same label, or with labels that were united, are kept or removed together.
Labels = np.ndarray


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channels of a tensor.

    Attributes:
        axis: Where they lie, the batch counted.
        labels: One per channel.
    """

    axis: int
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


class Units:
    """Labels that are united stay or go together (union-find); a unit that is protected cannot go."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> Labels:
        """Labels that nothing has yet."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def unit(self, label: int) -> int:
        """What stands for all that is united with a label."""
        root = label
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[label] != root:
            self._parents[label], label = root, self._parents[label]
        return root

    def units(self, labels: Labels) -> Labels:
        """The units of labels, one by one."""
        return np.array([self.unit(int(label)) for label in labels], int)

    def all(self) -> np.ndarray:
        """The unit of every label there is, by label."""
        return np.array([self.unit(label) for label in range(len(self._parents))], int)

    def unite(self, first: Labels, second: Labels) -> None:
        """Unite two rows of labels, one by one."""
        for left, right in zip(first, second, strict=True):
            mine, other = self.unit(int(left)), self.unit(int(right))
            if mine != other:
                self._parents[other] = mine
                reason = self._reasons.pop(other, None)
                if reason is not None:
                    self._reasons.setdefault(mine, reason)

    def unite_all(self, rows: Iterable[Labels]) -> None:
        """Unite several rows, one by one."""
        first: Labels | None = None
        for row in rows:
            if first is None:
                first = row
            else:
                self.unite(first, row)

    def protect(self, labels: Labels, reason: str) -> None:
        """Have labels stay; the first reason counts."""
        for label in labels:
            self._reasons.setdefault(self.unit(int(label)), reason)

    def reason(self, label: int) -> str | None:
        """Why a label has to stay, or None."""
        return self._reasons.get(self.unit(int(label)))


def spread(labels: Labels, axis: int, shape: Sequence[int | None]) -> Labels | None:
    """The labels of a tensor's elements in the order in which they lie in memory; None where a size is open.

    Args:
        labels: Of the channels.
        axis: Where they lie, the batch counted.
        shape: Of the tensor, the batch first.
    """
    sizes = list(shape[1:])
    if any(size is None for size in sizes):
        return None
    along = [len(labels) if place == axis - 1 else 1 for place in range(len(sizes))]
    return np.broadcast_to(labels.reshape(along), sizes).ravel()  # type: ignore[arg-type]
