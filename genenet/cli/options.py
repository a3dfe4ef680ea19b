"""Options that several verbs have."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
