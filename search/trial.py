"""One network tried: a folder that says at any time what was tried, how it stands, and how it ended.

| state | what it means | what comes next |
|---|---|---|
| waiting | nobody began | the next worker takes it |
| running | a worker holds a lease | |
| stopped | its worker was told to stop: preempted, out of time, Ctrl-C | another continues at its checkpoint |
| lost | its worker gave no sign of life for too long | another continues; given up if it does not get on |
| retried | its attempt failed in a way that may not come again | another begins anew; memory: with half the batch |
| pruned | stopped early: others were better after as much training | |
| done, failed, rejected | settled | |
"""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from genenet.errors import InputError
from genenet.folder import is_full, read_json, remove, write_json, write_text
from genenet.genes import NetworkRoot, from_dict
from genenet.network import Network
from search.lease import CHECKPOINT, Attempt, attempts

# A trial is given up after so many attempts in a row that were lost without a step forward: it is the trial that
# kills, by taking all memory, say.
MAX_LOST = 3

# And after so many that failed, where a failure may not come again.
MAX_FAILED = 2

# What state.json says of a blueprint, so that tables of thousands need not read these.
FACTS = ("n_parameters", "lpes", "lpds", "learning_rate", "window")

# What a person would find to correct in a million voxels of the validation part: connected regions, and voxels.
ERRORS, WRONG = "connected_errors_per_megavoxel", "wrong_voxels_per_megavoxel"

# What it says of a network that was trained, where the study's objectives ask for it.
EXTRAS = (
    ERRORS,
    WRONG,
    "correction_min_per_megavoxel",
    "aggregated_jaccard",
    "pq",
    "latency_s_per_megavoxel",
    "n_multiply_adds_per_voxel",
    "training_bytes",
    "ensemble_aware",
    "ensemble_gain",
    "ambiguity",
)

# What a trial's folder keeps of the attempt that settled it.
PROBABILITIES = "validation.npz"
KEPT = ("network", "history.csv", PROBABILITIES)

SETTLED = ("done", "failed", "pruned", "rejected")
OPEN = ("waiting", "running", "stopped", "lost", "retried")


@dataclasses.dataclass(frozen=True)
class Trial:
    """The files of one trial.

    Attributes:
        folder: `trials/0007` in the study's folder.
    """

    folder: Path

    @property
    def number(self) -> int:
        """The folder's name as a number."""
        return int(self.folder.name)

    @property
    def blueprint(self) -> NetworkRoot:
        """What is tried."""
        return from_dict(read_json(self.folder / "blueprint.json"))

    @property
    def network_folder(self) -> Path:
        """Where the trained network goes."""
        return self.folder / "network"

    @property
    def log(self) -> Path:
        """What happened, for people."""
        return self.folder / "log.txt"

    def network(self) -> Network:
        """The trained network."""
        return Network.open(self.network_folder)

    @property
    def state(self) -> dict[str, Any]:
        """What state.json says: `state` (waiting, running, done, failed or rejected) and what belongs to it."""
        return read_json(self.folder / "state.json")

    def write_state(self, state: str, **details: Any) -> None:
        """Replace state.json in one step."""
        write_json(self.folder / "state.json", {"state": state, "time": round(time.time(), 1), **details})

    @property
    def is_settled(self) -> bool:
        """Whether nothing will change any more."""
        return self.state["state"] in SETTLED

    @property
    def attempts(self) -> list[Attempt]:
        """How often a worker began, first to last."""
        return attempts(self.folder)

    def standing(self, lease_s: float, now: float | None = None) -> str:
        """Its state, as the table above has them; `now` is the server's time."""
        state = str(self.state["state"])
        if state in SETTLED or not (tried := self.attempts):
            return state
        ending = tried[-1].ending
        if ending is None:
            return "running" if tried[-1].is_alive(lease_s, now) else "lost"
        return str(ending["how"])

    def reason_to_give_up(self) -> str | None:
        """Why nobody should try again, after an attempt that did not settle it."""
        endings = [attempt.ending or {} for attempt in self.attempts]
        last = endings[-MAX_LOST:]
        steps = [ending.get("step") for ending in last if ending.get("how") == "lost"]
        if len(steps) == MAX_LOST and steps[0] == steps[-1]:
            return f"its process was killed {MAX_LOST} times; does it take more memory than there is?"
        failures = [ending["reason"] for ending in endings if ending.get("how") == "retried"]
        return failures[-1] if len(failures) >= MAX_FAILED else None

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether an attempt did."""
        return any((attempt.ending or {}).get("cause") == "memory" for attempt in self.attempts)

    def carry_over(self, attempt: Attempt) -> None:
        """Give an attempt the last checkpoint, unless the trial is to be begun anew."""
        for earlier in reversed([other for other in self.attempts if other.number < attempt.number]):
            if (earlier.ending or {}).get("how") == "retried":
                return
            if (earlier.work / CHECKPOINT).exists():
                for _ in range(3):  # a worker that only seemed dead may be writing the next one there
                    with contextlib.suppress(FileNotFoundError):
                        _link_checkpoint(earlier.work, attempt.work)
                        return
                return

    def keep(self, attempt: Attempt) -> None:
        """Put what the last attempt made in the trial's folder, and remove what all left."""
        for name in KEPT:
            if (attempt.work / name).exists() and not (self.folder / name).exists():
                (attempt.work / name).rename(self.folder / name)
        for other in self.attempts:
            remove(other.work)

    @property
    def history(self) -> Path:
        """Where its validations are written down, while it is trained and afterwards."""
        kept = self.folder / "history.csv"
        tried = self.attempts
        return kept if kept.exists() or not tried else tried[-1].work / "history.csv"

    def worked_s(self) -> float:
        """How many seconds workers have spent on it, as far as signs of life tell."""
        return round(sum(attempt.worked_s for attempt in self.attempts), 1)

    def describe(self, lease_s: float, now: float | None = None) -> dict[str, Any]:
        """State and blueprint in one row, for tables; of a training under way what is known of it."""
        state = self.state
        facts = {**({} if state.keys() >= set(FACTS) else facts_of(self.blueprint)), **state}
        standing = self.standing(lease_s, now)
        scores = state if standing in SETTLED else {**state, **self._progress()}
        return {
            "trial": self.number,
            "counts": counts(state),
            "state": standing,
            "label": state.get("label", ""),
            "adjusted_rand": scores.get("adjusted_rand"),
            "mean_iou": scores.get("mean_iou"),
            "accuracy": scores.get("accuracy"),
            **{name: facts[name] for name in FACTS},
            **{name: state[name] for name in EXTRAS if name in state},
            "steps": scores.get("steps"),
            "seconds": scores.get("seconds"),
            "worked_s": state["worked_s"] if "worked_s" in state else self.worked_s(),
            "place": self._place() if standing == "running" else "",
            "reason": state.get("reason", ""),
        }

    def _progress(self) -> dict[str, Any]:
        """The last validation, with the best score so far."""
        with contextlib.suppress(FileNotFoundError, KeyError, ValueError):
            with self.history.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            if rows:
                best = max(rows, key=lambda row: float(row["adjusted_rand"]))
                scores = {name: float(best[name]) for name in ("adjusted_rand", "mean_iou", "accuracy")}
                return {**scores, "steps": int(rows[-1]["step"]), "seconds": float(rows[-1]["seconds"])}
        return {}

    def _place(self) -> str:
        """Where it is worked on."""
        worker = self.attempts[-1].worker
        job = f" job {worker['job']}_{worker['task']}" if "job" in worker and "task" in worker else ""
        return f"{worker['host']}{job}"


def _link_checkpoint(source: Path, target: Path) -> None:
    """Link arrays and history, then write the checkpoint that names them, so that there is a whole one or none."""
    record = (source / CHECKPOINT).read_text(encoding="utf-8")
    for path in source.iterdir():
        if path.is_file() and path.name != CHECKPOINT and not path.name.startswith("."):
            _link(path, target / path.name)
    arrays = json.loads(record).get("arrays")
    if arrays is not None and not (target / arrays).exists():
        raise FileNotFoundError(arrays)
    write_text(target / CHECKPOINT, record)


def _link(source: Path, target: Path) -> None:
    """One file under two names, or a copy where the file system knows no links; arrays are large, and never changed."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError as error:
        if isinstance(error, FileNotFoundError) or is_full(error):
            raise
        shutil.copy2(source, target)


def facts_of(net: NetworkRoot) -> dict[str, Any]:
    """What tables show of a blueprint."""
    layers = net.layers_per_stack()
    window = ""
    with contextlib.suppress(InputError):
        window = "x".join(map(str, net.window_shape().input))
    return {
        "n_parameters": net.n_parameters,
        "lpes": ",".join(map(str, layers.encode)),
        "lpds": ",".join(map(str, layers.decode)),
        "learning_rate": float(f"{10**net.log10_learning_rate:.4g}"),
        "window": window,
    }


def known_of(state: dict[str, Any]) -> dict[str, Any]:
    """What a trial's state goes on saying whatever becomes of it."""
    return {key: value for key, value in state.items() if key in ("enqueued", "label", *FACTS)}


def counts(state: dict[str, Any]) -> bool:
    """Whether a trial counts towards the budget: it was drawn from the space, and not rejected."""
    return state["state"] != "rejected" and not state.get("enqueued")
