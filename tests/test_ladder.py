"""Who may import whom: docs/design.md draws the ladder, and this test reads it and the imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("genenet", "search", "pruning")


def ladder():
    """Levels by package: `[(level, [patterns]), ...]`, from the block after `<!-- ladder -->`."""
    text = (ROOT / "docs" / "design.md").read_text()
    block = re.search(r"<!-- ladder -->\s*```ladder\n(.*?)```", text, re.S).group(1)
    found = {package: [] for package in PACKAGES}
    for line in block.strip().splitlines():
        head, _, names = line.partition(":")
        package, _, level = head.partition(" ")
        found[package].append((int(level or 0), names.split()))
    return found


def modules():
    """Names of all our modules, `genenet.genes.edges`."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def level_of(module, levels):
    package, _, rest = module.partition(".")
    for level, names in levels[package]:
        for name in names:
            if rest == name or (name.endswith(".*") and (rest + ".").startswith(name[:-1])):
                return level
    return None


def imports(path):
    """Our modules that a file imports, at the top or late; not those for type checking alone."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    names = {name for name, _ in modules()}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else node.module


MODULES = [(name, path) for name, path in modules() if "." in name]


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_go_down_the_ladder(name, path):
    levels = ladder()
    mine = level_of(name, levels)
    assert mine is not None, f"docs/design.md gives {name} no place on the ladder"
    for other in imports(path):
        if other in PACKAGES:
            continue  # the lazy names of a package
        package, theirs = other.split(".")[0], level_of(other, levels)
        assert theirs is not None, f"{name} imports {other}, which has no place on the ladder"
        if package == name.split(".")[0]:
            assert theirs <= mine, f"{name} (level {mine}) imports {other} (level {theirs})"
        elif name.startswith("genenet"):
            assert mine == 5, f"{name} imports {other}; only level 5 may"
        elif name.startswith("search"):
            assert package == "genenet" and theirs < 5, f"{name} imports {other}"
        else:
            raise AssertionError(f"{name} imports {other}")


def test_the_ladder_names_only_what_exists():
    names = {name for name, _ in modules()}
    for package, levels in ladder().items():
        for _, patterns in levels:
            for pattern in patterns:
                assert f"{package}.{pattern.removesuffix('.*')}" in names


def _run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


ONLY_KERAS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        others = ("genenet", "search", "optuna", "matplotlib", "pandas", "sklearn", "skimage", "pydantic", "typer")
        if name.partition(".")[0] in others:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
import keras, pruning
given = keras.Input((8, 8, 1))
model = keras.Model(given, keras.layers.Conv2D(2, 3)(keras.layers.Conv2D(4, 3, name="first")(given)))
print(pruning.shrink(model, {"first": [0, 3]}).get_layer("first").filters)
"""


def test_pruning_needs_keras_and_numpy_only():
    assert _run(ONLY_KERAS).splitlines()[-1] == "2"


@pytest.mark.parametrize("what", ["genenet", "search", "genenet.cli"])
def test_imports_are_light(what):
    heavy = ["keras", "tensorflow", "optuna", "matplotlib", "pandas", "torch", "jax", "scipy"]
    assert _run(f"import sys, {what}; print([n for n in {heavy} if n in sys.modules])").strip() == "[]"


def test_blueprints_and_studies_need_no_keras():
    code = """
import sys, genenet as gn, search.study
net = gn.UNet(n_classes=2)
net.window_shape(), net.n_parameters, net.tree(), gn.from_dict(net.to_dict())
print("keras" in sys.modules)
"""
    assert _run(code).strip() == "False"


def test_public_names_load_on_first_use():
    code = "import genenet as gn; assert all(getattr(gn, n) is not None for n in gn.__all__); print(len(gn.__all__))"
    assert int(_run(code)) > 10
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        __import__("genenet").nothing  # noqa: B018
