"""The blueprints that a search may try: a range per hyperparameter and per level of the gene tree."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genenet.errors import InputError
from genenet.gene import Gene
from genenet.genes import NetworkRoot, from_dict
from genenet.hyperparameters import Categorical, Hyperparameter, Integer
from genenet.wording import known_instead


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both allowed."""

    low: float
    high: float

    def __post_init__(self) -> None:
        for value in (self.low, self.high):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"a range needs two numbers, but got {value!r}")
        if self.low > self.high:
            raise InputError(f"a range needs low <= high, but got [{self.low}, {self.high}]")


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
    """One of several options, by name."""

    options: tuple[str, ...]

    def __init__(self, *options: str) -> None:
        if not options:
            raise InputError("a choice needs at least one option")
        object.__setattr__(self, "options", tuple(options))


@dataclasses.dataclass(frozen=True, init=False)
class Levels:
    """One range per level of the tree: the root's value first, then deltas that deeper genes may add.

    Levels without an entry, and those that are None, add nothing.
    """

    levels: tuple[Range | Choice | None, ...]

    def __init__(self, *levels: Range | Choice | None) -> None:
        if not levels:
            raise InputError("levels need at least one range, the root's")
        object.__setattr__(self, "levels", tuple(levels))


class Whole(NamedTuple):
    """Whole numbers `low`, `low + step`, ... up to `high`: what a sampler draws from."""

    low: int
    high: int
    step: int = 1


# What one draw is made from: whole numbers, real numbers, or options.
Domain = Whole | Range | Choice

# Gives a value of a domain for a parameter's name.
Draw = Callable[[str, Domain], Any]


# What a gene adds that adds nothing.
NOTHING: dict[str, float] = {}


def drawing(rng: np.random.Generator) -> Draw:
    """Draw uniformly with a generator."""

    def draw(name: str, domain: Domain) -> Any:
        if isinstance(domain, Choice):
            return domain.options[int(rng.random() * len(domain.options))]
        if isinstance(domain, Whole):
            return domain.low + domain.step * int(rng.random() * ((domain.high - domain.low) // domain.step + 1))
        return domain.low + rng.random() * (domain.high - domain.low)

    return draw


class Space:
    """Blueprints around a base.

    Args:
        base: The blueprint to start from; what no range names stays as it is.
        ranges: By hyperparameter: a `Range` or `Choice` of the root's values, or `Levels`.
        deviation: The chance, 0 to 1, that a gene adds anything at all, by level below the root; deeper levels have the
            last one. Always if left out.

    Raises:
        InputError: An unknown hyperparameter, or a root range outside of its bounds.

    Example:
        >>> import genenet as gn
        >>> space = Space(gn.UNet(n_classes=2), {"n_scales": Range(2, 4), "n_convs": Levels(Range(1, 3), Range(-1, 1))})
        >>> space.sample(np.random.default_rng(0)).n_scales in (2, 3, 4)
        True
    """

    def __init__(
        self,
        base: NetworkRoot,
        ranges: Mapping[str, Range | Choice | Levels],
        *,
        deviation: Sequence[float] = (),
    ) -> None:
        self.base: NetworkRoot = base.copy()  # type: ignore[assignment]
        self.deviation = tuple(deviation)
        if any(isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 <= c <= 1 for c in self.deviation):
            raise InputError(f"`deviation` must be chances from 0 to 1, one per level, but got {list(deviation)}")
        self.levels: dict[str, tuple[Range | Choice | None, ...]] = {}
        self._entries: dict[tuple[type[Gene], int], list[tuple[str, Hyperparameter, Range | Choice]]] = {}
        self._domains: dict[tuple[str, int, float], Domain | None] = {}
        for name, entry in ranges.items():
            if name not in base.vocabulary:
                raise InputError(
                    f"the space names `{name}`, which {base.kind} has not; {known_instead(name, base.vocabulary)}"
                )
            levels = entry.levels if isinstance(entry, Levels) else (entry,)
            self.levels[name] = levels
            _check(base.vocabulary[name], levels)

    def sample(self, draw: Draw | np.random.Generator) -> NetworkRoot:
        """Draw a blueprint, level by level from the root.

        A delta that would leave its hyperparameter's bounds is drawn from the part of its range that does not;
        where nothing of the range is left, the gene adds nothing.

        Args:
            draw: A generator, or a function that gives a value for a parameter's name and domain. Names are
                `n_features` at the root, `n_features@encode/stack0` below.

        Returns:
            A blueprint whose values lie within their bounds; whether its window fits is not looked at.
        """
        if isinstance(draw, np.random.Generator):
            draw = drawing(draw)
        net: NetworkRoot = self.base.copy()  # type: ignore[assignment]

        def choose(gene: Gene) -> dict[str, float]:
            entries = self.entries(gene)
            if not entries:
                return NOTHING
            depth = gene.depth
            if depth and not self._deviates(gene, draw):
                return NOTHING
            if not depth:
                return {
                    name: declaration.total(draw(name, _root_domain(declaration, entry)))
                    for name, declaration, entry in entries
                }
            totals, own, chosen = net.totals(gene), net.deltas.get(gene.path, {}), {}
            for name, declaration, entry in entries:
                key = name, depth, totals.get(name, 0)
                if key not in self._domains:
                    self._domains[key] = _delta_domain(declaration, entry, key[2])
                domain = self._domains[key]
                if domain is not None:
                    chosen[name] = own.get(name, 0) + draw(f"{name}@{gene.path}", domain)
            return chosen

        net.choose(choose)
        return net

    def entries(self, gene: Gene) -> list[tuple[str, Hyperparameter, Range | Choice]]:
        """What may change at a gene: names, declarations and ranges of its level."""
        key = type(gene), len(gene.lineage) - 1
        if key not in self._entries:
            found = [
                (name, gene.vocabulary[name], levels[gene.depth] if gene.depth < len(levels) else None)
                for name, levels in self.levels.items()
                if name in gene.vocabulary
            ]
            self._entries[key] = [(name, known, entry) for name, known, entry in found if entry is not None]
        return self._entries[key]

    def _deviates(self, gene: Gene, draw: Draw) -> bool:
        """Whether a gene below the root adds anything; nothing is drawn where it always does."""
        chance = self.deviation[min(gene.depth, len(self.deviation)) - 1] if self.deviation else 1.0
        return chance >= 1 or chance > 0 and draw(f"deviates@{gene.path}", Range(0.0, 1.0)) < chance

    def to_dict(self) -> dict[str, Any]:
        """As plain data for YAML: the base's blueprint, the ranges, and the chances to deviate."""
        return {
            "base": self.base.to_dict(),
            "ranges": {name: _write(Levels(*levels)) for name, levels in self.levels.items()},
            "deviation": list(self.deviation),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], base: NetworkRoot | None = None) -> "Space":
        """From plain data, as `to_dict` gives it; or the ranges alone, beside them perhaps `deviation`, with a base."""
        if not isinstance(content, Mapping):
            raise InputError(f"a space must map hyperparameters to ranges, but got {content!r}")
        deviation = content.get("deviation", [])
        if not isinstance(deviation, list):
            raise InputError(
                f"`deviation` must be a list of chances, one per level below the root, but got {deviation!r}"
            )
        ranges = content["ranges"] if base is None else {k: v for k, v in content.items() if k != "deviation"}
        base = from_dict(content["base"]) if base is None else base
        return cls(base, {name: read_range(entry, name) for name, entry in ranges.items()}, deviation=deviation)


def _check(declaration: Hyperparameter, levels: tuple[Range | Choice | None, ...]) -> None:
    """Types and root bounds; the rest is bounded while drawing."""
    name = declaration.name
    for depth, entry in enumerate(levels):
        if isinstance(entry, Choice):
            if not isinstance(declaration, Categorical) or depth:
                where = (
                    "is a number" if not isinstance(declaration, Categorical) else "adds whole numbers below the root"
                )
                raise InputError(f"`{name}` {where}; give a range, not a choice")
            for option in entry.options:
                declaration.total(option)
        elif isinstance(entry, Range):
            whole = not depth and isinstance(declaration, Integer) or depth and not _is_real(declaration)
            if whole and (entry.low != int(entry.low) or entry.high != int(entry.high)):
                raise InputError(f"`{name}` counts in whole numbers, but its range is [{entry.low}, {entry.high}]")
            if not depth and isinstance(declaration, Categorical):
                raise InputError(f"`{name}` must be a choice of {', '.join(declaration.options)} at the root")
            ends = (entry.low, entry.high) if not depth else ()
            for end in ends:
                problem = declaration.problem(end)
                if problem:
                    raise InputError(f"the space's range of `{name}`: {problem}")


def _is_real(declaration: Hyperparameter) -> bool:
    return not isinstance(declaration, (Integer, Categorical))


def _root_domain(declaration: Hyperparameter, entry: Range | Choice) -> Domain:
    if isinstance(entry, Range) and isinstance(declaration, Integer):
        return Whole(int(entry.low), int(entry.high), 2 if declaration.odd else 1)
    return entry


def _delta_domain(declaration: Hyperparameter, entry: Range | Choice, total: float) -> Domain | None:
    """The part of a delta's range that keeps the value within bounds; None if nothing but nothing is left."""
    delta_range = entry if isinstance(entry, Range) else Range(0, 0)
    low, high = delta_range.low, delta_range.high
    if isinstance(declaration, Categorical):
        return Whole(int(low), int(high))
    bounds: Any = declaration
    low, high = max(low, bounds.low - total), min(high, bounds.high - total)
    if _is_real(declaration):
        return Range(low, high) if low < high else None
    step = 2 if bounds.odd else 1
    low += low % step  # even deltas keep odd sizes odd
    high -= (high - low) % step
    return Whole(int(low), int(high), step) if low < high else None


def read_range(entry: Any, name: str) -> Range | Choice | Levels:
    """Read `{range: [8, 48]}`, `{choice: [max, strided]}` or `{levels: [...]}`.

    Raises:
        InputError: Anything else; names the hyperparameter.
    """
    if isinstance(entry, dict) and len(entry) == 1:
        (kind, values), *_ = entry.items()
        if kind == "range" and isinstance(values, list) and len(values) == 2:
            return Range(*values)
        if kind == "choice" and isinstance(values, list):
            return Choice(*map(str, values))
        if kind == "levels" and isinstance(values, list):
            return Levels(*(None if value is None else read_range(value, name) for value in values))  # type: ignore[arg-type]
    raise InputError(
        f"the space's entry for `{name}` must be {{range: [low, high]}}, {{choice: [...]}} or {{levels: [...]}}, "
        f"but got {entry!r}"
    )


def _write(entry: Range | Choice | Levels | None) -> Any:
    if entry is None:
        return None
    if isinstance(entry, Range):
        return {"range": [entry.low, entry.high]}
    if isinstance(entry, Choice):
        return {"choice": list(entry.options)}
    written = [_write(level) for level in entry.levels]
    return written[0] if len(written) == 1 else {"levels": written}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Blueprints beyond these are drawn again, not trained.

    Attributes:
        max_parameters: Trainable parameters.
        max_memory_gb: Estimated memory of one training step, in 2**30 bytes.
        max_multiply_adds: Per voxel of the output.
    """

    max_parameters: int | None = None
    max_memory_gb: float | None = None
    max_multiply_adds: float | None = None


def problem(net: NetworkRoot, limits: Limits, batch_size: int, room: tuple[int, ...] | None = None) -> str | None:
    """Why a blueprint should not be trained, or None.

    Args:
        net: The blueprint.
        limits: What it may cost.
        batch_size: Windows per step.
        room: Voxels `(z, y, x)` of the smallest training part, which must hold the window's output.
    """
    try:
        window = net.window_shape()
    except InputError as error:
        return str(error)
    room = None if room is None else room[-len(window.output) :]
    if room is not None and any(size > space for size, space in zip(window.output, room, strict=True)):
        return f"its window writes {window.output}, more than the training part's {room}"
    if limits.max_parameters is not None and net.n_parameters > limits.max_parameters:
        return f"{net.n_parameters:,} parameters are more than {limits.max_parameters:,}"
    if limits.max_memory_gb is None and limits.max_multiply_adds is None:
        return None
    cost = net.cost(window.input, batch_size)
    if limits.max_multiply_adds is not None and cost.n_multiply_adds_per_voxel > limits.max_multiply_adds:
        return (
            f"{cost.n_multiply_adds_per_voxel:,.0f} multiply-adds per voxel are more than "
            f"{limits.max_multiply_adds:,.0f}"
        )
    if limits.max_memory_gb is not None:
        memory = cost.training_bytes / 2**30
        if memory > limits.max_memory_gb:
            return f"a step would take some {memory:.1f} GB, more than {limits.max_memory_gb:g} GB"
    return None
