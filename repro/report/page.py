"""A report as one HTML page that loads nothing, and its short form in Markdown. Every foreign text is escaped."""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from repro.core.console import escape_text, format_duration, format_moment
from repro.core.hashing import content_sha256
from repro.datasets.manifest import Manifest
from repro.features.spent import Spent
from repro.judge.claims.formats import format_table_family
from repro.judge.formats import format_mean
from repro.judge.outcome import Outcome, mean_and_spread
from repro.records.record import RunRecord, software_versions
from repro.report.contents import WATTS, Contents, RowContents, gather_extractions
from repro.report.deviations import list_deviations
from repro.report.drawing import Drawing
from repro.report.figures import draw_setting, list_row_drawings
from repro.table.row import Row
from repro.table.rows import command_for_row

PAGE_COLUMNS = (
    ("row", False), ("verdict", False), ("published", True), ("measured", True), ("difference", True), ("95 % interval", True),
    ("last epoch", True), ("held-out", True), ("seeds", True), ("metric", False), ("backbone", False),
)  # fmt: skip
"""Of the table, and whether they are numbers; what is asked first stands first, as a phone shows the first three or four."""
TONES = {
    "good": (Outcome.REPRODUCED, Outcome.CONSISTENT, Outcome.WITHIN_MARGIN, "HOLDS"),
    "bad": (Outcome.HIGHER, Outcome.LOWER, "REVERSED"),
}
"""Colours of verdicts; all others are neutral. The words alone say the same."""
MOST_EXAMPLES = 5
MOST_DATA = 20_000
"""Bytes of a figure's data on the page: more has the confusion of 140 classes, which a reader wants as a file."""
Mean = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class ShownDrawing:
    """A figure as the page has it."""

    name: str
    caption: str
    svg: Markup
    data_url: str
    """Empty if the data is too large for the page; --figures writes all."""
    wide: bool


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the page has it."""

    contents: RowContents
    held_out: Mean | None
    score_columns: tuple[str, ...]
    scores: tuple[tuple[str, tuple[Mean | None, ...]], ...]
    drawings: tuple[ShownDrawing, ...]
    facts: tuple[tuple[str, str], ...]


def list_drawings(contents: Contents) -> list[Drawing]:
    """Return every figure of a report."""
    rows = [drawing for one in contents.rows if one.runs for drawing in list_row_drawings(one)]
    return [*(draw for _, draw in _draw_settings(contents)), *rows]


def render_page(contents: Contents, advance: Callable[[str], None] = lambda _: None) -> str:
    """Render the page.

    Args:
        contents: What it shows.
        advance: Called with the name of each row that was drawn.
    """
    environment = Environment(
        loader=PackageLoader("repro.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_make_printable,
    )
    # Claims are computed without the interpreter's lock, for the most part: figures are drawn meanwhile.
    with ThreadPoolExecutor(1) as pool:
        judging = None if contents.judge_claims is None else pool.submit(contents.judge_claims)
        shown = []
        for one in contents.rows:
            shown.append(_show_row(one))
            advance(one.name)
        strips = [(title, _show(drawing)) for title, drawing in _draw_settings(contents)]
        claims = None if judging is None else judging.result()
    verdicts = [one.verdict for one in contents.rows if one.verdict is not None]
    runs = [run for one in contents.rows for run in _all_runs(one)]
    judged = [one for one in shown if one.contents.verdict is not None]
    # The table's script looks for a table, and there is none without judged rows.
    script = _read_template("page.js") + (_read_template("table.js") if judged else "")
    with_runs = [one.contents for one in shown if one.contents.runs]
    return environment.get_template("page.html").render(
        contents=contents,
        software=f"actiondiff-repro {software_versions()['actiondiff-repro']}",
        newest=max((format_moment(run.made.at) for run in runs), default=""),
        counts=[(str(o), n) for o in Outcome if (n := sum(v.outcome is o for v in verdicts))],
        columns=PAGE_COLUMNS,
        judged=judged,
        measured=[one for one in shown if one.contents.runs],
        strips=strips,
        claims=claims,
        family_lines=[] if claims is None else [format_table_family(claims.table)],
        audits=[_describe_audit(name, audit) for name, audit in contents.audits.items()],
        computing=[*_describe_extractions(gather_extractions(contents, runs)), *_describe_computing(runs)],
        deviations=[(d.number, d.what, d.concerned) for d in list_deviations(r.row for r in with_runs)],
        commands=[(one.name, _describe_command(one.row)) for one in with_runs],
        tone=_choose_tone,
        mean=_format_mean,
        # Shipped, so that nothing in them is foreign.
        style=Markup(_read_template("page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        # The page's Content-Security-Policy allows this script alone, by its hash.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def render_markdown(contents: Contents) -> str:
    """Render the table for an issue or a README."""
    lines = [f"Judged under {contents.rules}. Scores in points; ± is the standard deviation over seeds.", ""]
    lines += ["| row | published | measured | difference | verdict | seeds |", "|---|---:|---:|---:|---|---:|"]
    for one in contents.rows:
        verdict = one.verdict
        if verdict is None:
            if one.runs:
                mean = _mean_of(one.runs, one.row.metric)
                lines.append(f"| {_cell(one.name)} | | {_format_mean(mean)} | | not judged | {len(one.runs)} |")
            continue
        published = f"{verdict.expected.published:.{verdict.expected.digits}f}"
        measured = "" if verdict.measured is None else _format_mean((verdict.measured, verdict.spread))
        difference = "" if verdict.difference is None else f"{verdict.difference:+z.2f}"
        lines.append(
            f"| {_cell(one.name)} | {published} | {measured} | {difference} | {verdict.outcome} | {len(verdict.seeds) or ''} |"
        )
    lines += ["", *(f"- {_cell(line)}" for line in (*contents.damaged, *contents.not_judged))]
    return "\n".join(lines).rstrip() + "\n"


def _make_printable(value: object) -> object:
    # Control characters, and characters that turn the direction of text, are spelt out.
    return value if isinstance(value, Markup) or not isinstance(value, str) else escape_text(value)


def _cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    escaped = escape_text(text).replace("\\", "\\\\")
    return "".join(f"\\{c}" if c in "|`*[]<>#~!" else c for c in escaped)


def _read_template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _choose_tone(outcome: str) -> str:
    return next((tone for tone, outcomes in TONES.items() if outcome in outcomes), "unsure")


def _show(drawing: Drawing) -> ShownDrawing:
    # An image to a screen reader, with its caption as its text.
    label = Markup('<svg role="img" aria-label="{}"').format(escape_text(drawing.caption))
    # matplotlib escapes the texts that it draws.
    svg = label + Markup(drawing.render_svg().removeprefix("<svg"))  # noqa: S704
    data = drawing.render_csv().encode(errors="backslashreplace")
    url = f"data:text/csv;base64,{base64.b64encode(data).decode()}" if len(data) <= MOST_DATA else ""
    return ShownDrawing(drawing.name, drawing.caption, svg, url, drawing.wide)


def _draw_settings(contents: Contents) -> Iterator[tuple[str, Drawing]]:
    settings: dict[str, list[RowContents]] = {}
    for one in contents.judged:
        settings.setdefault(one.row.setting, []).append(one)
    for setting, rows in settings.items():
        if any(one.runs for one in rows):
            yield rows[0].row.title.split(":")[0], draw_setting(setting, rows)


def _show_row(one: RowContents) -> ShownRow:
    columns = [
        ("published rule", [run.best_epoch_on_test.scores for run in one.published]),
        ("last epoch", [run.last_epoch.scores for run in one.default_cell]),
        ("held-out rule", [run.best_epoch_on_held_out.scores for run in one.held_out if run.best_epoch_on_held_out]),
    ]
    if one.runs:
        first = one.runs[0]
        columns += [
            ("chance", [first.chance]),
            ("class frequencies", [first.class_prior]),
            ("one constant", [first.constant]),
        ]
    columns = [(name, found) for name, found in columns if any(found)]
    metrics = dict.fromkeys(metric for _, found in columns for scores in found for metric in scores)
    return ShownRow(
        contents=one,
        held_out=_mean_of(one.held_out, one.row.metric),
        score_columns=tuple(name for name, _ in columns),
        scores=tuple((metric, tuple(_mean_score(found, metric) for _, found in columns)) for metric in metrics),
        drawings=tuple(_show(drawing) for drawing in list_row_drawings(one)) if one.runs else (),
        facts=tuple(_describe_row(one)) if one.runs else (),
    )


def _mean_of(runs: Sequence[RunRecord], metric: str) -> Mean | None:
    """Return mean and spread of what each run's own rule selects."""
    return _mean_score([(run.best_epoch_on_held_out or run.best_epoch_on_test).scores for run in runs], metric)


def _mean_score(found: Sequence[Any], metric: str) -> Mean | None:
    values = [100 * scores[metric] for scores in found if metric in scores]
    return mean_and_spread(values) if values else None


def _format_mean(mean: Mean | None) -> str:
    return "" if mean is None else format_mean(*mean)


def _describe_command(row: Row) -> str:
    return row.command if row.own_datasets else command_for_row(row.name)


def _describe_row(one: RowContents) -> Iterator[tuple[str, str]]:
    first = one.runs[0]
    yield "Command", _describe_command(one.row)
    yield "Runs", ", ".join(f"seed {run.seed} ({run.run})" for run in (*one.published, *one.held_out))
    for split, role in ((first.train, "Training"), (first.test, "Test")):
        missing = len(split.missing_clips)
        named = f"; missing: {_name_some(split.missing_clips)}" if missing else ""
        yield role, f"{split.clips} clips of {split.name}, sha256 {split.sha256[:16]}{named}"
    yield (
        "Features",
        f"{', '.join(dict.fromkeys(run.features.cell for run in one.runs))} of {one.row.backbone}, key {first.features.key}, read by "
        + ", ".join(f"{reader} ({count})" for reader, count in first.features.readers.items()),
    )
    checkpoint = first.features.identity.get("checkpoint_sha256")
    assumed = "; which checkpoint the authors used is not known" if first.checkpoint_assumed else ""
    if checkpoint:
        yield "Checkpoint", f"sha256 {checkpoint}{assumed}"
    recipe = first.recipe.model_dump(exclude={"note"})
    loss = " ".join(f"{value}" if key == "name" else f"{key} {value}" for key, value in recipe.pop("loss").items())
    yield "Recipe", ", ".join([f"loss {loss}", *(f"{key} {value}" for key, value in recipe.items())])
    every = (*one.published, *one.held_out)
    yield (
        "Training took",
        f"{format_duration(sum(run.made.seconds for run in every))} for {len(every)} run{'s' * (len(every) > 1)}",
    )
    if one.row.published is not None:
        yield "Published in", f"{one.row.published.source}; the release's command: {one.row.published.command}"


def _describe_audit(name: str, audit: Manifest | None) -> dict[str, object]:
    if audit is None:
        return {"name": name, "clips": "", "missing": "", "damaged": "", "manifest": "not audited here", "examples": ""}
    missing = [clip for clip in audit.clips if not clip.present]
    damaged = [clip for clip in audit.clips if clip.present and clip.error]
    examples = _name_some([f"{clip.id} ({clip.error or 'missing'})" for clip in (*missing, *damaged)])
    return {
        "name": name,
        "clips": len(audit.clips),
        "missing": len(missing),
        "damaged": len(damaged),
        "manifest": f"sha256 {audit.sha256}",
        "examples": examples,
    }


def _describe_extractions(found: Sequence[Spent]) -> Iterator[tuple[str, str]]:
    for device in dict.fromkeys(one.device for one in found):
        some = [one for one in found if one.device == device]
        seconds, windows = sum(one.seconds for one in some), sum(one.windows for one in some)
        took = f"{format_duration(seconds)} for {windows:,} windows{_describe_energy(device, seconds)}"
        yield f"{len(some)} extraction{'s' * (len(some) > 1)} on {device}", took
    if not found:
        yield "extractions", "time not recorded here: features were imported, or extracted by version 0.1.0"


def _describe_energy(device: str, seconds: float) -> str:
    return f", at most {seconds / 3600 * WATTS / 1000:.2f} kWh at {WATTS:.0f} W" if device != "cpu" else ""


def _describe_computing(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str]]:
    seconds: defaultdict[str, float] = defaultdict(float)
    for run in runs:
        seconds[run.made.on.get("device", "cpu")] += run.made.seconds
    for device, spent in seconds.items():
        count = sum(run.made.on.get("device", "cpu") == device for run in runs)
        yield (
            f"{count} training{'s' * (count > 1)} on {device}",
            f"{format_duration(spent)}{_describe_energy(device, spent)}",
        )
    for what, found in (("Software", [r.made.by for r in runs]), ("Machine", [r.made.on for r in runs])):
        kinds = {content_sha256(dict(one)): one for one in found}
        for one in kinds.values():
            yield what, ", ".join(f"{key} {value}" for key, value in one.items())


def _all_runs(one: RowContents) -> list[RunRecord]:
    runs = {run.run: run for run in (*one.published, *one.held_out)}
    if one.grid is not None:
        runs |= {run.run: run for run in one.grid.runs.values()}
    return list(runs.values())


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_EXAMPLES} more" if len(names) > MOST_EXAMPLES else ""
    return ", ".join(names[:MOST_EXAMPLES]) + more
