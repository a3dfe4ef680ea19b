"""Moves from one blueprint to the next: mutation adds to deltas, crossover swaps subtrees (Guay et al. 2018's code).

Every move gives a blueprint of the space whose values lie within their bounds; the blueprints it came from stay as they
are.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from genenet.errors import InputError
from genenet.hyperparameters import Categorical, Hyperparameter
from search.space import Choice, Range, Space

if TYPE_CHECKING:
    from genenet.gene import Gene
    from genenet.genes import NetworkRoot

# A move that leaves the bounds is drawn again; after so many it gives the parent.
MAX_DRAWS = 50


@dataclasses.dataclass(frozen=True)
class Mutation:
    """How much a mutation changes, by level of the tree: the root first; deeper levels have the last entry.

    Attributes:
        rates: The chance that a hyperparameter of a gene changes, 0 to 1.
        scales: The standard deviation of what is added, as a share of the range that the space allows there.
    """

    rates: tuple[float, ...] = (0.3, 0.1, 0.1, 0.05)
    scales: tuple[float, ...] = (0.25, 0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not self.rates or any(not 0 <= rate <= 1 for rate in self.rates):
            raise InputError(f"`rates` must be chances from 0 to 1, one per level, but got {self.rates}")
        if not self.scales or any(scale <= 0 for scale in self.scales):
            raise InputError(f"`scales` must be positive, one per level, but got {self.scales}")

    def rate(self, depth: int) -> float:
        """The chance at a level."""
        return self.rates[min(depth, len(self.rates) - 1)]

    def scale(self, depth: int) -> float:
        """The scale at a level."""
        return self.scales[min(depth, len(self.scales) - 1)]


def mutate(
    net: "NetworkRoot", space: Space, rng: np.random.Generator, mutation: Mutation | None = None
) -> "NetworkRoot":
    """Change some deltas at random, within what the space allows at their level.

    Args:
        net: The parent.
        space: What may change, and how far.
        rng: Where all randomness comes from.
        mutation: Rates and scales.

    Returns:
        A blueprint of its own; at least one hyperparameter differs unless nothing else lies within bounds.
    """
    mutation = mutation or Mutation()
    for _ in range(MAX_DRAWS):
        child: NetworkRoot = net.copy()  # type: ignore[assignment]
        changes: dict[str, dict[str, float]] = {}
        for gene in child.genes.values():
            for name, declaration, entry in space.entries(gene):
                if rng.random() < mutation.rate(gene.depth):
                    old = child.deltas.get(gene.path, {}).get(name, 0)
                    new = _moved(old, declaration, entry, gene, rng, mutation.scale(gene.depth))
                    if new != old:
                        changes.setdefault(gene.path, {})[name] = new
        if changes:
            try:
                child.update(changes)
            except InputError:
                continue
            return child
    return net.copy()  # type: ignore[return-value]


def _moved(
    old: float,
    declaration: Hyperparameter,
    entry: Range | Choice,
    gene: "Gene",
    rng: np.random.Generator,
    scale: float,
) -> float:
    """A delta near another, within the space's range; another option for a choice."""
    if isinstance(entry, Choice):
        others = [option for option in entry.options if option != gene.value(declaration.name)]
        return declaration.total(others[int(rng.integers(len(others)))]) if others else old
    whole = isinstance(declaration, Categorical) or isinstance(declaration.delta(1), int)
    step = rng.normal(0, scale * (entry.high - entry.low))
    if whole:
        size = 2 if getattr(declaration, "odd", False) else 1
        step = size * (round(step / size) or int(rng.choice((-1, 1))))
    return min(max(old + step, entry.low), entry.high)


def crossover(first: "NetworkRoot", second: "NetworkRoot", rng: np.random.Generator) -> "NetworkRoot":
    """Give a subtree of one blueprint the deltas that it has in another.

    Args:
        first: The parent whose root, and all outside of the subtree, is kept.
        second: The parent that gives the subtree; of the same kind.
        rng: Chooses the subtree, among the genes that both have.

    Returns:
        A blueprint of its own; a copy of `first` where no subtree of `second` fits.

    Raises:
        InputError: The two are of different kinds.
    """
    if first.kind != second.kind:
        raise InputError(f"a {first.kind} and a {second.kind} have no subtrees in common")
    paths = [path for path in first.genes if path and path in second.genes]
    for index in rng.permutation(len(paths)):
        path = paths[int(index)]

        def inside(other: str, path: str = path) -> bool:
            return other == path or other.startswith(f"{path}/")

        mine = {key: dict.fromkeys(entry, 0.0) for key, entry in first.deltas.items() if inside(key)}
        theirs = {key: dict(entry) for key, entry in second.deltas.items() if inside(key)}
        changes = {key: {**mine.get(key, {}), **theirs.get(key, {})} for key in mine | theirs}
        child: NetworkRoot = first.copy()  # type: ignore[assignment]
        try:
            child.update(changes)
        except InputError:
            continue
        if child != first:
            return child
    return first.copy()  # type: ignore[return-value]
