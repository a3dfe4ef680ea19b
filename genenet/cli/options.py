"""Options that several verbs have."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
StudyFolder = Annotated[Path, typer.Argument(help="The study's folder.")]
TrialHours = Annotated[float | None, typer.Option(help="Begin no trial after so many hours of work, all added up.")]
TotalHours = Annotated[float | None, typer.Option(help="Begin no trial so many hours after the first.")]
