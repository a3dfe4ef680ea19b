"""Time from `genenet search run` to the first training step, and of `--help`, over the start of Python with Keras.

    python -m benchmarks.start

Whole processes, in turn. Ends with JSON lines; the target for the first step is 15 s.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genenet.phantom_files import write_phantom


def seconds(*arguments: str) -> float:
    """Of a whole process."""
    started = time.monotonic()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.monotonic() - started


def first_step(folder: Path, data: Path, number: int) -> float:
    """Seconds until a study's first checkpoint after one step, from the command's start."""
    study = folder / f"study{number}"
    (folder / "settings.yaml").write_text("checkpoint_every: 1\n")
    init = ["-m", "genenet", "search", "init", str(study), "--data", str(data), "--trials", "1", "--no-baseline"]
    seconds(*init, "--settings", str(folder / "settings.yaml"), "--window", "128")
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "genenet", "search", "run", str(study)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (study / "trials" / "0000" / "checkpoint.json").exists():
        if process.poll() is not None:
            raise RuntimeError("the search ended before its first step")
        time.sleep(0.01)
    taken = time.monotonic() - started
    process.kill()
    process.wait()
    return taken


def main() -> None:
    """Alternate and print."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_phantom(Path(folder) / "phantom", (16, 320, 320))
        for number in range(3):
            step = first_step(Path(folder), data, number)
            rows += [(step, seconds("-m", "genenet", "--help"), seconds("-c", "import keras"))]
    step, shown, keras = (statistics.median(column) for column in zip(*rows, strict=True))
    for name, value in (("first_step_over_import_keras", step), ("help_over_import_keras", shown)):
        print(json.dumps({
            "benchmark": "start", "ratio": name, "value": round(value / keras, 3), "seconds": round(value, 2),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
