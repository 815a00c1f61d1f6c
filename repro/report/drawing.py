"""A figure with its data: as SVG for a page in light and dark, as SVG and PNG files, and as CSV."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from repro.core.console import format_csv

INK = "#010203"
"""Colour of text and axes, so rare that it can be found in an SVG: the page replaces it by its own text colour."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b")
"""Okabe and Ito 2008, with a darker yellow, which is readable on white and on black."""
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
_ID = re.compile(
    r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|PathCollection|LineCollection|FillBetweenPolyCollection|image)[^"]*"'
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

    def render_svg(self) -> str:
        """Return the figure for a page: it takes the page's text colour, and has no ids that another figure may have, too."""
        text = self._save("svg").decode()
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
