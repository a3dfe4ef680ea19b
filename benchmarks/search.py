"""What a search costs beside training: dealing out trials and taking them back; opening and reporting large studies.

    python -m benchmarks.search [workers] [large] [data]

All if none is named. `workers`: 8 processes on one study of 500 trials that cost nothing, with the default storage;
for random sampling and TPE the time per trial, all processes counted, and the sampler's share of it. `large`: a study
of 2,000 finished trials is opened, listed and reported. `data`: memory of four processes that hold a volume of 512 MB
over that of one, mapped as workers do it, and read into each one's own memory (Linux). Ends with JSON lines.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import genenet as gn
from genenet.folder import write_yaml
from search.report import write_report
from search.space import Choice, Levels, Range, Space
from search.study import Study
from search.worker import work

N_WORKERS, N_TRIALS, N_LARGE = 8, 500, 2000

# A worker whose networks cost nothing; it writes when it held the study, and when the sampler was at work.
WORKER = """
import sys, time, json
from search import dealer, worker
from search.study import Study
spent = {"next": [], "end": [], "ask": []}
def timed(name, function):
    def call(*args, **kwargs):
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name].append(time.perf_counter() - started)
    return call
dealer.Dealer._next = timed("next", dealer.Dealer._next)
dealer.Dealer.settle = timed("end", dealer.Dealer.settle)
dealer.Dealer._give_birth = timed("ask", dealer.Dealer._give_birth)
def score(study, trial, check):
    return {"adjusted_rand": trial.blueprint.n_features / 30, "steps": 1, "seconds": 0.0}
started = time.perf_counter()
finished = worker.work(Study.open(sys.argv[1]), score)
print(json.dumps({"finished": finished, "seconds": time.perf_counter() - started, **spent}))
"""


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "search", **entry}), flush=True)


def make(folder: Path, n_trials: int, sampler: str) -> Study:
    """A study on a tiny volume."""
    rng = np.random.default_rng(0)
    for name, values in (("image", rng.integers(0, 255, (4, 64, 64))), ("labels", rng.integers(0, 2, (4, 64, 64)))):
        np.save(folder / f"{name}.npy", values.astype(np.uint8))
    data = {
        "image": str(folder / "image.npy"),
        "labels": str(folder / "labels.npy"),
        "classes": [{"value": value, "name": f"class {value}", "color": "#ff0000"} for value in range(2)],
        "training": {"z": [0, 3]},
        "validation": {"z": [3, 4]},
    }
    write_yaml(folder / "data.yaml", data)
    ranges: dict[str, Any] = {
        "n_scales": Range(1, 2),
        "n_features": Levels(Range(8, 28), Range(-4, 4), Range(-4, 4)),
        "n_convs": Levels(Range(1, 2), None, Range(0, 1)),
        "pooling": Choice("max", "strided"),
        "log10_learning_rate": Range(-3.2, -2.2),
    }
    space = Space(gn.EncoderDecoder(n_classes=2, window_size=32), ranges)
    return Study.create(
        folder / sampler, space, data=folder / "data.yaml", n_trials=n_trials, sampler=sampler, baseline=False
    )


def workers() -> None:
    """Eight processes on one study."""
    for sampler in ("random", "tpe"):
        with tempfile.TemporaryDirectory() as name:
            study = make(Path(name), N_TRIALS, sampler)
            command = [sys.executable, "-c", WORKER, str(study.folder)]
            processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(N_WORKERS)]
            answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
            n_done = len(study.leaderboard())
        spent = {part: sum(sum(answer[part]) for answer in answers) for part in ("next", "end", "ask")}
        seconds = max(answer["seconds"] for answer in answers)
        say(
            ratio=f"overhead_s_per_trial_{sampler}",
            value=round((spent["next"] + spent["end"]) / N_TRIALS, 4),
            target=0.1,
            n_done=n_done,
            wall_s_per_trial=round(seconds / N_TRIALS, 4),
        )
        say(ratio=f"sampler_over_overhead_{sampler}", value=round(spent["ask"] / (spent["next"] + spent["end"]), 2))


def large() -> None:
    """A study of 2,000 finished trials."""

    def score(study: Study, trial: Any, check: Any) -> dict[str, Any]:
        return {"adjusted_rand": trial.blueprint.n_features / 30, "steps": 1, "seconds": 0.0}

    with tempfile.TemporaryDirectory() as name:
        study = make(Path(name), N_LARGE, "random")
        started = time.perf_counter()
        work(study, score)
        print(f"{N_LARGE} trials by one worker: {time.perf_counter() - started:.1f} s", flush=True)
        parts: dict[str, list[float]] = {"table": [], "report": []}
        for _ in range(3):
            started = time.perf_counter()
            opened = Study.open(study.folder)
            opened.table()
            parts["table"].append(time.perf_counter() - started)
            write_report(opened)
            parts["report"].append(time.perf_counter() - started)
        for part, target in (("table", None), ("report", 5)):
            say(ratio=f"s_to_open_and_{part}_{N_LARGE}", value=round(statistics.median(parts[part]), 2), target=target)


# A process that reads a volume whole, and says how much memory is its own, its part of what is shared included.
HOLDER = """
import sys
from pathlib import Path
from genenet.dataset import Dataset
shared = Path(sys.argv[2]) if len(sys.argv) > 2 else None
part = Dataset.open(sys.argv[1], shared=shared).training[0]
for z in range(part.shape[0]):
    part.read_image((z, 0, 0), (1, *part.shape[1:])).sum()
print("ready", flush=True)
sys.stdin.readline()
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")), flush=True)
sys.stdin.readline()
"""
N_HOLDERS, HELD = 4, (512, 1024, 1024)


def held_mb(command: list[str], n_processes: int) -> float:
    """Memory of some processes together, in 2**20 bytes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(n_processes)]  # type: ignore[call-overload]
    for process in processes:
        process.stdout.readline()
    found = 0.0
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
        found += int(process.stdout.readline()) / 1024
    for process in processes:
        process.communicate("\n")
    return found


def data() -> None:
    """One volume, some processes."""
    import tifffile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tifffile.imwrite(folder / "image.tif", np.random.default_rng(0).integers(0, 255, HELD, np.uint8))
        labels = np.zeros(HELD, np.uint8)
        labels[:, :100] = 1
        tifffile.imwrite(folder / "labels.tif", labels, compression="zlib")
        content = {
            "image": "image.tif",
            "labels": "labels.tif",
            "classes": [{"value": value, "name": f"class {value}"} for value in range(2)],
            "training": {"z": [0, HELD[0] - 1]},
            "validation": {"z": [HELD[0] - 1, HELD[0]]},
        }
        write_yaml(folder / "data.yaml", content)
        command = [sys.executable, "-c", HOLDER, str(folder / "data.yaml")]
        for kind, more in (("mapped", [str(folder / "shared")]), ("own", [])):
            one, all_of_them = (held_mb(command + more, count) for count in (1, N_HOLDERS))
            say(ratio=f"memory_of_{N_HOLDERS}_over_1_{kind}", value=round(all_of_them / one, 2), mb=round(all_of_them))


PARTS = {"workers": workers, "large": large, "data": data}


def main(names: Sequence[str]) -> None:
    """Run what is named, or all."""
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
