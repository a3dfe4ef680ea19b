"""The report's last section: what the study was asked to do, and how its trials ended."""

import contextlib
import platform
from pathlib import Path
from typing import Any

import genenet
from genenet.errors import InputError
from genenet.wording import plural
from search.report.html import Markup, element, join, row, table
from search.report.results import Results
from search.report.text import duration, listed
from search.settings import SearchSettings
from search.space import Choice, Limits, Range, Space
from search.study import Study

_LEVELS = ("whole network", "added per path", "added per stack", "added per layer")
_N_FAILURES = 12


def settings(study: Study, results: Results) -> Markup:
    """Everything that was asked, as lists and tables."""
    return join(
        element("h3", "Data"),
        _terms(_data(study)),
        element("h3", "Search"),
        _terms(_search(study, results)),
        element("h3", "Space"),
        *space_table(study.space),
        element("h3", "Trials"),
        *_trials(results),
    )


def _terms(entries: dict[str, str]) -> Markup:
    return element("dl", *(join(element("dt", name), element("dd", text)) for name, text in entries.items() if text))


def _data(study: Study) -> dict[str, str]:
    content = study.settings.get("data", {})
    size = content.get("voxel_size_nm")
    return {
        "image": str(content.get("image") or ""),
        "labels": str(content.get("labels") or ""),
        "voxel size": f"{' × '.join(f'{side:g}' for side in size)} nm (z, y, x)" if size else "",
        "classes": listed([str(entry["name"]) for entry in content.get("classes", [])]),
        "not labelled": f"label value {content['ignore']}" if content.get("ignore") is not None else "",
        "training part": _parts(content.get("training")),
        "validation part": _parts(content.get("validation")),
    }


def _parts(content: Any) -> str:
    """Boxes and files as a person would say them; ranges in a data file end before their second number."""
    parts = content if isinstance(content, list) else [content or {}]
    said = []
    for part in parts:
        box = [f"{axis} {part[axis][0]} to {part[axis][1] - 1}" for axis in "zyx" if part.get(axis)]
        said.append(", ".join([*([Path(part["image"]).name] if part.get("image") else []), *box]) or "all of it")
    return "; ".join(said)


def _search(study: Study, results: Results) -> dict[str, str]:
    training = study.training
    windows = plural(training.windows.batch_size, "window")
    if study.asked.fair == "time" and training.seconds is not None:
        per_network = f"{duration(training.seconds)} of training with {windows} per step"
    else:
        per_network = f"{training.steps} steps of {windows}"
        if training.seconds is not None:
            per_network += f", at most {duration(training.seconds)}"
    return {
        "budget": f"{_budget(study.asked)}, {per_network} each",
        "baseline": "trained first, under the same budget" if study.settings.get("baseline") else "none was asked for",
        "sampler": f"{study.asked.sampler}, seed {study.asked.seed}",
        "objectives": ", ".join(study.asked.objectives) if study.asked.objectives != ("adjusted_rand",) else "",
        "early stopping": (study.asked.early_stopping or "").replace("_", " "),
        "learned before from": ", ".join(study.settings.get("warm_start", [])),
        "limits": _limits(study.asked.limits),
        "training": f"Adam, {training.schedule} learning rate; precision {training.precision}",
        "validation": f"every {training.validate_every} steps on the whole validation part; the best weights are kept",
        "training time": f"{duration(results.seconds)} for all finished networks" if results.seconds else "",
        "versions": _versions(results),
    }


def _budget(asked: SearchSettings) -> str:
    said = ["networks" if asked.n_trials is None else plural(asked.n_trials, "network")]
    said[0] += " drawn from the space"
    if asked.trial_hours is not None:
        said.append(f"{asked.trial_hours:g} hours of work in all")
    if asked.total_hours is not None:
        said.append(f"none begun later than {asked.total_hours:g} hours after the first")
    return ", ".join(said)


def _limits(limits: Limits) -> str:
    said = [f"{limits.max_parameters:,} parameters"] if limits.max_parameters is not None else []
    said += [f"{limits.max_multiply_adds:,.0f} multiply-adds per voxel"] if limits.max_multiply_adds is not None else []
    said += [f"{limits.max_memory_gb:g} GB per training step"] if limits.max_memory_gb is not None else []
    return f"at most {listed(said)}" if said else "none"


def _versions(results: Results) -> str:
    """Of what trained the best network; of this process where there is none."""
    found = {"genenet": genenet.__version__, "python": platform.python_version()}
    if results.best is not None:
        with contextlib.suppress(InputError, KeyError):
            found = results.best.trial.network().details["versions"]
    return ", ".join(f"{name} {version}" for name, version in found.items())


def space_table(space: Space) -> tuple[Markup, ...]:
    """Ranges per hyperparameter and level of the tree, with what each means, and what is fixed."""
    n_levels = max(map(len, space.levels.values()), default=1)
    header = ["hyperparameter", *_LEVELS[:n_levels], "meaning"]
    rows = []
    for name, levels in space.levels.items():
        filled = [*levels, *[None] * (n_levels - len(levels))]
        cells = [_range(entry, depth) for depth, entry in enumerate(filled)]
        meaning = space.base.vocabulary[name].meaning
        rows.append(row(header, [element("code", name), *cells, meaning]))
    if not rows:
        return (element("p", "The space varies nothing."),)
    base = space.base
    fixed = [f"{name} {_value(base.value(name))}" for name in base.vocabulary if name not in space.levels]
    return table(header, rows, class_="space"), element("p", f"Fixed: {', '.join(fixed)}.", class_="note")


def _range(entry: Range | Choice | None, depth: int) -> str:
    if entry is None:
        return "–"
    if isinstance(entry, Choice):
        return " or ".join(entry.options)
    sign = "+" if depth else ""
    ends = [f"{end:{sign}g}".replace("-", "−").replace("+0", "0") for end in (entry.low, entry.high)]
    return ends[0] if entry.low == entry.high else f"{ends[0]} to {ends[1]}"


def _value(value: Any) -> str:
    return f"{value:g}".replace("-", "−") if isinstance(value, float) else str(value)


def _trials(results: Results) -> list[Markup]:
    """Counts by state, and why trials failed."""
    words = {
        "done": "finished",
        "pruned": "stopped early, since others were better",
        "rejected": "rejected before training (cannot be built, or over the limits)",
    }
    counts = [f"{count} {words.get(state, state)}" for state, count in sorted(results.states.items())]
    said = [element("p", f"{'; '.join(counts) or 'None yet'}.")]
    if results.failures:
        header = ["net", "why it failed"]
        shown = [row(header, [str(number), reason]) for number, reason in results.failures[:_N_FAILURES]]
        said.append(table(header, shown, class_="failures"))
        left = len(results.failures) - len(shown)
        if left:
            said.append(element("p", f"{left} more failed; each trial's state.json says why.", class_="note"))
    return said
