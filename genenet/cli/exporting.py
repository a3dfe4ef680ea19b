"""`genenet export`: networks for programs without Keras."""

from pathlib import Path
from typing import Annotated

import typer

from genenet.cli.options import Overwrite
from genenet.cli.output import say
from genenet.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(export)


def export(
    network: Annotated[Path, typer.Argument(help="The folder of a network.")],
    output: Annotated[Path, typer.Argument(help=".onnx, or .xml for OpenVINO.")],
    precision: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    window: Annotated[int | None, typer.Option(help="Its side, in voxels; the training window if left out.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a network as ONNX or OpenVINO, and compare it with Keras first."""
    from genenet.device import import_keras

    if output.exists() and not overwrite:
        raise InputError(f"{output} exists; choose another name, or replace it (--overwrite)")
    import_keras()
    from genenet.export import export_network

    done = export_network(network, output, precision=precision, window=window)
    sides = " to ".join("x".join(map(str, side)) for side in (done.window, done.core))
    say(f"wrote {done.path}: {sides}; differs from Keras by {done.apart:.1g}, {done.agreement:.2%} same classes")
