"""The top of a gene tree, a network's blueprint (Guay et al. 2018, 2.1).

The root owns the deltas of the whole tree, by path; every other gene is a view of its own path. Which genes exist
follows from the values, so it is worked out from the deltas and never stored: deltas of genes that vanish stay in the
blueprint, dormant, and count again when the gene comes back.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, TypeVar

from genenet.errors import InputError
from genenet.gene import Gene
from genenet.hyperparameters import Categorical, Hyperparameter
from genenet.wording import known_instead

T = TypeVar("T")

Deltas = dict[str, dict[str, float]]


class Values(dict[str, Any]):
    """Values by name; shared by all genes with the same totals.

    Args:
        declarations: By name.
        deltas: What is added to what the genes above have.
        above: The values of the gene above.

    Attributes:
        totals: The sums of the deltas, by name.
    """

    def __init__(
        self, declarations: Mapping[str, Hyperparameter], deltas: Mapping[str, float], above: "Values | None"
    ) -> None:
        super().__init__(above or {})
        self.totals: dict[str, float] = {**above.totals} if above is not None else {}
        totals = self.totals
        for name, delta in deltas.items():
            totals[name] = totals.get(name, 0) + delta
            if name in declarations:
                self[name] = declarations[name].value(totals[name])
        self._memory: dict[Hashable, Any] = {}

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` works out from these values and what the key says alone, worked out once."""
        return _remembered(self._memory, key, make)


def _remembered(memory: dict[Hashable, Any], key: Hashable, make: Callable[[], T]) -> T:
    if key not in memory:
        memory[key] = make()
    found: T = memory[key]
    return found


class Root(Gene):
    """The top of a gene tree: owns its deltas, and what is fixed about the task.

    The root stores every value in full, so a blueprint does not depend on defaults that may change.

    Args:
        n_classes: Classes of the segmentation, at least `least_classes`.
        n_channels: Channels of the image.
        **values: First values of hyperparameters, by name.

    Attributes:
        least_classes: 2; 1 where a single class may be told from the background by one score.

    Raises:
        InputError: An unknown name or a value out of bounds.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    default_deltas: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    least_classes: ClassVar[int] = 2

    _families: dict[str, list[Gene]]

    def __init__(self, n_classes: int, n_channels: int = 1, **values: Any) -> None:
        super().__init__("", None)
        for name, count, least in (("n_classes", n_classes, self.least_classes), ("n_channels", n_channels, 1)):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise InputError(f"`{name}` must be an integer of at least {least}, but got {count!r}")
        self.n_classes = n_classes
        self.n_channels = n_channels
        first: dict[str, float] = {}
        for name, declaration in self.vocabulary.items():
            first[name] = declaration.total(self.defaults.get(name, declaration.default))  # type: ignore[attr-defined]
        self.deltas: Deltas = {"": first, **{path: dict(entry) for path, entry in self.default_deltas.items()}}
        self._forget()
        self.set(**values)

    @property
    def kind(self) -> str:
        """The name of the root's class, as blueprints store it."""
        return type(self).__name__

    @property
    def genes(self) -> dict[str, Gene]:
        """All genes that exist with the present values, by path, parents first."""
        if not self._genes:
            self._grow()
        return self._genes

    @property
    def families(self) -> dict[str, list[Gene]]:
        """The children of every gene, by the parent's path."""
        return self._families if self.genes else {}

    def _grow(self, settle: Callable[[Gene], None] | None = None) -> None:
        """Make all genes, level by level; `settle` is called with each before its children are made."""
        families: dict[str, list[Gene]] = {}
        level: list[Gene] = [self]
        while level:
            if settle is not None:
                for gene in level:
                    settle(gene)
            for gene in level:
                families[gene.path] = gene.make_children()
            level = [child for gene in level for child in families[gene.path]]
        self._families = families
        waiting: list[Gene] = [self]
        while waiting:  # parents first, brothers in their order
            gene = waiting.pop()
            self._genes[gene.path] = gene
            waiting.extend(reversed(families[gene.path]))

    def update(self, changes: Mapping[str, Mapping[str, float]]) -> None:
        """Replace deltas of several genes in one step; all of it happens or nothing.

        Args:
            changes: New deltas by path and hyperparameter. Paths may name genes that exist only after the change.

        Raises:
            InputError: A value at some live gene would leave its bounds; the message names the gene.
        """
        for path, entry in changes.items():
            for name in entry.keys() - self.vocabulary.keys():
                raise InputError(
                    f"{path or 'the root'} knows no hyperparameter `{name}`; {known_instead(name, self.vocabulary)}"
                )
        before = self.deltas
        after = {path: dict(entry) for path, entry in before.items()}
        for path, entry in changes.items():
            self._put(after, path, entry)
        self._replace(after, before)

    def _put(self, deltas: Deltas, path: str, entry: Mapping[str, float]) -> None:
        """Replace deltas of one gene."""
        mine = deltas.setdefault(path, {})
        for name, delta in entry.items():
            if delta == 0 and path:
                mine.pop(name, None)
            else:
                # The root's choices are options, so that they can be written by name.
                declaration = self.vocabulary[name]
                mine[name] = delta if path else declaration.total(declaration.value(delta))
        if not mine:
            del deltas[path]

    def choose(self, choice: Callable[[Gene], Mapping[str, float]]) -> None:
        """Replace deltas from the root down, level by level, while the tree grows; all of it happens or nothing.

        Args:
            choice: Gives new deltas of a gene by hyperparameter; what those above are is settled when it is called,
                and no other gene of its level or below may be looked at.

        Raises:
            InputError: A value would leave its bounds; the message names the gene.
        """
        before = self.deltas
        self._replace_deltas({path: dict(entry) for path, entry in before.items()})

        def settle(gene: Gene) -> None:
            chosen = choice(gene)
            if chosen:
                self._put(self.deltas, gene.path, chosen)
                self._values.pop(gene.path, None)
            if gene.path in self.deltas:
                self._check_bounds(gene)

        try:
            self._grow(settle)
        except BaseException:
            self._replace_deltas(before)
            raise

    def _replace(self, after: Deltas, before: Deltas) -> None:
        self._replace_deltas(after)
        try:
            self._check_bounds(self)
            for path in sorted(after, key=lambda path: path.count("/")):
                if path and path in self.genes:
                    self._check_bounds(self.genes[path])
        except BaseException:
            self._replace_deltas(before)
            raise

    def _replace_deltas(self, deltas: Deltas) -> None:
        self.deltas = deltas
        self._forget()

    def _forget(self) -> None:
        """What was worked out from other deltas does not hold."""
        self._families = {}
        self._genes: dict[str, Gene] = {}
        self._memory: dict[Hashable, Any] = {}
        self._values: dict[str, Values] = {}

    def remembered(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, worked out once for the present values."""
        return _remembered(self._memory, name, make)

    def totals(self, gene: Gene) -> Mapping[str, float]:
        """The sums of the deltas on the way from the root to a gene, by name."""
        return self.values(gene).totals

    def values(self, gene: Gene) -> Values:
        """The values at a gene; one without deltas of its own shares its parent's."""
        path = gene.path
        if path in self._values:
            return self._values[path]
        above = self.values(gene.parent) if gene.parent is not None else None
        own = self.deltas.get(path)
        found = above if above is not None and not own else Values(self.vocabulary, own or {}, above)
        self._values[path] = found
        return found

    def _check_bounds(self, gene: Gene) -> None:
        """Refuse totals out of bounds; without own deltas a gene has its parent's totals, so these suffice."""
        totals, vocabulary = self.values(gene).totals, gene.vocabulary
        for name in self.deltas[gene.path]:
            if name not in vocabulary:
                gene._declaration(name)
            problem = vocabulary[name].problem(totals[name])
            if problem:
                raise InputError(f"`{name}` {problem} at {gene.label}")

    @property
    def dormant(self) -> Deltas:
        """Deltas of genes that do not exist with the present values, by path."""
        return {path: dict(entry) for path, entry in self.deltas.items() if path not in self.genes}

    def forget_below(self) -> None:
        """Drop all deltas but the root's."""
        self._replace_deltas({"": self.deltas[""]})

    def drop_dormant(self) -> None:
        """Forget the deltas of genes that do not exist with the present values."""
        self.deltas = {path: entry for path, entry in self.deltas.items() if path in self.genes}

    def to_dict(self) -> dict[str, Any]:
        """The blueprint as plain data for JSON: kind, classes, channels, and the deltas by path.

        The root's choices are written by name, so a blueprint survives a change of the options' order.
        """
        first = {}
        for name, delta in self.deltas[""].items():
            declaration = self.vocabulary[name]
            first[name] = declaration.value(delta) if isinstance(declaration, Categorical) else delta
        below = {path: dict(self.deltas[path]) for path in sorted(self.deltas) if path}
        return {
            "blueprint": 1,
            "kind": self.kind,
            "n_classes": self.n_classes,
            "n_channels": self.n_channels,
            "deltas": {"": first, **below},
        }

    def copy(self) -> "Root":
        """A tree of its own with the same blueprint."""
        twin = copy.copy(self)
        twin.root = twin
        twin.deltas = {path: dict(entry) for path, entry in self.deltas.items()}
        twin._forget()
        return twin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def diff(self, other: "Root") -> "list[Difference]":
        """Where another blueprint differs: the deltas that are not the same, by path and name."""
        found = [
            Difference("", name, getattr(self, name), getattr(other, name))
            for name in ("kind", "n_classes", "n_channels")
            if getattr(self, name) != getattr(other, name)
        ]
        mine, theirs = self.to_dict()["deltas"], other.to_dict()["deltas"]
        for path in sorted(mine.keys() | theirs.keys()):
            left, right = mine.get(path, {}), theirs.get(path, {})
            for name in sorted(left.keys() | right.keys()):
                pair = left.get(name, 0), right.get(name, 0)
                same = pair[0] == pair[1] or all(isinstance(x, float) for x in pair) and math.isclose(*pair)
                if not same:
                    found.append(Difference(path, name, *pair))
        return found

    def tree(self, *, short: bool = False) -> str:
        """Every gene with its values and where each comes from, as text.

        Args:
            short: Only values that differ from the root's.
        """
        from genenet.tree_text import tree_text

        return tree_text(self, short=short)


@dataclasses.dataclass(frozen=True)
class Difference:
    """One delta that differs between two blueprints; an absent delta counts as 0."""

    path: str
    name: str
    mine: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.path or 'the root'}: {self.name} {self.mine} -> {self.theirs}"
