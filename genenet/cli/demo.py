"""`genenet demo`: the whole workflow on a synthetic volume."""

from pathlib import Path
from typing import Annotated

import typer

from genenet.cli.output import say


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("genenet-demo"),
    trials: Annotated[int, typer.Option(help="Networks to draw.")] = 5,
    steps: Annotated[int, typer.Option(help="Optimizer steps per network.")] = 300,
) -> None:
    """Make a phantom, search small networks, combine them, segment an unseen volume, write a report."""
    from genenet.demo import run_demo

    for line in run_demo(folder, n_trials=trials, steps=steps):
        say(line)
