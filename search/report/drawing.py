"""How the report's charts look: one style, vector pictures within the page, an axis of scores without outliers."""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from search.report.html import Markup, data_address, element

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue and vermilion of Okabe and Ito's palette: colour-blind readers tell them apart, and so does a grey printer.
NETWORK, BASELINE, INK, MUTED, GRID = "#0072b2", "#d55e00", "#1f2933", "#66707c", "#e3e6ea"

# CSS pixels at which the charts' letters are as large as the page's small print.
WIDE, PHONE, PHONE_TALL = (1040, 340), (400, 320), (400, 460)
_PIXELS_PER_INCH = 96

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE = {
    "font.family": "DejaVu Sans",  # wide: what fits in it fits in whatever the reader's system has
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "genenet",
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": "#9aa3ad",
    "ytick.color": "#9aa3ad",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handletextpad": 0.3,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
}

# Puts a chart into an empty figure; the figure's width says whether it is for a phone.
Draw = Callable[["Figure"], None]


def chart(draw: Draw, alt: str, wide: tuple[int, int] = WIDE, phone: tuple[int, int] = PHONE) -> Markup:
    """Draw a chart for wide pages, and once more for phones.

    Args:
        draw: What to draw.
        alt: What it shows, for those who do not see it.
        wide: Width and height in CSS pixels.
        phone: The same for phones.
    """
    source = element("source", media="(max-width: 640px)", srcset=_svg(draw, phone), width=phone[0], height=phone[1])
    style = f"max-width:{wide[0]}px"
    image = element("img", src=_svg(draw, wide), alt=alt, width=wide[0], height=wide[1], class_="chart", style=style)
    return element("picture", source, image)


def _svg(draw: Draw, size: tuple[int, int]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(size[0] / _PIXELS_PER_INCH, size[1] / _PIXELS_PER_INCH), layout="constrained")
        draw(figure)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    return data_address(text[text.index("<svg") :].replace("'DejaVu Sans'", _FONTS).encode(), "image/svg+xml")


@dataclasses.dataclass(frozen=True)
class ScoreAxis:
    """A vertical axis on which a few networks that learned nothing do not squeeze all others.

    Attributes:
        top: The highest score.
        floor: Scores below it are drawn as triangles at the lower edge; None where all are in their places.
    """

    top: float
    floor: float | None = None

    @classmethod
    def of(cls, scores: Sequence[float], baseline: float | None = None) -> "ScoreAxis":
        """Cut where scores lie three interquartile ranges below the lower quartile, but never the baseline.

        >>> ScoreAxis.of([0.75, 0.74, 0.73, 0.72, 0.70, 0.70, 0.69, 0.01])
        ScoreAxis(top=0.75, floor=0.69)
        """
        ranked = sorted(scores)
        low, high = ranked[len(ranked) // 4], ranked[3 * len(ranked) // 4]
        kept = [value for value in ranked if value >= low - 3 * (high - low) or value == baseline]
        cut = kept[0] > ranked[0] and len(ranked) >= 8  # quartiles of fewer mean little
        return cls(ranked[-1], kept[0] if cut else None)

    def plot(self, axes: "Axes", places: Sequence[float], scores: Sequence[float], **look: Any) -> None:
        """Plot points with these looks, and set the axis' range."""
        floor = -float("inf") if self.floor is None else self.floor
        pairs = list(zip(places, scores, strict=True))
        kept = [pair for pair in pairs if pair[1] >= floor]
        axes.plot([x for x, _ in kept], [y for _, y in kept], linestyle="none", **look)
        if self.floor is None:
            return
        room = max(self.top - self.floor, 0.01)
        axes.set_ylim(self.floor - 0.14 * room, self.top + 0.07 * room)
        cut = [x for x, y in pairs if y < floor]
        axes.plot(cut, [self.floor - 0.1 * room] * len(cut), linestyle="none", **{**look, "marker": "v", "label": None})


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range, or its ends where there are too few.

    >>> log_ticks(0.0008, 0.006), log_ticks(0.003, 0.004)
    ([0.001, 0.002, 0.005], [0.003, 0.004])
    """
    steps = [float(f"{digit}e{power}") for power in range(-9, 12) for digit in (1, 2, 5)]
    within = [step for step in steps if low <= step <= high]
    return within if len(within) > 1 else [low, high]
