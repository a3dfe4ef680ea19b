"""A gene tree as text: every gene, its values, and where each part of a sum comes from."""

import textwrap

from genenet.gene import Gene
from genenet.hyperparameters import Categorical, Hyperparameter
from genenet.root import Root

WIDTH = 118


def _amount(delta: float) -> str:
    return f"{delta:g}"


def _describe(gene: Gene, declaration: Hyperparameter, *, short: bool) -> str | None:
    """`n_features 48 = 64 - 16 (decode)`, or None where `short` leaves it out."""
    name = declaration.name
    value = gene.value(name)
    shown = value if isinstance(value, str) else _amount(value)
    parts = gene.parts(name)
    if len(parts) == 1:
        return f"{name} {shown}" if not (short and gene.path) else None
    first = declaration.value(parts[0][1]) if isinstance(declaration, Categorical) else _amount(parts[0][1])
    rest = "".join(f" {'-' if d < 0 else '+'} {_amount(abs(d))} ({path})" for path, d in parts[1:])
    return f"{name} {shown} = {first}{rest}"


def _lines(gene: Gene, indent: str, below: str, *, short: bool) -> list[str]:
    declarations = gene.vocabulary.values() if not gene.path else gene.reads
    described = [_describe(gene, declaration, short=short) for declaration in declarations]
    text = ", ".join(entry for entry in described if entry)
    head = f"{indent}{gene.name or gene.root.kind}"
    note = gene.note if hasattr(type(gene), "note") else ""
    head += f"  {note}" if note else ""
    if not text:
        lines = [head]
    elif len(head) + 2 + len(text) <= WIDTH:
        lines = [f"{head}  {text}"]
    else:
        hang = below + "     "
        lines = [head, *textwrap.wrap(text, WIDTH, initial_indent=hang, subsequent_indent=hang)]
    children = gene.children
    for index, child in enumerate(children):
        last = index == len(children) - 1
        lines += _lines(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), short=short)
    return lines


def tree_text(root: Root, *, short: bool = False) -> str:
    """Draw a tree; dormant deltas are listed at the end."""
    lines = _lines(root, "", "", short=short)
    dormant = root.dormant
    if dormant:
        lines.append("dormant (kept for genes that do not exist with these values; drop_dormant() forgets them):")
        for path in sorted(dormant):
            changes = ", ".join(f"{name} {delta:+g}" for name, delta in dormant[path].items())
            lines.append(f"   {path}: {changes}")
    return "\n".join(lines)
