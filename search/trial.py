"""One network tried: a folder that says at any time what was tried, how it stands, and how it ended.

| state | what it means | what comes next |
|---|---|---|
| waiting | nobody began | the next worker takes it |
| running | a worker holds a lease | |
| stopped | its worker was told to stop: preempted, out of time, Ctrl-C | another continues at its checkpoint |
| lost | its worker gave no sign of life for too long | another continues; given up if it does not get on |
| retried | its attempt failed in a way that may not come again | another begins anew; memory: with half the batch |
| done, failed, pruned, rejected | settled | |
"""

import contextlib
import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

from genenet.folder import read_json, remove, write_json
from genenet.genes import NetworkRoot, from_dict
from genenet.network import Network
from search.lease import Attempt, attempts

# A trial is given up after so many attempts in a row that were lost without a step forward: it is the trial that
# kills, by taking all memory, say.
MAX_LOST = 3

# And after so many that failed, where a failure may not come again.
MAX_FAILED = 2

# What state.json says of a blueprint, so that tables of thousands need not read these.
FACTS = ("n_parameters", "lpes", "lpds")

SETTLED = ("done", "failed", "pruned", "rejected")


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

    def standing(self, lease_s: float) -> str:
        """Its state, as the table above has them."""
        state = str(self.state["state"])
        if state in SETTLED or not (tried := self.attempts):
            return state
        ending = tried[-1].ending
        if ending is None:
            return "running" if tried[-1].is_alive(lease_s) else "lost"
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
        """Give an attempt the files of the one before, if there is one that is to be continued."""
        earlier = [other for other in self.attempts if other.number < attempt.number]
        if not earlier or (earlier[-1].ending or {}).get("how") == "retried":
            return
        for _ in range(3):  # a worker that only seemed dead may be writing there
            # Links, not copies: arrays are large, and nothing is ever written into a file that is there.
            with contextlib.suppress(FileNotFoundError, shutil.Error):
                shutil.copytree(earlier[-1].work, attempt.work, copy_function=_link, dirs_exist_ok=True)
                break

    def keep(self, attempt: Attempt) -> None:
        """Put what an attempt that is done made in the trial's folder, and remove what all others left."""
        for name in ("network", "history.csv"):
            if (attempt.work / name).exists() and not (self.folder / name).exists():
                (attempt.work / name).rename(self.folder / name)
        for other in self.attempts:
            remove(other.work)

    def describe(self, lease_s: float) -> dict[str, Any]:
        """State and blueprint in one row, for tables."""
        state = self.state
        facts = {**(facts_of(self.blueprint) if "n_parameters" not in state else {}), **state}
        return {
            "trial": self.number,
            "state": self.standing(lease_s),
            "label": state.get("label", ""),
            "adjusted_rand": state.get("adjusted_rand"),
            "mean_iou": state.get("mean_iou"),
            "accuracy": state.get("accuracy"),
            **{name: facts[name] for name in FACTS},
            "steps": state.get("steps"),
            "seconds": state.get("seconds"),
            "reason": state.get("reason", ""),
        }


def _link(source: str, target: str) -> None:
    """One file under two names, or a copy where the file system knows no links."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copy2(source, target)


def facts_of(net: NetworkRoot) -> dict[str, Any]:
    """What tables show of a blueprint."""
    layers = net.layers_per_stack()
    return {
        "n_parameters": net.n_parameters,
        "lpes": ",".join(map(str, layers.encode)),
        "lpds": ",".join(map(str, layers.decode)),
    }


def known_of(state: dict[str, Any]) -> dict[str, Any]:
    """What a trial's state goes on saying whatever becomes of it."""
    return {key: value for key, value in state.items() if key in ("enqueued", "label", *FACTS)}


def counts(state: dict[str, Any]) -> bool:
    """Whether a trial counts towards the budget: it was drawn from the space, and not rejected."""
    return state["state"] != "rejected" and not state.get("enqueued")
