"""A figure with its data: as SVG for a page in light and dark, as SVG and PNG files, and as CSV."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import ScalarFormatter
from matplotlib.transforms import ScaledTranslation

from repro.core.console import format_csv

INK = "#010203"
"""Colour of text and axes, so rare that it can be found in an SVG: the page replaces it by its own text colour."""
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a class may be named $x$
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud, and scaled
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    # A map's image has one pixel a cell: a third of the bytes, and edges that stay sharp.
    "image.interpolation": "none",
}
TICK = 3.5
"""Points of a tick's mark, and of the room between it and its label."""
_ID = re.compile(
    r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|PathCollection|LineCollection|(?:FillBetween)?PolyCollection|image)[^"]*"'
)
_PATH = re.compile(r' d="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")
"""Of points: a hundredth of one is seen by nobody, and matplotlib writes six digits."""
_FONTS = re.compile(r"font-family: ('[^'<>]*', )+sans-serif")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure of the report."""

    name: str
    """Name of its files, without an ending."""
    caption: str
    """Explains the figure on its own; also what a screen reader says in its place."""
    draw: Callable[[], Figure]
    columns: tuple[str, ...]
    """Of the data that is drawn."""
    lines: Sequence[Sequence[object]]
    wide: bool = False
    """Whether its text is legible at full width alone."""

    def render_svg(self) -> str:
        """Return the figure for a page: it takes the page's text colour, and has no ids that another figure may have, too."""
        text = self._save("svg").decode()
        # Without XML declaration, document type and metadata, which have no place in an HTML page.
        text = _METADATA.sub("", text[text.index("<svg") :])
        text = _PATH.sub(lambda path: _DECIMALS.sub(r"\1", path[0]).replace("\n", ""), _ID.sub("", text))
        text = _FONTS.sub("font-family: 'DejaVu Sans', Verdana, Arial, sans-serif", text)
        return text.replace(INK, "currentColor")

    def render_file(self, kind: str) -> bytes:
        """Return the figure as a file, svg or png, with black text on white."""
        written = self._save(kind, "white")
        return written.replace(INK.encode(), b"#000000") if kind == "svg" else written

    def render_csv(self) -> str:
        """Return the data as CSV."""
        return format_csv([self.columns, *self.lines])

    def _save(self, kind: str, background: str = "none") -> bytes:
        # Without a fixed salt and with a date, the same figure would give other bytes each time. The salt is the name, so that
        # two figures of a page have no id in common.
        with mpl.rc_context(STYLE | {"svg.hashsalt": self.name}), warnings.catch_warnings():
            # Of another script than Latin: an SVG leaves it to the reader's fonts, a PNG has boxes.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            written, figure = io.BytesIO(), self.draw()
            about = {"metadata": {"Date": None, "Creator": None}} if kind == "svg" else {"dpi": 150}
            figure.savefig(written, format=kind, facecolor=background, **about)
        return written.getvalue()


def label_rows(axes: Axes, places: Sequence[float], labels: Sequence[str], points: float) -> None:
    """Label places on the y axis as ticks would. matplotlib's ticks are five artists each: half of a report's time."""
    axes.set_yticks([])
    side = axes.get_yaxis_transform()
    _mark_places(axes, [0.0] * len(places), places, left=True)
    left_of_it = side + ScaledTranslation(-2 * TICK / 72, 0, axes.figure.dpi_scale_trans)
    for place, label in zip(places, labels, strict=True):
        axes.text(0, place, label, ha="right", va="center_baseline", fontsize=points, transform=left_of_it)


def label_columns(
    axes: Axes, places: Sequence[float], labels: Sequence[str], points: float, *, upwards: bool = True
) -> None:
    """Label places on the x axis, as `label_rows` does."""
    axes.set_xticks([])
    _mark_places(axes, places, [0.0] * len(places), left=False)
    below = axes.get_xaxis_transform() + ScaledTranslation(0, -2 * TICK / 72, axes.figure.dpi_scale_trans)
    for place, label in zip(places, labels, strict=True):
        axes.text(place, 0, label, ha="center", va="top", rotation=90 * upwards, fontsize=points, transform=below)


def label_numbers(axis: Axis, name: str, points: float = 9) -> None:
    """Label an axis, whose data is drawn, at the round numbers that matplotlib picks, and name it."""
    formatter = axis.get_major_formatter()
    if isinstance(formatter, ScalarFormatter):
        # Labels state the value: an offset at the axis' end is overlooked.
        formatter.set_useOffset(False)
    low, high = sorted(axis.get_view_interval())
    places = [place for place in axis.get_major_locator()() if low <= place <= high]
    labels = formatter.format_ticks(places)
    if isinstance(axis, XAxis):
        label_columns(axis.axes, places, labels, points, upwards=False)
        room = text_to_path.get_text_width_height_descent("lp", FontProperties(size=points), ismath=False)[1]
    else:
        label_rows(axis.axes, places, labels, points)
        room = measure_longest(labels, points)
    name_axis(axis, name, room)


def name_axis(axis: Axis, name: str, room: float) -> None:
    """Name an axis where matplotlib would below labels that are ticks, and take `room` points."""
    axis.set_label_text(name)
    axis.labelpad = 4 + 2 * TICK + room


def _mark_places(axes: Axes, across: Sequence[float], up: Sequence[float], *, left: bool) -> None:
    at = axes.get_yaxis_transform() if left else axes.get_xaxis_transform()
    # matplotlib's numbers of tick marks that point to the left and down.
    mark = Line2D(across, up, ls="", marker=0 if left else 3, ms=TICK, mew=0.8, color=INK, clip_on=False, transform=at)
    axes.add_artist(mark)


def draw_bars(axes: Axes, places: Sequence[float], lengths: Sequence[float], colour: str) -> None:
    """Draw horizontal bars as one artist."""
    corners = [[(0, y - 0.4), (x, y - 0.4), (x, y + 0.4), (0, y + 0.4)] for y, x in zip(places, lengths, strict=True)]
    axes.add_collection(PolyCollection(corners, facecolor=colour, edgecolor="none", alpha=0.75), autolim=False)


def measure_longest(labels: Sequence[str], points: float) -> float:
    """Return the points that the longest label takes, of the few with the most characters."""
    font = FontProperties(size=points)
    few = sorted(labels, key=len)[-3:]
    return max((text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in few), default=0)
