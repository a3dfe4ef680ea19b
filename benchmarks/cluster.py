"""Searches on the vnc data by a real Slurm of two nodes with one core each, started here; needs root.

    python -m benchmarks.cluster faults [FOLDER]
    python -m benchmarks.cluster samplers [FOLDER] [SEEDS]

`faults`: 12 random networks by two workers, while jobs are preempted once and a node loses its power once; what became
of every attempt. `samplers`: random sampling and TPE at equal budgets, 24 networks of 150 steps, some seeds. Networks
are small, windows 96x96, three to a step; train on z 0-10, validate on a quarter of z 11-13. Run again, it continues.
Ends with JSON lines; figures of a run stand in docs/RESULTS.md.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.vnc import CLASSES, data_settings
from genenet.genes import EncoderDecoder
from genenet.settings import TrainingSettings, WindowSettings
from search import launch
from search.launch import Profile, Request
from search.report import write_report
from search.space import Choice, Levels, Range, Space
from search.study import Study

logger = logging.getLogger("benchmarks")

SCRIPTS = Path(__file__).parent.parent / "tests" / "slurm"
ONE_THREAD = "export OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3"
LEASE_S = 20.0


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "cluster", **entry}), flush=True)


@contextlib.contextmanager
def slurm() -> Iterator[None]:
    """Two nodes of one core; nothing is left of them."""
    os.environ |= {"SLURM_ONE_CPUS": "1", "SLURM_ONE_NODES": "2"}
    done = subprocess.run(["bash", SCRIPTS / "up.sh"], capture_output=True, text=True, check=True)
    for word in done.stdout.replace("export", "").split():
        name, _, value = word.partition("=")
        os.environ[name] = value
    try:
        yield
    finally:
        subprocess.run(["bash", SCRIPTS / "down.sh", "--purge"], check=False, capture_output=True)


def make(folder: Path, sampler: str, n_trials: int, seed: int) -> Study:
    """A study of small networks, all trained for the same steps."""
    windows = WindowSettings(batch_size=3)
    training = TrainingSettings(steps=150, validate_every=50, checkpoint_every=10, windows=windows)
    data = data_settings()
    data["validation"] |= {"y": [0, 512], "x": [0, 512]}
    space = Space(
        EncoderDecoder(n_classes=len(CLASSES), window_size=96, padding="same"),
        {
            "n_scales": Range(2, 4),
            "n_features": Levels(Range(6, 16), Range(-2, 2)),
            "n_convs": Levels(Range(1, 2), Range(0, 1)),
            "pooling": Choice("max", "strided"),
            "upsampling": Choice("transposed", "resize"),
            "activation": Choice("relu", "elu", "leaky_relu"),
            "normalization": Choice("none", "batch"),
            "log10_learning_rate": Range(-3.5, -1.8),
        },
    )
    return Study.create(
        folder, space, data=data, training=training, fair="steps", sampler=sampler, n_trials=n_trials, seed=seed,
        baseline=False, lease_s=LEASE_S,
    )  # fmt: skip


def submit(study: Study) -> None:
    """Two workers, each with a core."""
    profile = Profile(partition="low", cpus=1, memory="3000M", time_s=14400, spare=2, notice_s=30, lines=(ONE_THREAD,))
    logger.info("job %s", ", ".join(launch.submit("slurm", Request(study.folder, 2, profile))))


def wait_for(study: Study, what: Callable[[list[str]], bool]) -> None:
    """Look now and then; a study without jobs gets new ones."""
    while not what([row["state"] for row in study.rows()]):
        if not launch.states(study.folder):
            submit(study)
        time.sleep(1)


def node(action: str, name: str) -> None:
    """Do something to a node."""
    subprocess.run(["bash", SCRIPTS / "node.sh", action, name], check=True)


def faults(folder: Path) -> None:
    """A study that is disturbed twice."""
    study = make(folder / "faults", "random", 12, seed=0)
    started = time.monotonic()
    submit(study)
    wait_for(study, lambda states: states.count("done") >= 3)
    logger.info("both jobs are preempted")
    subprocess.run(["sbatch", "--partition=high", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 15"],
                   check=True, capture_output=True)  # fmt: skip
    wait_for(study, lambda states: states.count("done") >= 6)
    trial = next(trial for trial in study.trials() if trial.standing(LEASE_S) == "running")
    host = trial.attempts[-1].worker["host"]
    logger.info("%s loses its power", host)
    node("crash", host)
    subprocess.run(["scontrol", "update", f"nodename={host}", "state=down", "reason=power"], check=False)
    time.sleep(30)
    node("start", host)
    wait_for(study, lambda states: states.count("done") == 12)
    endings: dict[str, int] = {}
    for trial in study.trials():
        found = [attempt.ending or {} for attempt in trial.attempts]
        for ending in found:
            endings[ending["how"]] = endings.get(ending["how"], 0) + 1
    worked = [trial.worked_s() for trial in study.trials()]
    write_report(study)
    say(ratio="done_of_12", value=int((study.table()["state"] == "done").sum()), endings=endings)
    say(ratio="work_over_time", value=round(sum(worked) / (time.monotonic() - started), 2), cores=2)
    say(ratio="best", value=round(float(study.leaderboard()["adjusted_rand"].max()), 4))


def samplers(folder: Path, n_seeds: int) -> None:
    """Random sampling against TPE."""
    best: dict[str, list[np.ndarray]] = {"random": [], "tpe": []}
    for seed in range(n_seeds):
        for sampler, curves in best.items():
            study = make(folder / f"{sampler}-{seed}", sampler, 24, seed)
            submit(study)
            wait_for(study, lambda states: states.count("done") + states.count("failed") == 24)
            table = study.table()
            scores = table[table["state"] == "done"]["adjusted_rand"].to_numpy(float)
            curves.append(np.maximum.accumulate(scores))
            top = np.sort(scores)[-5:]
            logger.info(
                "%s %d: best %.4f, best five %.4f, mean %.4f", sampler, seed, top[-1], top.mean(), scores.mean()
            )
            say(ratio=f"{sampler}_{seed}", value=round(top[-1], 4), best_five=round(top.mean(), 4),
                mean=round(scores.mean(), 4), second_half=round(scores[12:].mean(), 4))  # fmt: skip
    for count in (12, 24):
        values = {
            name: round(float(np.mean([curve[count - 1] for curve in curves])), 4) for name, curves in best.items()
        }
        say(ratio=f"tpe_less_random_after_{count}", value=round(values["tpe"] - values["random"], 4), **values)


def main(part: str, folder: Path, n_seeds: int) -> None:
    """Run one part."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder.mkdir(parents=True, exist_ok=True)
    with slurm():
        faults(folder) if part == "faults" else samplers(folder, n_seeds)


if __name__ == "__main__":
    which = sys.argv[1] if len(sys.argv) > 1 else ""
    if which not in ("faults", "samplers"):
        sys.exit("usage: python -m benchmarks.cluster faults|samplers [FOLDER] [SEEDS]")
    chosen = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("runs/cluster")
    main(which, chosen.absolute(), int(sys.argv[3]) if len(sys.argv) > 3 else 2)
