"""How much memory there is: of the machine, and of a container's share."""

import subprocess
import sys

import numpy as np
import pytest

from genenet import memory


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000", "memory.current": "400", "memory.stat": "anon 5\ninactive_file 100"}, [700]),
        ({"memory.max": "max", "memory.current": "400", "memory.stat": "inactive_file 100"}, []),
        ({"memory.max": "100", "memory.current": "400", "memory.stat": "inactive_file 0"}, [0]),
        ({"memory/memory.limit_in_bytes": "900", "memory/memory.usage_in_bytes": "300",
          "memory/memory.stat": "total_inactive_file 50"}, [650]),
        ({"memory.max": "spam", "memory.current": "4", "memory.stat": ""}, []),
        ({}, []),
    ],
)  # fmt: skip
def test_a_container_leaves_what_it_has_not_used(files, left, tmp_path, monkeypatch):
    (tmp_path / "memory").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "none")
    assert memory._left_in_groups() == left
    assert 0 <= memory.available_bytes() <= min([2**60, *left])


def test_a_job_has_a_group_of_its_own(tmp_path, monkeypatch):
    """As Slurm makes them: the limit is that of the step, or of the job above it."""
    (tmp_path / "own").write_text("0::/slurm/job7/step0\n")
    for path, most in (("slurm/job7", 2000), ("slurm/job7/step0", 5000)):
        (tmp_path / path).mkdir(parents=True)
        for name, content in (("max", most), ("current", 500), ("stat", "inactive_file 0")):
            (tmp_path / path / f"memory.{name}").write_text(str(content))
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    assert sorted(memory._left_in_groups()) == [1500, 4500]


def test_the_peak_grows():
    before = memory.peak_bytes()
    kept = bytearray(200 * 2**20)
    kept[:: 2**12] = b"x" * len(kept[:: 2**12])
    assert memory.peak_bytes() >= before + 100 * 2**20 or before > 1e9


def test_the_peak_is_not_that_of_the_process_that_started_it():
    kept = np.ones(40 * 2**20)  # 320 MiB
    command = [sys.executable, "-c", "from genenet.memory import peak_bytes; print(peak_bytes())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < kept.nbytes < memory.peak_bytes()


def test_without_proc_the_system_is_asked(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name: spam")
    for name in ("none", "status"):
        monkeypatch.setattr(memory, "_STATUS", tmp_path / name)
        assert memory.peak_bytes() > 2**20


@pytest.mark.parametrize("text", ["", "much", "4X", "-1G", "0", "1.G"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="a number with K, M, G or T"):
        memory.parse_bytes(text)
