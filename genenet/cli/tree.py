"""`genenet tree`: print a blueprint."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genenet.cli.output import say, say_json

if TYPE_CHECKING:
    from genenet.genes import EncoderDecoder


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(tree)


def open_blueprint(path: Path | str) -> "EncoderDecoder":
    """A gene tree from a blueprint file, or from the folder of a network or a trial."""
    from genenet.folder import read_json
    from genenet.genes import from_dict

    path = Path(path)
    return from_dict(read_json(path / "blueprint.json" if path.is_dir() else path))


def set_all(net: "EncoderDecoder", entries: list[str]) -> None:
    """Apply `n_scales=3`, `decode/n_features=24` and the like to a gene tree, the root's first.

    Raises:
        InputError: No `=`, no such gene or hyperparameter, or a value out of bounds.
    """
    from genenet.errors import InputError

    values: dict[str, dict[str, Any]] = {}
    for entry in entries:
        where, equals, text = entry.partition("=")
        path, _, name = where.rpartition("/")
        if not equals:
            raise InputError(f"write hyperparameters as name=value or path/name=value, but got {entry!r}")
        mine = values.setdefault(path, {})
        try:
            mine[name] = json.loads(text)
        except ValueError:
            mine[name] = text
    for path in sorted(values):
        try:
            gene = net[path] if path else net
        except KeyError as error:
            raise InputError(f"{error.args[0]}; so `--set {path}/...` cannot be done") from None
        gene.set(**values[path])


def tree(
    blueprint: Annotated[
        Path | None, typer.Argument(help="A blueprint.json, or the folder of a network or trial; the original U-Net.")
    ] = None,
    set_values: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: name=value, or path/name=value. May be repeated.")
    ] = None,
    n_classes: Annotated[int, typer.Option("--classes", help="Of the original U-Net.")] = 2,
    short: Annotated[bool, typer.Option("--short", help="Only values that differ from the root's.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the blueprint to a file instead.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the blueprint as JSON.")] = False,
) -> None:
    """Print a blueprint: every gene, its values, and where they come from."""
    from genenet.errors import InputError
    from genenet.folder import write_json
    from genenet.genes import UNet

    net = open_blueprint(blueprint) if blueprint is not None else UNet(n_classes=n_classes)
    set_all(net, set_values or [])
    if output is not None:
        if output.exists() and not overwrite:
            raise InputError(f"{output} exists; choose another name, or ask to overwrite it (--overwrite)")
        write_json(output, net.to_dict())
        say(f"wrote {output}")
        return
    if as_json:
        say_json(net.to_dict())
        return
    window, plan = net.window_shape(), net.plan_layers()
    say(net.tree(short=short))
    say(f"\nparameters      {net.n_parameters:,}")
    say(f"window          {window.input} -> {window.output} voxels (y, x)")
    say(f"total stride    {plan.total_stride}, context {plan.halo()}")
    say(f"LPES / LPDS     {net.layers_per_stack()}")
