"""A clip as a backbone sees it, as one HTML page: no script, no request, readable in light and dark, on a phone and on paper."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.image import imsave

from repro.backbones.config import read_precision
from repro.pipeline.grid.figure import COLOURS, SERIES
from repro.pipeline.show.view import CellView, ClipView, Components, ScoresOverTime

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4")
TOP_CLASSES = len(SERIES)

CSS = """
:root{color-scheme:light dark;--line:#8888}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:0 auto;padding:1rem}
h1,h2,h3{line-height:1.2;overflow-wrap:anywhere}h2{margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1rem}dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
code{overflow-wrap:anywhere;font-size:.92em}
figure{margin:0;break-inside:avoid}figcaption{font-size:.85rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.6rem;padding:0;list-style:none}
.tiles img{width:100%;height:auto;display:block}.maps img{image-rendering:pixelated}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.5rem;align-items:start}
svg{width:100%;max-width:34rem;height:auto;display:block}svg text{fill:currentColor;font-size:11px;font-family:system-ui,sans-serif}
.axis{stroke:currentColor;fill:none;stroke-width:1}.grid{stroke:var(--line);stroke-width:.5}
.key{display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding:0;margin:.3rem 0;list-style:none;font-size:.85rem;overflow-wrap:anywhere}
.key svg{display:inline-block;width:28px;vertical-align:middle}
@media(max-width:30rem){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}.tiles{grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr))}}
@media print{:root{color-scheme:light}body{max-width:none;padding:0;font-size:10pt}.tiles{grid-template-columns:repeat(6,1fr)}}
"""


def render_clip_page(view: ClipView, command: str) -> str:
    """Render what a backbone makes of a clip as an HTML page; everything it names is escaped."""
    config, checkpoint = view.backbone.config, view.backbone.checkpoint_sha256
    title = f"{view.video.name} as {config.name} sees it"
    contents = view.contents
    facts = {
        "Command": f"<code>{escape(command)}</code>",
        "Video": escape(
            f"{view.video.name}: {contents.width} x {contents.height} pixels, {contents.seconds:.2f} s, "
            f"{contents.frames} frames, sha256 {view.video_sha256}"
        ),
        "Backbone": escape(f"{config.name}: {config.title}"),
        "Checkpoint": escape(f"sha256 {checkpoint}" if checkpoint else "none: nothing of this backbone is learnt"),
        "Computed": escape(
            f"in precision {read_precision(config)} on {view.device.partition(':')[0]}"
            + (f" by {view.backbone.implementation}" if view.backbone.implementation else "")
        ),
        "Cells": escape(", ".join(cell.cell for cell in view.cells)),
        "Sampling": escape(_describe_sampling(view)),
    }
    if config.checkpoint is not None and config.checkpoint.drawn_from_seed is not None:
        facts["Weights"] = "random: what this page shows was not learnt"
    if view.notes:
        facts["Notes"] = escape("; ".join(view.notes))
    parts = [
        f"<h1>{escape(title)}</h1><dl>",
        *(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items()),
        "</dl>",
        *_render_frames(view),
        *(part for cell in view.cells for part in _render_cell(view, cell)),
        *(() if view.scores is None else _render_scores(view, view.scores)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # No browser follows anything that might get in: not even a text that was not escaped could load or run.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>" + "\n".join(parts) + "\n</body></html>\n"
    )


def count_vectors(view: ClipView) -> str:
    """Return the number of a clip's vectors as text."""
    return f"{len(view.times)} vector{'s' if len(view.times) > 1 else ''}"


def _describe_sampling(view: ClipView) -> str:
    frames = view.backbone.config.frames
    span = frames.window // view.backbone.config.vectors(frames.window)
    step = "every frame" if frames.stride == 1 else f"1 of {frames.stride} frames"
    vector = "one vector per sampled frame" if span == 1 else f"one vector per {span} sampled frames"
    overlap = f" that share {frames.overlap}" if frames.overlap else ""
    return f"{step}, windows of {frames.window} sampled frames{overlap}; {vector}: {count_vectors(view)}"


def _render_frames(view: ClipView) -> Iterator[str]:
    shown = (
        "each vector"
        if len(view.pictures) == len(view.times)
        else f"{len(view.pictures)} of {len(view.times)} vectors, evenly spaced"
    )
    how = "resized and cropped as the network gets them" if view.has_maps else "as decoded"
    yield f"<h2>Frames</h2><p>The first frame of {shown}, {how}, with its time in the clip in seconds.</p>"
    tiles = {row: _data_url(picture, "jpeg") for row, picture in view.pictures.items()}
    yield _render_tiles(view, tiles, "frame", "frames")


def _render_tiles(view: ClipView, tiles: Mapping[int, str], what: str, kind: str) -> str:
    items = []
    for row, url in tiles.items():
        start, end = view.times[row]
        when = f"{start:.2f} s" if kind == "frames" else f"{start:.2f} to {end:.2f} s"
        items.append(
            f'<li><figure><img src="{url}" alt="{escape(what)} at {when}"><figcaption>{when}</figcaption></figure></li>'
        )
    return f'<ol class="tiles {kind}">{"".join(items)}</ol>'


def _render_cell(view: ClipView, cell: CellView) -> Iterator[str]:
    yield f"<h2>Cell {escape(cell.cell)}</h2><h3>Spatial feature maps</h3>"
    if cell.maps is None:
        yield f"<p>Left out: {escape(view.backbone.name)} gives no spatial maps, only one vector of each picture.</p>"
    elif not cell.maps.shares:
        yield "<p>Left out: the maps are the same at every position of every frame.</p>"
    else:
        height, width = cell.maps.scores.shape[1:3]
        colours = [
            f"{name} {share}" for name, share in zip(("red", "green", "blue"), _percents(cell.maps), strict=False)
        ]
        yield (
            f"<p>{width} x {height} positions of {cell.vectors.shape[1]} channels, as colours: the first principal components "
            f"of all positions of all vectors of the clip explain {', '.join(colours)} of the variance. Each is scaled "
            "from its 1st to its 99th percentile over the maps shown, so that colours mean the same in all of them.</p>"
        )
        tiles = {row: _data_url(one, "png") for row, one in zip(view.pictures, _to_colours(cell.maps), strict=True)}
        yield _render_tiles(view, tiles, f"feature map of {cell.cell}", "maps")
    yield "<h3>Vectors over time</h3>"
    if len(view.times) < 2:
        yield "<p>Left out: the clip gives a single vector, so there is nothing to compare over time.</p>"
        return
    yield '<div class="charts">' + _render_similarity(view, cell)
    components = cell.compute_components()
    if not components.shares:
        yield "</div><p>Principal components are left out: all vectors are the same.</p>"
        return
    names = [f"component {n} ({share})" for n, share in enumerate(_percents(components), start=1)]
    lines = dict(zip(names, components.scores.T, strict=True))
    starts = [start for start, _ in view.times]
    yield _render_lines(
        "Principal components of the vectors, and the share of variance that each explains", lines, starts
    )
    if len(names) > 1:
        yield _render_scatter(components, names, starts)
    yield "</div>"


def _render_scores(view: ClipView, over_time: ScoresOverTime) -> Iterator[str]:
    readout, scores = over_time.readout, over_time.scores
    # Stable, so that classes with equal scores keep the order of the data set.
    top = (-scores[-1]).argsort(kind="stable")[:TOP_CLASSES]
    alone = (
        ""
        if readout.recipe.loss.name == "cross_entropy"
        else " Each class is scored by itself: scores do not add up to 100 %."
    )
    cut = readout.recipe.max_length
    ignored = f" Vectors after the first {cut} are ignored." if len(view.times) > cut else ""
    yield (
        f"<h2>Class scores over time</h2><p>The readout of {escape(readout.row)} (seed {readout.seed}, epoch {readout.epoch}, cell "
        f"{escape(readout.cell)}) on growing prefixes of the clip, from its first vector to the time given. The last scores are "
        f"those of the complete clip, as of <code>repro predict</code>.{ignored}{alone}</p>"
    )
    lines = {f"{readout.classes[label]}: {100 * scores[-1, label]:.1f} %": 100 * scores[:, label] for label in top}
    ends = [view.times[length - 1][1] for length in over_time.lengths]
    yield _render_lines(
        f"Scores in percent of the {len(top)} classes that are likeliest at the end", lines, ends, (0.0, 100.0)
    )


def _percents(components: Components) -> list[str]:
    return [f"{100 * share:.1f} %" for share in components.shares]


def _to_colours(maps: Components) -> UInt8[np.ndarray, "S h w 3"]:
    """Scale each component to 0 .. 255; a component that does not exist is middle grey."""
    colours = np.full((*maps.scores.shape[:-1], 3), 127, np.uint8)
    for number in range(len(maps.shares)):
        values = maps.scores[..., number]
        # Percentiles, not extremes: one outlying position would leave all others one colour.
        low, high = np.percentile(values, (1, 99))
        # Where nearly all values are alike, the percentiles are too, and the extremes take their place.
        low, high = (low, high) if high > low else (values.min(), values.max())
        colours[..., number] = np.clip(255 * (values - low) / max(high - low, 1e-30), 0, 255).round()
    return colours


def _data_url(picture: UInt8[np.ndarray, "_ _ _"], kind: str) -> str:
    written = io.BytesIO()
    imsave(written, picture, format=kind, pil_kwargs={"quality": 85} if kind == "jpeg" else None)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


# Charts. One unit of a viewBox is about one pixel on a phone.
LEFT, TOP, WIDTH, HEIGHT = 52, 8, 300, 190


def _svg(label: str, body: str, height: int) -> str:
    return (
        f'<figure><svg viewBox="0 0 360 {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
        f"<figcaption>{escape(label)}</figcaption>"
    )


def _axes(
    across: Sequence[tuple[float, str]], down: Sequence[tuple[float, str]], label: str, height: int = HEIGHT
) -> str:
    """Draw a frame with ticks: each at its share of the axis, from the left and from the top."""
    parts = [f'<rect class="axis" x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{height}"/>']
    for share, text in across:
        # Texts at the ends stay inside the figure.
        x, anchor = LEFT + share * WIDTH, "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{TOP + height + 14}" text-anchor="{anchor}">{escape(text)}</text>')
    for share, text in down:
        y = TOP + share * height
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{min(y + 4, TOP + height):.1f}" text-anchor="end">{escape(text)}</text>')
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + height + 30}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _time_ticks(times: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks at the first, the middle and the last of rows that are evenly spaced."""
    last = len(times) - 1
    return [(row / max(last, 1), f"{times[row]:.2f}") for row in sorted({0, last // 2, last})]


def _number_ticks(low: float, high: float) -> list[tuple[float, str]]:
    return [(share, f"{high - share * (high - low):.3g}") for share in (0, 0.5, 1)]


def _render_similarity(view: ClipView, cell: CellView) -> str:
    similarity = cell.compute_similarity()
    low = float(similarity.min())
    # Vectors of a network differ little from frame to frame.
    least = f"{low:.4f}" if low < 0.99 else f"{low:.7f}"
    scaled = (similarity - low) / max(1 - low, 1e-30)
    colours = mpl.colormaps[COLOURS]
    url = _data_url(colours(scaled, bytes=True)[..., :3], "png")
    bar = _data_url(colours(np.linspace(0, 1, 128)[None], bytes=True)[..., :3], "png")
    ticks, side = _time_ticks([start for start, _ in view.times]), WIDTH
    image = '<image href="{}" x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" style="image-rendering:pixelated"/>'
    body = image.format(url, LEFT, TOP, side, side) + _axes(
        ticks, ticks, "time of one vector in s (down: of the other)", side
    )
    y = TOP + side + 40
    body += image.format(bar, LEFT, y, side, 10) + f'<text x="{LEFT}" y="{y + 24}">{least}</text>'
    body += f'<text x="{LEFT + side}" y="{y + 24}" text-anchor="end">1 (same direction)</text>'
    label = f"Cosine similarity of each two vectors of {cell.cell}, from {least} (dark) to 1 (bright)"
    return _svg(label, body, side + 80) + "</figure>"


def _render_lines(
    label: str,
    lines: Mapping[str, Float[np.ndarray, " N"]],
    times: Sequence[float],
    limits: tuple[float, float] | None = None,
) -> str:
    low, high = limits or (min(float(v.min()) for v in lines.values()), max(float(v.max()) for v in lines.values()))
    body = _axes(_time_ticks(times), _number_ticks(low, high), "time in the clip in s")
    key = []
    for values, name, colour, dash in zip(lines.values(), lines, SERIES, DASHES, strict=False):
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        points = [
            _place(n / max(len(values) - 1, 1), (high - value) / max(high - low, 1e-30))
            for n, value in enumerate(values)
        ]
        body += f'<polyline {style} points="{" ".join(points)}"/>'
        if len(points) == 1:
            x, y = points[0].split(",")
            body += f'<circle fill="{colour}" cx="{x}" cy="{y}" r="3"/>'
        key.append(
            f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path {style} d="M0 4h28"/></svg> {escape(name)}</li>'
        )
    return _svg(label, body, 244) + f'<ul class="key">{"".join(key)}</ul></figure>'


def _render_scatter(components: Components, names: Sequence[str], times: Sequence[float]) -> str:
    x, y = components.scores[:, 0], components.scores[:, 1]
    across = [(1 - share, text) for share, text in _number_ticks(float(x.min()), float(x.max()))]
    body = _axes(across, _number_ticks(float(y.min()), float(y.max())), names[0])
    points = [_place((a - x.min()) / np.ptp(x), (y.max() - b) / np.ptp(y)) for a, b in zip(x, y, strict=True)]
    body += f'<polyline class="grid" fill="none" points="{" ".join(points)}"/>'
    for number, point in enumerate(points):
        red, green, blue, _ = mpl.colormaps[COLOURS](number / (len(points) - 1), bytes=True)
        cx, cy = point.split(",")
        body += f'<circle class="axis" style="fill:rgb({red},{green},{blue})" cx="{cx}" cy="{cy}" r="4"><title>{times[number]:.2f} s</title></circle>'
    label = (
        f"Each vector by {names[0]} (across) and {names[1]} (up), from the start of the clip (dark) to its end (bright)"
    )
    return _svg(label, body, 244) + "</figure>"


def _place(across: float, down: float) -> str:
    return f"{LEFT + across * WIDTH:.1f},{TOP + down * HEIGHT:.1f}"
