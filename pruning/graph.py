"""Which channels of a model live and die together.

Every output channel of every layer has a label. Layers pass labels on, unite them (sums, products) or put them side by
side (concatenation); a convolution reads some and makes new ones. What a label is united with is a unit; a unit goes as
a whole or stays. Labels that reach an output, or a layer that mixes channels in ways that no rule knows, are protected.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

import pruning.rules_together  # noqa: F401  (it and what it imports register the rules of Keras)
from pruning.channels import Channels, Labels, Units
from pruning.errors import PruningError
from pruning.registry import Call, Configure, Flow, Weight, find_rule


@dataclasses.dataclass(frozen=True)
class Seen:
    """A layer that was met on the way through a model.

    Attributes:
        path: Its name, below the names of the models that hold it.
        layer: The layer or operation.
        inputs: Labels that it read, over all calls.
        makes: The labels that it makes, one per feature; None for layers that pass on what they read.
        weights: How its variables are cut, as its first call said.
        configure: As its first call said.
    """

    path: str
    layer: Any
    inputs: list[Labels]
    makes: Labels | None
    weights: tuple[Weight, ...]
    configure: Configure | None


class Step(NamedTuple):
    """One call of a layer; values are numbered in the order in which they are made.

    Attributes:
        path: The layer's name, below the names of the models that hold it.
        node: The call, as Keras recorded it.
        reads: The numbers of the values that it reads.
        writes: Of those that it makes.
        channels: Of what it reads, one by one; None where none can be removed.
        flow: What its rule gave.
    """

    path: str
    node: Any
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    channels: tuple[Channels | None, ...]
    flow: Flow

    @property
    def sums(self) -> bool:
        """Whether the layer sums over the channels that it reads, so that it makes new ones."""
        return any(weight.reads is not None for weight in self.flow.weights)


class Graph:
    """The channels of a functional or Sequential model, nested models and shared layers included.

    Args:
        model: A built `keras.Model` of functional or Sequential kind; it is not changed.

    Attributes:
        model: The model.
        units: Which labels are tied, and which have to stay.
        seen: The layers by `id`, in the order of the graph.
        given: What models within the model are called with at first, by `id`.
        steps: All calls in an order in which they can be run, models within the model followed.
        inputs: The numbers of the model's inputs.
        outputs: Of its outputs.

    Raises:
        PruningError: The model is subclassed or not built, so its graph cannot be read.

    Example:
        >>> image = keras.Input((8, 8, 1))
        >>> first = keras.layers.Conv2D(4, 3, name="first")(image)
        >>> model = keras.Model(image, keras.layers.Conv2D(2, 3, name="last")(first))
        >>> graph = Graph(model)
        >>> [len(graph.features(name)) for name in graph.prunable()]
        [4]
        >>> print(graph.explain("last"))
        last makes 2 channels; none can be removed: they reach the output last.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.units = Units()
        self.seen: dict[int, Seen] = {}
        self.given: dict[int, list[Channels | None]] = {}
        self.steps: list[Step] = []
        self._channels: list[Channels | None] = []
        self.inputs = self._number([None] * len(functional_graph(model).inputs))
        self.outputs = self._walk(model, self.inputs, "")
        for value, tensor in zip(self.outputs, functional_graph(model).outputs, strict=True):
            channels = self._channels[value]
            if channels is not None:
                name = tensor._keras_history.operation.name
                self.units.protect(channels.labels, f"they reach the output {name}")
        self._roots = self.units.all()

    def units_of(self, labels: Labels) -> np.ndarray:
        """The units of labels, one by one."""
        return np.asarray(self._roots[labels])

    def _number(self, channels: Sequence[Channels | None]) -> list[int]:
        """Numbers for new values."""
        first = len(self._channels)
        self._channels.extend(channels)
        return list(range(first, len(self._channels)))

    def _walk(self, model: Any, given: list[int], above: str) -> list[int]:
        """Follow values through a model; gives its outputs."""
        graph = functional_graph(model)
        known: dict[int, int] = {id(t): value for t, value in zip(graph.inputs, given, strict=True)}
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input or any(id(tensor) not in known for tensor in node.input_tensors):
                    continue
                inputs = [known[id(tensor)] for tensor in node.input_tensors]
                path = f"{above}{node.operation.name}"
                if isinstance(node.operation, keras.Model):
                    self.given.setdefault(id(node.operation), [self._channels[value] for value in inputs])
                    outputs = self._walk(node.operation, inputs, f"{path}/")
                else:
                    outputs = self._call(node, inputs, path)
                known |= {id(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)}
        return [known[id(tensor)] for tensor in graph.outputs]

    def _call(self, node: Any, reads: list[int], path: str) -> list[int]:
        layer = node.operation
        inputs = [self._channels[value] for value in reads]
        call = Call(
            layer,
            tuple(inputs),
            tuple(tensor.shape for tensor in node.input_tensors),
            tuple(tensor.shape for tensor in node.outputs),
            self.units,
            path,
            _has_constant(node),
        )
        known = find_rule(layer)
        if known is None:
            kind = type(layer).__name__
            flow = call.protect(f"is a {kind}, which no rule knows; `pruning.rule` adds one")
        else:
            flow = known(call)
        read = [channels.labels for channels in inputs if channels is not None]
        earlier = self.seen.get(id(layer))
        if earlier is None:
            makes = None
            if any(weight.reads is not None for weight in flow.weights) and flow.outputs[0] is not None:
                makes = flow.outputs[0].labels
            self.seen[id(layer)] = Seen(path, layer, read, makes, flow.weights, flow.configure)
        else:
            self._share(earlier, flow)
            earlier.inputs.extend(read)
        writes = self._number(flow.outputs)
        self.steps.append(Step(path, node, tuple(reads), tuple(writes), tuple(inputs), flow))
        return writes

    def _share(self, earlier: Seen, flow: Flow) -> None:
        """A layer that is called again reads and makes the same channels as at first."""
        before = {id(weight.variable): weight.axes for weight in earlier.weights}
        after = {id(weight.variable): weight.axes for weight in flow.weights}
        for key in before.keys() | after.keys():
            mine, other = before.get(key, {}), after.get(key, {})
            for axis in mine.keys() | other.keys():
                if axis in mine and axis in other:
                    self.units.unite(mine[axis], other[axis])
                else:
                    labels = mine[axis] if axis in mine else other[axis]
                    self.units.protect(labels, f"{earlier.path} is shared with a call whose channels have to stay")

    def layer(self, name: str) -> Seen:
        """A layer by its path, or by its name where only one has it.

        Raises:
            PruningError: None has it, or several.
        """
        found = [entry for entry in self.seen.values() if entry.path == name]
        found = found or [entry for entry in self.seen.values() if entry.path.rpartition("/")[2] == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise PruningError(f"several layers are called {name!r}; name one: {', '.join(e.path for e in found)}")
        raise PruningError(f"there is no layer {name!r} with channels; layers that make some are {self._makers()}")

    def _makers(self) -> str:
        names = [entry.path for entry in self.seen.values() if entry.makes is not None]
        return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "none"

    def features(self, name: str) -> Labels:
        """The labels of the channels that a layer makes, one per feature.

        Raises:
            PruningError: There is no such layer, or it makes none.
        """
        makes = self.layer(name).makes
        if makes is None:
            raise PruningError(f"{name} makes no channels of its own; layers that do are {self._makers()}")
        return makes

    def prunable(self) -> list[str]:
        """Paths of the layers that make channels of which at least one can be removed, in the order of the graph."""
        return [
            entry.path
            for entry in self.seen.values()
            if entry.makes is not None and any(self.units.reason(label) is None for label in entry.makes)
        ]

    def keeping(self, removed: Iterable[int]) -> Callable[[Labels], np.ndarray]:
        """A function from labels to whether each stays, when some units are removed."""
        alive = np.ones(len(self._roots), bool)
        alive[self._roots[np.array(list(removed), int)]] = False
        return lambda labels: np.asarray(alive[self._roots[labels]])

    def removed(self, keep: Mapping[str, Any]) -> set[int]:
        """The units that go when layers keep some of their channels.

        Args:
            keep: By layer: the indices of the channels that stay, or a row of booleans.

        Raises:
            PruningError: An unknown layer, a wrong index, no channel left, a channel that has to stay, or two layers
                whose channels are tied but that keep others.
        """
        gone: dict[int, str] = {}
        stay: dict[int, str] = {}
        for name, chosen in keep.items():
            labels = self.features(name)
            kept = as_mask(chosen, len(labels), name)
            for label, stays in zip(labels, kept, strict=True):
                unit, reason = self.units.unit(int(label)), self.units.reason(label)
                if not stays and reason is not None:
                    raise PruningError(f"channels of {name} cannot be removed: {reason}")
                (stay if stays else gone).setdefault(unit, name)
        for unit in gone.keys() & stay.keys():
            if gone[unit] == stay[unit]:
                raise PruningError(f"{gone[unit]} keeps some of several channels that are tied to each other: "
                                   f"{self.explain(gone[unit])}")  # fmt: skip
            raise PruningError(
                f"{gone[unit]} and {stay[unit]} are tied, but keep other channels; give one of them alone"
            )
        self._refuse_empty(set(gone))
        return set(gone)

    def _refuse_empty(self, gone: set[int]) -> None:
        """No layer may be left without channels."""
        stays = self.keeping(gone)
        for entry in self.seen.values():
            if entry.makes is not None and not stays(entry.makes).any():
                raise PruningError(f"{entry.path} would keep no channel; it must keep at least one")

    def explain(self, name: str) -> str:
        """Say in words what the channels of a layer are tied to."""
        labels = self.features(name)
        path = self.layer(name).path
        reasons = {reason: None for label in labels if (reason := self.units.reason(label)) is not None}
        n_free = sum(self.units.reason(label) is None for label in labels)
        how_many = "all" if n_free == len(labels) else str(n_free) if n_free else "none"
        text = f"{path} makes {len(labels)} channels; {how_many} can be removed"
        if reasons:
            text += f": {'; '.join(reasons)}"
        mine = {self.units.unit(int(label)) for label in labels}
        if len(mine) < len(labels):
            text += f". They come in {len(mine)} groups that stay or go as a whole"
        tied, cut, readers = [], [], []
        for entry in self.seen.values():
            makes = entry.makes
            if entry.path != path and makes is not None and self._touches(mine, [makes]):
                tied.append(entry.path)
            if not self._touches(mine, entry.inputs):
                continue
            if any(weight.reads is not None for weight in entry.weights):
                readers.append(entry.path)
            elif entry.weights:
                cut.append(entry.path)
        for what, names in (("are tied to those of", tied), ("are also cut in", cut), ("are read by", readers)):
            if names:
                text += f". They {what} {', '.join(names)}"
        return f"{text}."

    def _touches(self, units: set[int], rows: Iterable[Labels]) -> bool:
        return any(units & set(self.units_of(row).tolist()) for row in rows)


def functional_graph(model: Any) -> Any:
    """The functional graph of a model."""
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise PruningError(
                f"the Sequential model {model.name} is not built; call it once, or begin with keras.Input"
            )
        return model._functional
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        kind = type(model).__name__
        raise PruningError(
            f"{kind} is no functional or Sequential model, so its graph cannot be read; build one of these"
        )
    return model


def _has_constant(node: Any) -> bool:
    """Whether a call was given an array of more than one value that is no input."""
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return any(np.size(value) > 1 for value in arguments if isinstance(value, np.ndarray) or _is_tensor(value))


def _is_tensor(value: Any) -> bool:
    return keras.ops.is_tensor(value) or isinstance(value, keras.Variable)


def as_mask(chosen: Any, count: int, name: str) -> np.ndarray:
    """Which of so many channels stay, from indices or booleans.

    Raises:
        PruningError: A wrong length, or an index that does not exist.
    """
    values = np.asarray(chosen)
    if values.dtype == bool:
        if values.shape != (count,):
            raise PruningError(f"{name} has {count} channels, but its mask has shape {values.shape}")
        return values
    if values.ndim != 1 or values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= count):
        raise PruningError(f"{name} has channels 0 to {count - 1}, but is to keep {values.tolist()}")
    mask = np.zeros(count, bool)
    mask[values.astype(int)] = True
    return mask
