"""One network tried: a folder that says at any time what was tried, how it stands, and how it ended."""

import dataclasses
import os
import platform
import time
from pathlib import Path
from typing import Any

import filelock

from genenet.folder import read_json, write_json
from genenet.genes import NetworkRoot, from_dict
from genenet.network import Network

# A trial whose process was killed this often is given up: it is the trial that kills, by taking all memory, say.
MAX_ATTEMPTS = 3


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

    def lock(self) -> filelock.BaseFileLock:
        """Held by the process that works on the trial; the system frees it when that process ends, however it ends."""
        return filelock.FileLock(self.folder / "lock")

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
    def attempts(self) -> int:
        """How often a process began to work on it."""
        path = self.folder / "attempt.json"
        return int(read_json(path)["attempt"]) if path.exists() else 0

    def begin_attempt(self) -> int:
        """Count one more attempt."""
        attempt = self.attempts + 1
        entry = {"attempt": attempt, "pid": os.getpid(), "host": platform.node(), "time": round(time.time(), 1)}
        write_json(self.folder / "attempt.json", entry)
        return attempt

    def is_held(self) -> bool:
        """Whether a process works on it now."""
        lock = self.lock()
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
        return False

    def describe(self) -> dict[str, Any]:
        """State and blueprint in one row, for tables."""
        state, net = self.state, self.blueprint
        shown = state["state"]
        if shown == "running" and not self.is_held():
            shown = "interrupted"
        layers = net.layers_per_stack()
        return {
            "trial": self.number,
            "state": shown,
            "label": state.get("label", ""),
            "adjusted_rand": state.get("adjusted_rand"),
            "mean_iou": state.get("mean_iou"),
            "accuracy": state.get("accuracy"),
            "n_parameters": net.n_parameters,
            "lpes": ",".join(map(str, layers.encode)),
            "lpds": ",".join(map(str, layers.decode)),
            "steps": state.get("steps"),
            "seconds": state.get("seconds"),
            "reason": state.get("reason", ""),
        }
