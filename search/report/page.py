"""A study as one HTML file for people, at any time: it needs no other file and no network."""

import datetime
import logging
from collections.abc import Callable
from pathlib import Path

from genenet.folder import write_text
from genenet.wording import plural
from search.report import sections
from search.report.html import Markup, element, join, page
from search.report.results import Results, read_results
from search.report.settings import settings
from search.report.text import duration, progress, score, summary
from search.study import Study

logger = logging.getLogger(__name__)

REPORT = "report.html"

# Makes a section's content; what is missing so far is a sentence in it.
Section = Callable[[Study, Results], Markup]


def write_report(study: Study) -> Path:
    """Write a study's report.html.

    Args:
        study: Which; trials may be running.

    Returns:
        Where the report is.
    """
    results = read_results(study)
    chapters: dict[str, Section] = {
        "All networks": sections.scores,
        "The ensemble": sections.ensemble,
        "Score and size": sections.sizes,
        "What mattered": sections.importance,
        "The best networks": sections.ranking,
        "Example slices": examples,
        "What was asked": settings,
    }
    name = study.folder.resolve().name
    body = [
        _header(name, results),
        element("nav", *(element("a", title, href=f"#{_anchor(title)}") for title in chapters)),
        *(_section(title, make(study, results)) for title, make in chapters.items()),
        element("footer", f"Written by genenet on {_now()} from {study.folder.resolve()}"),
    ]
    path = study.folder / REPORT
    write_text(path, page(f"{name} – architecture search", element("main", *body)))
    return path


def _section(title: str, content: Markup) -> Markup:
    return element("section", element("h2", title), content, id=_anchor(title))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _now() -> str:
    now = datetime.datetime.now().astimezone()
    return f"{now.day} {now:%B %Y, %H:%M}"


def _header(name: str, results: Results) -> Markup:
    meaning = "Scores are adjusted Rand scores on the validation part, which no network was trained on: "
    meaning += "1 is a segmentation equal to the labels, 0 is chance."
    return element(
        "header",
        element("p", f"Architecture search · {_now()}", class_="kicker"),
        element("h1", name),
        element("p", f"{summary(results)} {progress(results)}".strip(), class_="summary"),
        element("div", *_tiles(results), class_="tiles"),
        element("p", meaning, class_="note"),
    )


def _tiles(results: Results) -> list[Markup]:
    """Key figures."""
    best, baseline, chosen = results.best, results.baseline, results.ensemble
    figures = []
    if chosen is not None and chosen.adjusted_rand is not None:
        figures.append((score(chosen.adjusted_rand), f"ensemble of {plural(len(chosen.members), 'network')}"))
    if best is not None:
        figures.append((score(best.adjusted_rand), f"best network (net {best.number})"))
    if baseline is not None:
        figures.append((score(baseline.adjusted_rand), results.baseline_name.removeprefix("the ")))
    count = len(results.finished)
    figures.append((str(count), "network trained" if count == 1 else "networks trained"))
    if results.seconds:
        figures.append((duration(results.seconds), "training time in all"))
    return [element("div", element("strong", number), element("span", text), class_="tile") for number, text in figures]


def examples(study: Study, results: Results) -> Markup:
    """Validation slices, segmented (Guay et al. 2018, figure 3), and scores per class."""
    from search.report.pictures import class_sentence, class_table, pictures
    from search.report.slices import choose_contenders, compare

    try:
        contenders = choose_contenders(results)
        if not contenders:
            return element("p", "There is no trained network to segment slices with.", class_="missing")
        comparison = compare(study.data, contenders)
        shown = pictures(comparison)
        per_class = class_sentence(comparison), class_table(comparison)
    except Exception as error:  # data or networks that are gone must not take the rest of the report with them
        logger.warning("the report has no example slices: %s", error)
        return element("p", f"Example slices could not be made: {error}", class_="missing")
    caption = (
        "Validation slices where many classes occur, with the adjusted Rand score of each segmentation on what is "
    )
    caption += "shown. Click a picture to enlarge it, and beside it to go back."
    heading = element("h3", "Scores per class")
    return join(element("p", caption), shown, heading, element("p", per_class[0]), per_class[1])
