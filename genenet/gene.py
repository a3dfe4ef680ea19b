"""Genes: the nodes of a blueprint, whose hyperparameters add up along the branches (Guay et al. 2018, 2.1)."""

import abc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from genenet.errors import InputError
from genenet.hyperparameters import Hyperparameter
from genenet.wording import known_instead

if TYPE_CHECKING:
    from genenet.plan import Plan
    from genenet.root import Root

Reads = tuple[Hyperparameter, ...]
Kinds = tuple[type["Gene"], ...]


class Gene(abc.ABC):
    """A node of the blueprint; it describes its part of the network and stores deltas.

    A value is read as an attribute: `gene.n_features`. A subclass names the hyperparameters it reads, the kinds of
    its children, makes the children from its values, and plans its layers.

    Attributes:
        vocabulary: What genes of this kind may store, by name: the hyperparameters that they or those below read.
        name: Its name among its siblings, `stack2`.
        path: Its address below the root, `encode/stack2`; empty for the root.
        root: The root gene of its tree.
    """

    reads: ClassVar[Reads] = ()
    child_kinds: ClassVar[Kinds] = ()
    vocabulary: ClassVar[dict[str, Hyperparameter]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.vocabulary = {entry.name: entry for entry in cls.reads}
        for child in cls.child_kinds:
            cls.vocabulary |= child.vocabulary

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

    def total(self, name: str) -> float:
        """The sum of this gene's delta and those of its ancestors."""
        return self.root.totals(self).get(name, 0)

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
        if name in self.vocabulary:
            return self.root.values(self)[name]
        where = self.__dict__.get("path", "") or "the root"
        raise AttributeError(f"{type(self).__name__} at {where} has no attribute or hyperparameter {name!r}")

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
