"""The vocabulary as a page: every preset and every hyperparameter, from the code.

python -m genenet.reference > docs/vocabulary.md
"""

import inspect
import sys
from collections.abc import Iterator

from genenet.gene import Gene
from genenet.genes import KINDS, PRESETS
from genenet.hyperparameters import Categorical, Hyperparameter

TITLE = """# Vocabulary

What networks are described by. This page is made by `python -m genenet.reference`; a test holds it against the code.

A gene stores deltas. The value of a hyperparameter at a gene is the sum of the deltas from the root down to it; for a
choice, the sum is an index into its options, clipped to them (docs/design.md, section 3).
"""

PICTURES = """`net.plot("net.png")` and `genenet tree --plot net.png` draw a blueprint: the gene tree on the left, with
what deviates from the genes above; the network beside it, boxes by ancestry, with features, names and sizes.

![The original U-Net: the gene tree, and the network it builds](images/unet.png)

![The hybrid 2D-3D network, whose prediction, features and image feed a small 3-D pyramid](images/hybrid.png)
"""

OWN = """## A gene of your own

A gene is a class with three things: the hyperparameters that it `reads`, `make_children` for the genes below it, and
`plan`, which adds its layers. `plan.add(operation, inputs, gene=self.path)` plans one of the operations of
`genenet.operations` and returns the layer's name; `plan.outputs[path]` is what other genes read by a gene's path, the
image by the empty path. A root names the gene among its `child_kinds` and makes it in `make_body`; `gn.register` lets
blueprints name the root. Everything else follows: values that add up, bounds, windows, halos, costs, pictures, search.
`examples/own_gene.py` does all of it.
"""


def first_line(kind: type) -> str:
    """The first sentence of a class's description."""
    return inspect.cleandoc(kind.__doc__ or "").split("\n")[0]


def times(shape: tuple[int, ...]) -> str:
    """Voxels per axis, as in 572x572."""
    return "x".join(map(str, shape))


def presets() -> Iterator[str]:
    """Rows of the table of presets: for two classes and one channel."""
    yield "| preset | what it is | after | parameters | window | gives | LPES / LPDS |"
    yield "|---|---|---|---|---|---|---|"
    for kind in PRESETS:
        net = kind(n_classes=2, n_channels=1)
        window = net.window_shape()
        cells = [
            f"`{kind.__name__}`",
            first_line(kind).rstrip("."),
            kind.paper,
            f"{net.n_parameters:,}",
            times(window.input),
            times(window.output),
            str(net.layers_per_stack()),
        ]
        yield f"| {' | '.join(cells)} |"


def kinds_of_genes() -> list[type[Gene]]:
    """Every kind that can stand below a root, in the order in which they are met."""
    found: dict[type[Gene], None] = {}

    def visit(kind: type[Gene]) -> None:
        for child in kind.child_kinds:
            if child not in found:
                found[child] = None
                visit(child)

    for root in KINDS:
        visit(root)
    return list(found)


def hyperparameters() -> dict[str, Hyperparameter]:
    """All declarations by name."""
    return {name: entry for kind in KINDS for name, entry in kind(n_classes=2).vocabulary.items()}


def readers(name: str) -> str:
    """The kinds of genes that read a hyperparameter."""
    kinds = [*kinds_of_genes(), *KINDS]
    reading = [kind.__name__ for kind in kinds if name in {entry.name for entry in kind.reads}]
    names = {kind.__name__ for kind in KINDS}
    roots = [reader for reader in reading if reader in names]
    below = [f"`{reader}`" for reader in reading if reader not in names]
    return ", ".join([*below, *(["the root"] if roots else [])])


def page() -> str:
    """The whole page, Markdown."""
    lines = [TITLE, "## Presets", "", "Counted for two classes and one channel.", "", *presets(), "", PICTURES]
    lines += ["## Genes", "", "| gene | what it is |", "|---|---|"]
    lines += [f"| `{kind.__name__}` | {first_line(kind)} |" for kind in kinds_of_genes()]
    lines += ["", "## Hyperparameters", "", "| name | values | default | read by | meaning |", "|---|---|---|---|---|"]
    for name, entry in sorted(hyperparameters().items()):
        values = entry.range() if isinstance(entry, Categorical) else f"{entry.range()} {entry.unit}".strip()
        default = entry.default  # type: ignore[attr-defined]
        lines.append(f"| `{name}` | {values} | {default} | {readers(name)} | {entry.meaning} |")
    return "\n".join([*lines, "", OWN])


if __name__ == "__main__":
    sys.stdout.write(page())
