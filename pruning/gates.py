"""Where channels can be switched off, and what depends on them there."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import keras
import numpy as np

from pruning.channels import Channels
from pruning.graph import Graph, Step

LINEAR = ("Conv1D", "Conv2D", "Conv3D", "Dense")


class Gate(NamedTuple):
    """Where channels can be switched off.

    Attributes:
        step: The number of the call.
        channels: Of what it reads, or writes.
        at_output: Whether what it writes is switched, not what it reads.
        fill: What is there instead.
        linear: Whether candidates may take away their share of what the layer sums up.
    """

    step: int
    channels: Channels
    at_output: bool = False
    fill: float = 0.0
    linear: bool = False


def find_gates(graph: Graph, units: set[int], at_weights: bool) -> list[Gate]:
    """Where some units are read; or where they are made."""
    gates = []
    for number, step in enumerate(graph.steps):
        if not step.sums:
            continue
        channels = step.flow.outputs[0] if at_weights else step.channels[0]
        if channels is None or not units & set(graph.units_of(channels.labels).tolist()):
            continue
        if at_weights:
            activation = getattr(step.node.operation, "activation", None)
            zero = keras.ops.zeros((1,))
            fill = 0.0 if activation is None else float(keras.ops.convert_to_numpy(activation(zero))[0])
            gates.append(Gate(number, channels, True, fill))
        else:
            gates.append(Gate(number, channels))
    if at_weights:
        return gates
    behind = {gate.step: downstream(graph, {gate.step}) for gate in gates}
    return [
        gate._replace(
            linear=_is_linear(graph.steps[gate.step])
            and not any(gate.step in behind[other.step] for other in gates if other.step != gate.step)
        )
        for gate in gates
    ]


def _is_linear(step: Step) -> bool:
    layer = step.node.operation
    if type(layer).__name__ not in LINEAR or type(layer).__module__.partition(".")[0] != "keras":
        return False
    return getattr(layer, "groups", 1) == 1 and getattr(layer, "padding", "valid") != "causal"


def downstream(graph: Graph, first: set[int]) -> set[int]:
    """Some calls, and all that read what these make."""
    found, made = set(first), {value for number in first for value in graph.steps[number].writes}
    for number, step in enumerate(graph.steps):
        if number not in found and made & set(step.reads):
            found.add(number)
            made |= set(step.writes)
    return found


def needed_for(steps: Sequence[Step], values: Iterable[int]) -> list[Step]:
    """The calls that some values come from."""
    wanted, found = set(values), []
    for step in reversed(steps):
        if wanted & set(step.writes):
            wanted |= set(step.reads)
            found.append(step)
    return found[::-1]


class Places:
    """Where units lie among the channels of a gate.

    Attributes:
        widest: The most channels that one unit has there.
    """

    def __init__(self, by_unit: dict[int, np.ndarray], units: Sequence[int], n_channels: int) -> None:
        self._by_unit = by_unit
        self._units = units
        self._n_channels = n_channels
        self._none = np.zeros(0, int)
        self.widest = max((len(places) for places in by_unit.values()), default=1)

    def factors(self, units: Sequence[int]) -> np.ndarray:
        """1 for channels that stay and 0 for others, `(n_units, n_channels)`."""
        rows = np.ones((len(units), self._n_channels), np.float32)
        for row, unit in zip(rows, units, strict=True):
            row[self._by_unit.get(unit, self._none)] = 0
        return rows

    def shares(self, units: Sequence[int]) -> list[np.ndarray]:
        """Indices of channels that go, and 1 where an index counts, both `(n_units, widest)`."""
        indices = np.zeros((len(units), self.widest), np.int32)
        counts = np.zeros((len(units), self.widest), np.float32)
        for row, unit in enumerate(units):
            places = self._by_unit.get(unit, self._none)
            indices[row, : len(places)], counts[row, : len(places)] = places, 1
        return [indices, counts]

    def add(self, sums: np.ndarray, values: np.ndarray) -> None:
        """Add values of channels up by unit."""
        for row, unit in enumerate(self._units):
            sums[row] += values[self._by_unit.get(unit, self._none)].sum()


def places_of(graph: Graph, gate: Gate, units: Sequence[int]) -> Places:
    """Where some units lie at a gate."""
    owners = graph.units_of(gate.channels.labels)
    wanted = set(units)
    by_unit: dict[int, list[int]] = {}
    for place, owner in enumerate(owners.tolist()):
        if owner in wanted:
            by_unit.setdefault(owner, []).append(place)
    return Places({unit: np.array(found) for unit, found in by_unit.items()}, units, len(owners))
