"""The gene tree: a network's blueprint, whose hyperparameters add up along the branches (Guay et al. 2018, 2.1).

The root owns the deltas of the whole tree, by path; every other gene is a view of its own path. Which genes exist
follows from the values, so it is worked out from the deltas and never stored: deltas of genes that vanish stay in the
blueprint, dormant, and count again when the gene comes back.
"""

import abc
import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from genenet.errors import InputError
from genenet.hyperparameters import Categorical, Hyperparameter
from genenet.wording import known_instead

if TYPE_CHECKING:
    from genenet.plan import Plan

T = TypeVar("T")

Reads = tuple[Hyperparameter, ...]
Kinds = tuple[type["Gene"], ...]

Deltas = dict[str, dict[str, float]]


@functools.cache
def vocabulary(kind: "type[Gene]") -> dict[str, Hyperparameter]:
    """What genes of a kind and their descendants read, by name: what such a gene may store."""
    own = {entry.name: entry for entry in kind.reads}
    for child in kind.child_kinds:
        own |= vocabulary(child)
    return own


class Gene(abc.ABC):
    """A node of the blueprint; it describes its part of the network and stores deltas.

    A value is read as an attribute: `gene.n_features`. A subclass names the hyperparameters it reads, the kinds of
    its children, makes the children from its values, and plans its layers.

    Attributes:
        name: Its name among its siblings, `stack2`.
        path: Its address below the root, `encode/stack2`; empty for the root.
        root: The root gene of its tree.
    """

    reads: ClassVar[Reads] = ()
    child_kinds: ClassVar[Kinds] = ()

    def __init__(self, name: str, parent: "Gene | None") -> None:
        self.name = name
        self.parent = parent
        self.root: Root = parent.root if parent is not None else self  # type: ignore[assignment]
        self.path: str = f"{parent.path}/{name}".lstrip("/") if parent is not None else ""
        self.lineage: tuple[str, ...] = (*parent.lineage, self.path) if parent is not None else ("",)

    @abc.abstractmethod
    def make_children(self) -> "list[Gene]":
        """Create the children that the present values ask for, in building order."""

    @abc.abstractmethod
    def plan(self, plan: "Plan") -> None:
        """Add this gene's layers to the plan, inputs first."""

    @property
    def vocabulary(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that this gene may store, by name."""
        return vocabulary(type(self))

    def total(self, name: str) -> float:
        """The sum of this gene's delta and those of its ancestors."""
        return self.root.totals(self.lineage).get(name, 0)

    def parts(self, name: str) -> list[tuple[str, float]]:
        """Where a total comes from: `(path, delta)` from the root down, without zeros below the root."""
        deltas = self.root.deltas
        found = [(path, deltas.get(path, {}).get(name, 0)) for path in self.lineage]
        return [(path, delta) for path, delta in found if delta or not path]

    def value(self, name: str) -> Any:
        """The value of a hyperparameter at this gene.

        Raises:
            InputError: No gene here or below reads that name.
        """
        return self._declaration(name).value(self.total(name))

    def __getattr__(self, name: str) -> Any:
        declaration = vocabulary(type(self)).get(name)
        if declaration is None:
            where = self.__dict__.get("path", "") or "the root"
            raise AttributeError(f"{type(self).__name__} at {where} has no attribute or hyperparameter {name!r}")
        return declaration.value(self.total(name))

    def _declaration(self, name: str) -> Hyperparameter:
        try:
            return self.vocabulary[name]
        except KeyError:
            pass
        if name in self.root.vocabulary:
            readers = sorted({gene.label for gene in self.root.walk() if name in {h.name for h in gene.reads}})
            where = readers[0] if len(readers) == 1 else f"genes such as {readers[0]}" if readers else "no gene"
            raise InputError(f"`{name}` has no effect at {self.label}: it is read by {where}; set it there or above")
        raise InputError(f"{self.label} knows no hyperparameter `{name}`; {known_instead(name, self.vocabulary)}")

    def add(self, **deltas: float) -> "Gene":
        """Change this gene's deltas, and with them the values of all genes below.

        Args:
            **deltas: Numbers to add by hyperparameter; for choices, how many options further.

        Returns:
            This gene.

        Raises:
            InputError: An unknown name, a wrong type, or a value here or below would leave its bounds; the tree
                is as before.
        """
        current = self._live().root.deltas.get(self.path, {})
        self.root.update({self.path: {n: current.get(n, 0) + self._checked(n, d, "delta") for n, d in deltas.items()}})
        return self

    def set(self, **values: Any) -> "Gene":
        """Choose this gene's deltas such that its values are those asked for.

        Args:
            **values: Values by hyperparameter; for choices, the option's name.

        Returns:
            This gene.

        Raises:
            InputError: As for `add`.
        """
        current = self._live().root.deltas.get(self.path, {})
        wanted = {n: self._checked(n, value, "total") for n, value in values.items()}
        self.root.update({self.path: {n: current.get(n, 0) + t - self.total(n) for n, t in wanted.items()}})
        return self

    def _checked(self, name: str, value: Any, how: str) -> float:
        declaration = self._declaration(name)
        try:
            return getattr(declaration, how)(value)
        except InputError as error:
            raise InputError(f"{error} at {self.label}") from None

    def _live(self) -> "Gene":
        if self.path not in self.root.genes:
            raise InputError(f"there is no gene {self.path} any more; net.tree() shows which there are")
        return self

    @property
    def label(self) -> str:
        """The path, or "the root"."""
        return self.path or "the root"

    @property
    def depth(self) -> int:
        """How many genes are above this one; 0 for the root."""
        return len(self.lineage) - 1

    @property
    def children(self) -> "list[Gene]":
        """The genes right below, in building order."""
        return self._live().root.families[self.path]

    def walk(self) -> "Iterator[Gene]":
        """This gene and all below it, parents first."""
        below = f"{self.path}/" if self.path else ""
        for path, gene in self.root.genes.items():
            if path == self.path or path.startswith(below):
                yield gene

    def __getitem__(self, path: str) -> "Gene":
        """The gene at a path below this one.

        Raises:
            KeyError: There is none; the message says which there are.
        """
        full = f"{self.path}/{path}".strip("/")
        try:
            return self.root.genes[full]
        except KeyError:
            head = full
            while head and head not in self.root.genes:
                head = head.rpartition("/")[0]
            here = self.root.genes[head]
            names = ", ".join(child.name for child in here.children) or "nothing"
            raise KeyError(f"there is no gene {full!r}: {here.label} has {names}") from None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"


class Root(Gene):
    """The top of a gene tree: owns its deltas, and what is fixed about the task.

    The root stores every value in full, so a blueprint does not depend on defaults that may change.

    Args:
        n_classes: Classes of the segmentation, at least 2.
        n_channels: Channels of the image.
        **values: First values of hyperparameters, by name.

    Raises:
        InputError: An unknown name or a value out of bounds.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    default_deltas: ClassVar[Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, n_classes: int, n_channels: int = 1, **values: Any) -> None:
        super().__init__("", None)
        for name, count, least in (("n_classes", n_classes, 2), ("n_channels", n_channels, 1)):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise InputError(f"`{name}` must be an integer of at least {least}, but got {count!r}")
        self.n_classes = n_classes
        self.n_channels = n_channels
        first: dict[str, float] = {}
        for name, declaration in self.vocabulary.items():
            first[name] = declaration.total(self.defaults.get(name, declaration.default))  # type: ignore[attr-defined]
        self.deltas: Deltas = {"": first, **{path: dict(entry) for path, entry in self.default_deltas.items()}}
        self._families: dict[str, list[Gene]] | None = None
        self._genes: dict[str, Gene] = {}
        self._memory: dict[str, Any] = {}
        self._totals: dict[str, Mapping[str, float]] = {}
        self.set(**values)

    @property
    def kind(self) -> str:
        """The name of the root's class, as blueprints store it."""
        return type(self).__name__

    @property
    def genes(self) -> dict[str, Gene]:
        """All genes that exist with the present values, by path, parents first."""
        if self._families is None:
            self._genes, self._families = {}, {}
            self._grow(self)
        return self._genes

    @property
    def families(self) -> dict[str, list[Gene]]:
        """The children of every gene, by the parent's path."""
        return self._families if self.genes and self._families is not None else {}

    def _grow(self, gene: Gene) -> None:
        self._genes[gene.path] = gene
        children = self._families[gene.path] = gene.make_children()  # type: ignore[index]
        for child in children:
            self._grow(child)

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
            mine = after.setdefault(path, {})
            for name, delta in entry.items():
                if delta == 0 and path:
                    mine.pop(name, None)
                else:
                    # The root's choices are options, so that they can be written by name.
                    declaration = self.vocabulary[name]
                    mine[name] = delta if path else declaration.total(declaration.value(delta))
            if not mine:
                del after[path]
        self._replace(after, before)

    def _replace(self, after: Deltas, before: Deltas) -> None:
        self._replace_deltas(after)
        try:
            self._check_bounds("")
            for path in sorted(after, key=lambda path: path.count("/")):
                if path and path in self.genes:
                    self._check_bounds(path)
        except BaseException:
            self._replace_deltas(before)
            raise

    def _replace_deltas(self, deltas: Deltas) -> None:
        """What was worked out from the deltas before is forgotten."""
        self.deltas, self._families, self._memory, self._totals = deltas, None, {}, {}

    def remembered(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, worked out once for the present values."""
        if name not in self._memory:
            self._memory[name] = make()
        found: T = self._memory[name]
        return found

    def totals(self, lineage: tuple[str, ...]) -> Mapping[str, float]:
        """The sums of the deltas on the way from the root to a gene, by name."""
        path = lineage[-1]
        if path not in self._totals:
            above = self.totals(lineage[:-1]) if path else {}
            own = self.deltas.get(path)
            # A gene without deltas of its own shares its parent's.
            sums = {**above, **{name: above.get(name, 0) + delta for name, delta in own.items()}} if own else above
            self._totals[path] = sums
        return self._totals[path]

    def _check_bounds(self, path: str) -> None:
        """Refuse totals out of bounds; without own deltas a gene has its parent's totals, so these suffice."""
        gene: Gene = self if not path else self.genes[path]
        for name in self.deltas[path]:
            if name not in gene.vocabulary:
                gene._declaration(name)
            problem = gene.vocabulary[name].problem(gene.total(name))
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
        twin._families, twin._memory, twin._totals = None, {}, {}
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
