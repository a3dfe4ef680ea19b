"""Prune every member of an ensemble, and choose again."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pruning
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.folder import write_text
from genenet.network import Network
from genenet.prune_network import PruningSettings, prune_network
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
        before: The validation adjusted Rand score of the ensemble as it was.
        after: That of the new one.
    """

    ensemble: Ensemble
    broken: tuple[Path, ...]
    report: pruning.Report
    before: float
    after: float

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
    kept: list[Network] = []
    broken: list[Path] = []
    rows: list[pruning.Row] = []
    for index, member in enumerate(ensemble.members):
        done = prune_network(member, data, folder / "networks" / str(index), settings, training, rounds=rounds)
        lost = (done.report.rows[0].score or 0.0) - (done.report.rows[-1].score or 0.0)
        if lost > most_lost:
            broken.append(member.folder)
            logger.info("%s lost %.3f by pruning; it stays as it was", member.folder, lost)
        kept.append(member if lost > most_lost else done.network)
        rows += [dataclasses.replace(row, name=f"{index} {row.name}") for row in done.report.rows]
        if progress is not None:
            progress(index + 1, len(ensemble.members))
    chosen = Ensemble.select(kept, data, vote=ensemble.vote)
    chosen.save(folder)
    found = pruning.Report(tuple(rows))
    found.to_csv(folder / "pruning.csv")
    write_text(folder / "pruning.txt", f"{found}\n")
    before = ensemble.score(data).adjusted_rand
    return PrunedEnsemble(chosen, tuple(broken), found, before, chosen.score(data).adjusted_rand)
