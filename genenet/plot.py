"""Draw a blueprint: its gene tree, and beside it the network that the tree builds."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genenet.errors import InputError
from genenet.plan import IMAGE, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genenet.genes import NetworkRoot

# What the picture measures in: a convolution's box, in inches, and the room around it.
BOX_WIDTH, BOX_HEIGHT, COLUMN, ROW, RISE = 0.5, 0.34, 0.72, 1.0, 0.4
BESIDE = 0.5  # how many rows lower a head lies that helps training only
LINE = 0.135
LETTER = 0.085  # of the title
# One colour per level of nesting, from the outermost in; colour-blind readers tell them apart by their lightness.
SHADES = ("#eef3f8", "#dbe6f1", "#c3d6e8")
INK, FAINT, ACCENT, HEAD_COLOR = "#22313f", "#7f8c99", "#c2571a", "#f7e3b5"
KINDS = {"skip": "#2e7d4f", "up": "#c2571a", "down": "#8c2f39", "link": "#7a4fa3", "branch": "#2e7d4f"}


@dataclasses.dataclass(frozen=True)
class Box:
    """Where a gene that computes is drawn, its middle in inches, y upwards."""

    path: str
    x: float
    y: float
    features: int
    size: tuple[int, ...]
    is_head: bool = False


def plot(net: "NetworkRoot", path: Path | str | None = None) -> "Figure":
    """Draw the gene tree beside the network: boxes nested by ancestry, edges between, features and sizes.

    Args:
        net: The blueprint.
        path: Where to write the picture too; `.svg`, `.png` or `.pdf`.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: The blueprint cannot be built, or the suffix is unknown.
    """
    from matplotlib.figure import Figure

    if path is not None and Path(path).suffix not in (".svg", ".png", ".pdf"):
        raise InputError(f"a picture is written as .svg, .png or .pdf, but got {path}")
    plan = net.plan_layers()
    boxes = place(net, plan)
    lines = list(describe(net))
    window = net.window_shape()
    times = ("x".join(map(str, side)) for side in (window.input, window.output))
    title = f"{net.kind}: {net.n_parameters:,} parameters, window {' to '.join(times)}"
    right = max(max(box.x for box in boxes.values()) + 1.1, LETTER * len(title))
    top = max(box.y for box in boxes.values()) + 1.3
    bottom = min(box.y for box in boxes.values()) - 0.8
    tree_width = 0.4 + 0.062 * max(len(text) + 2 * depth for depth, text, _ in lines)
    height = max(top - bottom, LINE * (len(lines) + 3), 2.5)
    figure = Figure(figsize=(tree_width + right + 0.6, height))
    share = tree_width / (tree_width + right + 0.6)
    tree_axes = figure.add_axes((0, 0, share, 1), xlim=(0, tree_width), ylim=(-height, 0))
    axes = figure.add_axes((share, 0, 1 - share, 1), xlim=(-0.6, right), ylim=(top - height, top))
    for each in (tree_axes, axes):
        each.set_axis_off()
    _draw_tree(tree_axes, lines)
    _draw_nests(axes, net, boxes)
    _draw_edges(axes, net, plan, boxes)
    for box in boxes.values():
        _draw_box(axes, box)
    axes.text(-0.5, top - 0.12, title, fontsize=9, color=INK, va="top", weight="bold")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def place(net: "NetworkRoot", plan: Plan) -> dict[str, Box]:
    """Give every gene that computes a place: along x by how much comes before it, along y by its scale."""
    sizes = plan.sizes(net.window_shape().input)
    heads = [gene.path for gene in net.walk() if gene.path in _head_paths(plan)]
    columns: dict[str, int] = {}
    boxes = {IMAGE: Box(IMAGE, 0.0, 0.0, net.n_channels, sizes[IMAGE])}
    depth: dict[str, int] = {IMAGE: 0}
    for name, layer in plan.layers.items():
        if name == IMAGE:
            continue
        before = max(depth[source] for source in layer.inputs)
        starts = layer.gene in plan.chain or layer.gene in heads
        if starts and layer.gene not in columns:
            columns[layer.gene] = before + 1
        depth[name] = max(before, columns.get(layer.gene, 0))
    scales = {path: plan.layers[plan.outputs[path]].grid[-1][0] for path in [*plan.chain, *heads]}
    second = _second(plan)
    helpers = {plan.layers[head.scores].gene for head in plan.heads if head.auxiliary}
    n_rows = 1 + max(_log2(scale) + _lane(path) for path, scale in scales.items())
    for path, scale in scales.items():
        layer = plan.layers[plan.outputs[path]]
        row: float = _log2(scale) + _lane(path) + (n_rows if second and path.startswith(second) else 0)
        if path in helpers and "/" in path:
            row = BESIDE - _origin(plan, plan.outputs[path], boxes, path).y / ROW
        elif path in ("distance", "distance/head"):
            row = row if second else 1.0  # below the head for classes
        elif path in heads:
            row = 0.0
        boxes[path] = Box(path, COLUMN * columns[path], -ROW * row, layer.n_channels, sizes[layer.name], path in heads)
    return boxes


def _head_paths(plan: Plan) -> set[str]:
    return {plan.layers[head.scores].gene for head in plan.heads}


def _second(plan: Plan) -> str:
    """Where in the tree a second decoder or network hangs, which is drawn below the first; empty if there is none."""
    place = "distance/"
    return place if any(path.startswith(place) for path in plan.chain) else ""


def _lane(path: str) -> int:
    """Parallel branches are drawn below each other."""
    part = next((part for part in path.split("/") if part.startswith("branch")), "")
    return int(part.removeprefix("branch")) if part else 0


def _log2(stride: float) -> int:
    return int(stride).bit_length() - 1


def describe(net: "NetworkRoot") -> Iterator[tuple[int, str, bool]]:
    """Give the tree as lines: depth, text, and whether the gene adds something; edges that add nothing are left out."""
    for gene in net.walk():
        own = net.deltas.get(gene.path, {}) if gene.path else {}
        if hasattr(gene, "source") and hasattr(gene, "merge") and not own:
            continue
        added = ", ".join(f"{name} {delta:+g}" for name, delta in own.items())
        name = gene.name or net.kind
        yield gene.depth, f"{name}  {added}" if added else name, bool(own)


def _draw_tree(axes: "Axes", lines: list[tuple[int, str, bool]]) -> None:
    last: dict[int, float] = {}
    for row, (depth, text, is_own) in enumerate(lines):
        y = -LINE * (row + 1.5)
        x = 0.15 + 0.16 * depth
        if depth:
            axes.plot([x - 0.11, x - 0.11, x - 0.02], [last[depth - 1] - 0.05, y, y], color=FAINT, linewidth=0.6)
        last[depth] = y
        color = ACCENT if is_own else INK
        axes.text(x, y, text, fontsize=7, va="center", color=color, weight="bold" if depth < 2 else "normal")


def _draw_nests(axes: "Axes", net: "NetworkRoot", boxes: dict[str, Box]) -> None:
    """Draw a frame around all that descends from a gene, for genes that have children that compute."""
    from matplotlib.patches import FancyBboxPatch

    for gene in net.walk():
        inside = [box for path, box in boxes.items() if gene.path and path.startswith(f"{gene.path}/")]
        if not inside:
            continue
        room = 0.13 * max(box.path.removeprefix(gene.path).count("/") for box in inside)
        left, right = min(b.x for b in inside) - BOX_WIDTH / 2 - room / 2, max(b.x for b in inside) + BOX_WIDTH / 2
        low, high = min(b.y for b in inside) - BOX_HEIGHT / 2 - room, max(b.y for b in inside) + BOX_HEIGHT / 2
        shade = SHADES[min(gene.depth - 1, len(SHADES) - 1)]
        axes.add_patch(
            FancyBboxPatch(
                (left, low), right - left + room / 2, high - low + room + 0.1, facecolor=shade, edgecolor="white",
                boxstyle="round,pad=0,rounding_size=0.06", linewidth=1, zorder=gene.depth,
            )
        )  # fmt: skip
        axes.text(left + 0.04, high + room + 0.08, gene.name, fontsize=6.5, color=FAINT, va="top", zorder=9)


def _draw_box(axes: "Axes", box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    color = "#ffffff" if not box.is_head else HEAD_COLOR
    axes.add_patch(
        FancyBboxPatch(
            (box.x - BOX_WIDTH / 2, box.y - BOX_HEIGHT / 2), BOX_WIDTH, BOX_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.04", facecolor=color, edgecolor=INK, linewidth=0.8, zorder=10,
        )
    )  # fmt: skip
    name = "image" if box.path == IMAGE else box.path.rpartition("/")[2]
    axes.text(box.x, box.y + 0.07, str(box.features), fontsize=8, ha="center", va="center", color=INK, zorder=11)
    axes.text(box.x, box.y - 0.085, name, fontsize=5, ha="center", va="center", color=FAINT, zorder=11)
    size = "x".join(map(str, box.size)) if len(set(box.size)) > 1 else f"{box.size[0]}" + "²³"[len(box.size) - 2]
    axes.text(box.x, box.y - BOX_HEIGHT / 2 - 0.02, size, fontsize=4.5, ha="center", va="top", color=FAINT, zorder=11)


def _draw_edges(axes: "Axes", net: "NetworkRoot", plan: Plan, boxes: dict[str, Box]) -> None:
    """An arrow from the box that an edge reads to the box that it feeds."""
    from matplotlib.patches import FancyArrowPatch

    for path, box in boxes.items():
        if path == IMAGE:
            continue
        gene = net[path]
        for edge in gene.children or [gene]:
            if edge is gene:
                read = plan.layers[_first(plan, path)].inputs[0]
            elif edge.path in plan.outputs:
                read = plan.outputs[edge.path]
            else:
                continue  # an edge that merges nothing
            start = _origin(plan, read, boxes, path)
            # Arrows that pass over other boxes rise above them, the longest ones highest.
            distance = math.hypot(box.x - start.x, box.y - start.y)
            is_far = box.x - start.x > 1.5 * COLUMN and box.y >= start.y - ROW
            rise = RISE if start.path != IMAGE else 2.2 * RISE
            axes.add_patch(
                FancyArrowPatch(
                    (start.x + BOX_WIDTH / 2, start.y), (box.x - BOX_WIDTH / 2, box.y),
                    connectionstyle=f"arc3,rad={-2 * rise / distance if is_far else 0}", arrowstyle="-|>",
                    mutation_scale=6, shrinkA=0, shrinkB=0, color=KINDS.get(edge.name.rstrip("0123456789"), INK),
                    linewidth=0.8, zorder=8,
                )
            )  # fmt: skip


def _first(plan: Plan, path: str) -> str:
    """The first layer of a gene."""
    return next(name for name, layer in plan.layers.items() if layer.gene == path)


def _origin(plan: Plan, name: str, boxes: dict[str, Box], target: str) -> Box:
    """The box from which a layer's values come, through layers that are drawn as part of an edge."""
    while True:
        layer = plan.layers[name]
        if layer.gene in boxes and layer.gene != target:
            return boxes[layer.gene]
        if name == IMAGE or not layer.inputs:
            return boxes[IMAGE]
        name = layer.inputs[0]
