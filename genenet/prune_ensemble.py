"""Prune every member of an ensemble, and choose again."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pruning
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import write_text
from genenet.network import Network
from genenet.prune_network import REPORT, PrunedNetwork, PruningSettings, prune_network
from genenet.settings import TrainingSettings
from genenet.wording import plural

logger = logging.getLogger(__name__)

# A pruned member whose validation adjusted Rand score falls by more than this is replaced by the member as it was.
MOST_LOST = 0.05


@dataclasses.dataclass(frozen=True)
class PrunedEnsemble:
    """What came out.

    Attributes:
        ensemble: Of smaller networks, chosen again; among them, as they were, those that pruning broke.
        broken: Folders of members that pruning broke.
        report: The members side by side, before and after.
        together: All members together, round by round, and the ensemble that was chosen; their work and time one after
            the other.
    """

    ensemble: Ensemble
    broken: tuple[Path, ...]
    report: pruning.Report
    together: pruning.Report

    @property
    def before(self) -> float:
        """The validation adjusted Rand score of the ensemble as it was."""
        return self.together.rows[0].score or 0.0

    @property
    def after(self) -> float:
        """That of the new one."""
        return self.together.rows[-1].score or 0.0

    def summary(self) -> str:
        """Scores before and after, in a line."""
        said = f"validation adjusted Rand score {self.before:.4f} before, {self.after:.4f} after"
        if self.broken:
            said += f"; pruning broke {plural(len(self.broken), 'member')}, which stayed as before"
        return f"{said}; {plural(len(self.ensemble.members), 'member')}"


def prune_ensemble(
    ensemble: Ensemble,
    data: Dataset,
    folder: Path | str,
    settings: PruningSettings,
    training: TrainingSettings | None = None,
    *,
    rounds: int = 1,
    most_lost: float = MOST_LOST,
    progress: Callable[[int, int], None] | None = None,
) -> PrunedEnsemble:
    """Prune every member, put back those that pruning broke, and choose the best n of what there is then.

    Args:
        ensemble: It stays as it is.
        data: As for `prune_network`.
        folder: Where the smaller networks (`networks/0`, `networks/1`, ...), `members.json` and the table go.
        settings: As for `prune_network`.
        training: As for `prune_network`.
        rounds: As for `prune_network`.
        most_lost: How much validation adjusted Rand score a member may lose.
        progress: Called with members done and members in all.

    Raises:
        InputError: As for `prune_network`.
    """
    folder = Path(folder)
    if alone := [member for member in ensemble.members if not member.gives_classes]:
        raise InputError(f"{alone[0].folder} gives distances only; prune such ensembles by `genenet instances prune`")
    if folder.exists() and not (folder / "networks").exists():
        raise InputError(f"{folder} exists; choose another folder, or ask to overwrite it (--overwrite)")
    kept: list[Network] = []
    broken: list[Path] = []
    pruned: list[PrunedNetwork] = []
    for index, member in enumerate(ensemble.members):
        done = prune_network(member, data, folder / "networks" / str(index), settings, training, rounds=rounds)
        pruned.append(done)
        lost = (done.report.rows[0].score or 0.0) - (done.report.rows[-1].score or 0.0)
        if lost > most_lost:
            broken.append(member.folder)
            logger.info("%s lost %.3f by pruning; it stays as it was", member.folder, lost)
        kept.append(member if lost > most_lost else done.network)
        if progress is not None:
            progress(index + 1, len(ensemble.members))
    chosen = Ensemble.select(kept, data, vote=ensemble.vote)
    chosen.save(folder)
    rows = [
        dataclasses.replace(row, name=f"{index} {row.name}")
        for index, done in enumerate(pruned)
        for row in done.report.rows
    ]
    found, together = pruning.Report(tuple(rows)), _together(pruned, chosen, data)
    together.to_csv(folder / "ensemble.csv")
    write_text(folder / "pruning.txt", f"{found}\n\n{together}\n")
    found.to_csv(folder / REPORT)
    return PrunedEnsemble(chosen, tuple(broken), found, together)


def _together(pruned: Sequence[PrunedNetwork], chosen: Ensemble, data: Dataset) -> pruning.Report:
    """All members before, after every round, and those that were chosen in the end."""
    ways = [
        (row.name, Ensemble(tuple(done.stages[place] for done in pruned), chosen.vote))
        for place, row in enumerate(pruned[0].report.rows)
    ]
    costs = {network.folder: row for done in pruned for network, row in zip(done.stages, done.report.rows, strict=True)}
    rows: list[pruning.Row] = []
    for name, ensemble in [*ways, ("chosen", chosen)]:
        parts = [costs[member.folder] for member in ensemble.members]
        rows.append(pruning.Row.together(name, parts, rows[0] if rows else None, ensemble.score(data).adjusted_rand))
    return pruning.Report(tuple(rows))
