"""The report's example slices: pictures, their legend, and a table of scores per class."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genenet.classes import SegmentationClass
from genenet.label_table import UNLABELLED
from genenet.metrics import contingency, scores
from search.report.html import Markup, data_address, element, figure, join, row, table
from search.report.slices import Comparison, Example
from search.report.text import listed, score

ERROR = (213, 94, 0)  # vermilion, on grey
UNLABELLED_COLOR = "#ffffff"

# Below this intersection over union a class counts as not found.
_NOT_FOUND = 0.005


def pictures(comparison: Comparison) -> Markup:
    """The examples under each other, with one legend."""
    return join(_legend(comparison), *(_panels(example, comparison) for example in comparison.examples))


def _legend(comparison: Comparison) -> Markup:
    entries = [(entry.color, entry.name) for entry in comparison.data.classes]
    if any((example.labels == UNLABELLED).any() for example in comparison.examples):
        entries.append((UNLABELLED_COLOR, "not labelled"))
    items = [element("li", _swatch(color), name) for color, name in entries]
    return element("ul", *items, class_="legend")


def _swatch(color: str) -> Markup:
    return element("span", class_="swatch", style=f"background:{color}")


def _panels(example: Example, comparison: Comparison) -> Markup:
    """Image and labels, then every segmentation and its errors: a pair is a column, or a row on phones."""
    classes = comparison.data.classes
    image = element("div", _image(example.image, "microscope image"), _scale_bar(example, comparison), class_="scaled")
    panels = [
        figure(image, element("b", "Image")),
        figure(_image(_paint(example.labels, classes), "labels"), element("b", "Labels")),
    ]
    for contender, prediction in zip(comparison.contenders, example.predictions, strict=True):
        found = scores(contingency(example.labels, prediction, len(classes), ignore=UNLABELLED))
        name = contender.name[:1].upper() + contender.name[1:]
        reached = f": {score(found.adjusted_rand)} here"
        panels.append(figure(_image(_paint(prediction, classes), name), element("b", name), reached))
        missed = f" in {1 - found.accuracy:.1%} of the labelled voxels"
        panels.append(figure(_image(_errors(example, prediction), f"errors, {name}"), element("b", "Errors"), missed))
    return join(element("h3", _where(example)), element("div", *panels, class_="panels"))


def _where(example: Example) -> str:
    (z, y, x), (_, height, width) = example.part.start, example.part.shape
    name = Path(example.part.image.name).name
    return f"Slice z {z} of {name}, y {y} to {y + height - 1}, x {x} to {x + width - 1}"


def _scale_bar(example: Example, comparison: Comparison) -> Markup:
    """About a quarter of the width, a round length; in voxels where nobody said how large they are."""
    size = comparison.data.voxel_size_nm
    width = example.part.shape[2]
    length = width * (size[2] if size else 1)
    nice = max(step * 10**power for power in range(-3, 8) for step in (1, 2, 5) if step * 10**power <= length * 0.3)
    text = f"{nice:g} voxels" if size is None else f"{nice / 1000:g} µm" if nice >= 1000 else f"{nice:g} nm"
    return element("span", text, class_="bar", style=f"width:{100 * nice / length:.1f}%")


def _paint(indices: np.ndarray, classes: Sequence[SegmentationClass]) -> np.ndarray:
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(classes)] = [entry.rgb for entry in classes]
    return colors[indices]


def _errors(example: Example, prediction: np.ndarray) -> np.ndarray:
    """The image, pale, with the labelled voxels that a segmentation has wrong."""
    image = example.image if example.image.ndim == 3 else np.repeat(example.image[..., None], 3, axis=-1)
    shown = 255 - (255 - image) // 48 * 16  # pale, and in few steps, which make a small file
    shown[(example.labels != UNLABELLED) & (prediction != example.labels)] = ERROR
    return shown


def _image(pixels: np.ndarray, alt: str) -> Markup:
    import imageio.v3

    content = imageio.v3.imwrite("<bytes>", pixels, extension=".png", optimize=True)
    height, width = pixels.shape[:2]
    source, look = data_address(content, "image/png"), "crisp" if width < 300 else None
    return element("img", src=source, alt=alt, width=width, height=height, class_=look, tabindex=0)


def class_table(comparison: Comparison) -> Markup:
    """Intersection over union per class, a column per contender."""
    names = [contender.name for contender in comparison.contenders]
    header = ["class", "#share of voxels", *(f"IoU, {name}" for name in names)]
    rows = []
    for index, entry in enumerate(comparison.data.classes):
        reached = [found.iou[index] for found in comparison.scores]
        cells = [join(_swatch(entry.color), entry.name), _percent(comparison.shares[index])]
        rows.append(row(header, [*cells, *(_meter(value) for value in reached)]))
    means = [_meter(found.mean_iou) for found in comparison.scores]
    rows.append(row(header, ["mean of the classes", "", *means], class_="total"))
    rand = [score(found.adjusted_rand) for found in comparison.scores]
    rows.append(row(header, ["adjusted Rand score", "", *rand], class_="total"))
    return table(header, rows, class_="classes")


def _meter(value: float) -> Markup:
    """A score with a bar behind it."""
    if not math.isfinite(value):
        return element("span", "–")
    return element("span", score(value), class_="meter", style=f"--value:{100 * max(value, 0):.0f}%")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else "< 0.1%"


def class_sentence(comparison: Comparison) -> str:
    """Where the table comes from, and which classes are not found."""
    where = "the whole validation part" if comparison.is_whole else "the slices shown above"
    said = f"Intersection over union (IoU) per class on {where}: 1 where segmentation and labels cover the same "
    said += "voxels, 0 where they share none."
    pairs = zip(comparison.data.classes, comparison.scores[0].iou, comparison.shares, strict=True)
    lost = [entry.name for entry, iou, share in pairs if share and iou < _NOT_FOUND]
    if lost:
        name = comparison.contenders[0].name
        said += f" The {name} hardly finds {listed(lost)}; longer training or more weight on rare classes may help."
    return said
