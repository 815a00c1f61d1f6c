"""A grid as a heat map (SVG): one panel per protocol, timesteps down, layers across, scores in the cells."""

import io
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from repro.backbones.config import Cell
from repro.pipeline.grid.report import GRID_RULES, GridResult, describe_seeds
from repro.readout.recipe import Protocol

METRIC_TITLES = {"map_micro": "mAP (micro)", "top1": "top-1 accuracy"}
COLOURS = "cividis"
"""Lightness rises evenly, and the map reads the same with a colour vision deficiency."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b")
"""Colours of lines: Okabe and Ito 2008, with a darker yellow, which is readable on white and on black."""

LUMA = np.array([0.2126, 0.7152, 0.0722])
"""Weights of red, green and blue in a colour's lightness (Rec. 709)."""


def render_svg(result: GridResult) -> bytes:
    """Render the heat map as an SVG file; the same result gives the same bytes."""
    # Text stays text, not outlines. Without a fixed salt and with a date, the same grid would give other bytes each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "actiondiff", "font.family": "sans-serif"}):
        written = io.BytesIO()
        draw_figure(result).savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def draw_figure(result: GridResult, *, captioned: bool = True) -> Figure:
    """Draw the heat map, with title and caption in it unless the page that has it states both."""
    timesteps = sorted({cell.timestep for cell in result.cells if cell.timestep is not None})
    layers = sorted({cell.layer for cell in result.cells if isinstance(cell.layer, int)})
    # Inches: a cell holds a score of five characters at 8 points, with room for labels and the colour bar.
    height = 0.36 * len(timesteps) + 1.15
    room = 1.45 if captioned else 0.2
    heat_map = Figure(figsize=(0.62 * len(layers) + 2.2, height * len(result.protocols) + room), layout="constrained")
    panels = heat_map.subplots(len(result.protocols), 1, squeeze=False)[:, 0]
    for panel, protocol in zip(panels, result.protocols, strict=True):
        _draw_panel(panel, result, protocol, timesteps, layers)
    if captioned:
        heat_map.suptitle(f"{result.row.title}, {result.row.readout.head} readout", fontsize=12)
        lines = textwrap.wrap(write_caption(result), 24 + 11 * len(layers))
        heat_map.supxlabel("\n".join(lines), fontsize=8, x=0.02, ha="left")
    return heat_map


def write_caption(result: GridResult) -> str:
    """Write a caption that explains the figure on its own."""
    top, bottom = (" (top)", " (bottom)") if len(result.protocols) > 1 else ("", "")
    clips = f"trained on {result.row.data.train}, tested on {result.row.data.test}"
    parts = [f"{METRIC_TITLES[result.row.metric]} in percent, {describe_seeds(result.seeds)}; {clips}."]
    if "published" in result.protocols:
        parts.append(f"Published protocol{top}: each cell's best epoch on the test split; {result.optimism}.")
    if "held-out" in result.protocols:
        parts.append(
            f"Held-out protocol{bottom}: each cell's best epoch on clips held out of the training split, which "
            "cell and epoch are picked on; nothing is picked on the test split."
        )
    parts.append("Boxed: what the rule picks. Dots: the cell that the row reads by itself. Hatched: not run.")
    if result.row.published is not None:
        # The release states the number, and no cell for it.
        parts.append("Line on the scale: the published number. Which cell that is from is not known.")
    return " ".join(parts)


def _draw_panel(
    panel: Axes, result: GridResult, protocol: Protocol, timesteps: Sequence[int], layers: Sequence[int]
) -> None:
    values = _selection_scores(result, protocol, timesteps, layers)
    image = panel.imshow(np.ma.masked_invalid(values), cmap=COLOURS, aspect="auto")
    # Of the drawn colours, to choose black or white text for each cell.
    lightness = np.asarray(image.to_rgba(values))[..., :3] @ LUMA
    # Seen through masked cells only: those that were not run.
    panel.set_facecolor("#e8e8e8")
    panel.patch.set_hatch("////")
    panel.patch.set_edgecolor("#b0b0b0")
    chosen = result.select_cells(protocol)
    marked = {one.cell for one in chosen}
    for down, timestep in enumerate(timesteps):
        for across, layer in enumerate(layers):
            name, value = Cell(timestep=timestep, layer=layer).name, values[down, across]
            ink = "black" if np.isnan(value) or lightness[down, across] > 0.5 else "white"
            if not np.isnan(value):
                weight = "bold" if name in marked else "normal"
                score = panel.text(
                    across, down, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink, weight=weight
                )
                score.set_in_layout(False)  # inside the map, and slow to measure
            if name == result.row.features.name:
                panel.add_patch(
                    Rectangle((across - 0.42, down - 0.4), 0.84, 0.8, fill=False, edgecolor=ink, linestyle=":", lw=1.4)
                )
            if name in marked:
                for colour, width in (("black", 4.0), ("white", 2.0)):  # seen on any colour below
                    panel.add_patch(
                        Rectangle((across - 0.5, down - 0.5), 1, 1, fill=False, edgecolor=colour, lw=width, zorder=3)
                    )
    panel.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    panel.set_yticks(range(len(timesteps)), [str(timestep) for timestep in timesteps])
    panel.set_xlabel("layer")
    panel.set_ylabel("timestep (0 the noisiest)", fontsize=9)
    scores = sum(100 * one.test for one in chosen) / len(chosen)
    panel.set_title(
        f"{protocol}: {GRID_RULES[protocol]}; {result.count_cells(protocol)} of {len(result.cells)} cells; {scores:.2f} on test",
        fontsize=9,
    )
    bar = panel.figure.colorbar(image, ax=panel, pad=0.01)
    label = "on test" if protocol == "published" else "on held-out clips"
    if result.row.published is not None and protocol == "published":
        # The best of the grid is what it is compared with, and may be off this scale.
        published, (low, high) = result.row.published.value, image.get_clim()
        bar.ax.axhline(published, color="#d55e00", lw=2)
        if not low <= published <= high:
            label += f"; published: {published}, {'above' if published > high else 'below'} this scale"
    bar.set_label(label, fontsize=8)


def _selection_scores(
    result: GridResult, protocol: Protocol, timesteps: Sequence[int], layers: Sequence[int]
) -> Float[np.ndarray, "S L"]:
    """Return the scores that cells are selected by, in points; NaN for a cell that was not run."""
    means = [[result.mean_score(protocol, Cell(timestep=t, layer=layer)) for layer in layers] for t in timesteps]
    return np.array([[np.nan if mean is None else mean for mean in line] for line in means])
