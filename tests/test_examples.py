"""The README's Python and the examples, run as a new user would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(code_or_path, folder):
    command = [sys.executable, *(["-c", code_or_path] if "\n" in str(code_or_path) else [str(code_or_path)])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def python_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.slow
def test_the_readmes_python(tmp_path):
    phantom = "from genenet.phantom_files import write_phantom\nwrite_phantom('demo', (16, 256, 256))\n"
    run(phantom, tmp_path)
    # The baseline is the original U-Net, whose 31 million parameters take minutes: not here.
    ten_lines = python_blocks()[0].replace("n_trials=3", "n_trials=2, baseline=False").replace("steps=200", "steps=20")
    assert "n_trials=2" in ten_lines and "steps=20," in ten_lines
    assert "adjusted_rand" in run(ten_lines, tmp_path)
    assert (tmp_path / "runs" / "segmentation.ome.zarr").is_dir()


def test_the_readmes_gene_tree(tmp_path):
    assert len(python_blocks()) == 2
    text = run(python_blocks()[1], tmp_path)
    assert "n_features 48 = 64 - 16 (decode)" in text
    assert "WindowShape(input=(" in text


def test_the_readmes_files_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples(path, tmp_path):
    says = {
        "own_gene": "parameters",
        "prune_a_model": "measured speed-up",
        "nuclei": "aggregated Jaccard index",
    }.get(path.stem, "adjusted Rand score")
    said = run(path, tmp_path)
    assert says in said
    if path.stem == "prune_a_model":
        before, after = re.findall(r"ResNet50: ([\d,]+) parameters before, ([\d,]+) after", said)[0]
        assert int(after.replace(",", "")) < 0.51 * int(before.replace(",", ""))
