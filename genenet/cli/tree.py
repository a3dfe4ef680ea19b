"""`genenet tree`: print a blueprint."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genenet.cli.options import Overwrite
from genenet.cli.output import say, say_json

if TYPE_CHECKING:
    from genenet.genes import NetworkRoot


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(tree)


def open_blueprint(path: Path | str) -> "NetworkRoot":
    """A gene tree from a blueprint file, or from the folder of a network or a trial."""
    from genenet.folder import read_json
    from genenet.genes import from_dict

    path = Path(path)
    return from_dict(read_json(path / "blueprint.json" if path.is_dir() else path))


def make_preset(name: str, n_classes: int, n_channels: int) -> "NetworkRoot":
    """A preset by name.

    Raises:
        InputError: There is none of that name.
    """
    from genenet.errors import InputError
    from genenet.genes import ROOTS

    if name not in ROOTS:
        raise InputError(f"a preset is one of {', '.join(ROOTS)}, but got {name!r}")
    return ROOTS[name](n_classes, n_channels)


def set_all(net: "NetworkRoot", entries: list[str]) -> None:
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
        Path | None, typer.Argument(help="A blueprint.json, or the folder of a network or trial.")
    ] = None,
    set_values: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: name=value, or path/name=value. May be repeated.")
    ] = None,
    preset: Annotated[str, typer.Option(help="The kind of network where no blueprint is given.")] = "UNet",
    n_classes: Annotated[int, typer.Option("--classes", help="Of a preset.")] = 2,
    n_channels: Annotated[int, typer.Option("--channels", help="Of a preset.")] = 1,
    short: Annotated[bool, typer.Option("--short", help="Only values that differ from the root's.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the blueprint to a file instead.")] = None,
    overwrite: Overwrite = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it into a file instead: .svg, .png or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the blueprint as JSON.")] = False,
) -> None:
    """Print or draw a blueprint: every gene, its values, and where they come from."""
    from genenet.errors import InputError
    from genenet.folder import write_json

    net = open_blueprint(blueprint) if blueprint is not None else make_preset(preset, n_classes, n_channels)
    set_all(net, set_values or [])
    if plot is not None:
        if plot.exists() and not overwrite:
            raise InputError(f"{plot} exists; choose another name, or ask to overwrite it (--overwrite)")
        net.plot(plot)
        say(f"wrote {plot}")
    if output is not None:
        if output.exists() and not overwrite:
            raise InputError(f"{output} exists; choose another name, or ask to overwrite it (--overwrite)")
        write_json(output, net.to_dict())
        say(f"wrote {output}")
    if plot is not None or output is not None:
        return
    if as_json:
        say_json(net.to_dict())
        return
    window, plan = net.window_shape(), net.plan_layers()
    say(net.tree(short=short))
    say(f"\nparameters      {net.n_parameters:,}")
    axes = "(y, x)" if net.n_dims == 2 else "(z, y, x)"
    say(f"window          {window.input} -> {window.output} voxels {axes}")
    say(f"total stride    {plan.total_stride}, context {plan.halo()}")
    say(f"LPES / LPDS     {net.layers_per_stack()}")
