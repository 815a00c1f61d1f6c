"""`repro report`: one page that loads nothing, says what `repro check` says, and lets nothing that it names get out of its place."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from builders.commands import ROOT, load_script, run_repro
from builders.records import record, write_with_evidence

from repro.backbones.config import Cell
from repro.core.console import escape_text
from repro.core.hashing import content_sha256
from repro.core.workspace import open_workspace
from repro.features.spent import SpentLog
from repro.judge.kept import dump_arrays, parse_arrays
from repro.judge.scores import numbers
from repro.judge.scores.numbers import compute_numbers
from repro.report.contents import Contents, gather_contents
from repro.report.deviations import list_deviations
from repro.report.drawing import Drawing
from repro.report.figures import draw_grid, draw_seed_grids, list_row_drawings
from repro.report.page import list_drawings, render_markdown, render_page
from repro.table.rows import extra_names, load_row, row_names

HOSTILE = ("<script>alert(1)</script>", "=1+1|`x`\x1b[2J\u202e")
VOID = {"meta", "wbr", "br", "input", "path", "use", "rect", "image", "line", "polyline", "circle", "link"}


class Page(HTMLParser):
    """The page as a browser reads it: tags that close, ids, addresses, texts of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.loads: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "id" in given:
            self.ids[given["id"] or ""] += 1
        if tag == "script":
            self.scripts += 1
        for name in ("src", "href", "xlink:href", "action"):
            if name in given and not (given[name] or "").startswith(("#", "data:")) and tag != "a":
                self.loads.append(f"{tag} {given[name]}")
        assert not any(name.startswith("on") for name in given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a row with hostile class names, one of another, and a part of a grid of two seeds."""
    root = tmp_path_factory.mktemp("report")
    for seed in (39, 40, 41):
        made = record("ucf_hmdb_sdv2", seed, 0.76 + 0.002 * (seed - 40))
        write_with_evidence(root / "runs", made.model_copy(update={"classes": HOSTILE}))
    row = load_row("ucf_hmdb")
    for seed in (39, 40):
        for cell, score in (
            (row.features, 0.775),
            (Cell(timestep=10, layer=9), 0.78),
            (Cell(timestep=20, layer=5), 0.70),
        ):
            made = record("ucf_hmdb", seed, score + 0.001 * (seed - 39))
            features = made.features.model_copy(update={"cell": cell.name})
            stored = write_with_evidence(root / "runs", made.model_copy(update={"features": features}))
    # Two extractions of its features, one of other clips by the same backbone, and one by another version.
    for dataset in ("ucf101", "hmdb51", "videos-of-mine"):
        log = SpentLog(root, dataset, {"svd_xt": stored.load_record().features.key}, "<b>H100</b>")
        log.save(1000, 3600.0, {"decoder": 1.0, "device": 3500.0}, at_end=True)
    (root / "spent" / "other.json").write_text('{"format": 2}')
    return root


@pytest.fixture(scope="module")
def contents(workspace: Path) -> Contents:
    return gather_contents((), open_workspace(workspace))


@pytest.fixture(scope="module")
def page(contents: Contents) -> str:
    return render_page(contents)


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    read = Page(page)
    assert read.loads == []
    assert read.scripts == 1
    assert [name for name, count in read.ids.items() if count > 1] == []
    assert "default-src 'none'" in page
    # What figures take from the page is its text colour: none of them is drawn in one that a dark page hides.
    assert "#010203" not in page
    assert page.count("<svg") == page.count('<svg role="img" aria-label="')


def test_the_script_asks_for_what_the_page_has(page: str, tmp_path: Path) -> None:
    """Rows that are never judged have no table to sort."""
    name = extra_names()[0]
    write_with_evidence(tmp_path / "runs", record(name, 52, 0.5))
    other = render_page(gather_contents((load_row(name),), open_workspace(tmp_path)))
    for text, asked in ((page, {"results", "search", "verdict", "shown"}), (other, set())):
        assert set(re.findall(r'getElementById\("(\w+)"\)', text)) == asked
        assert Page(text).ids.keys() >= asked


@pytest.mark.slow
def test_scores_by_class_are_kept_and_not_taken_on_trust(
    workspace: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    real = compute_numbers
    monkeypatch.setattr(numbers, "compute_numbers", lambda given: computed.append(given) or real(given))
    opened = open_workspace(workspace)
    assert render_page(gather_contents((), opened)) == page
    assert len(computed) == 1  # one of the two rows is computed again, whichever
    lines = [json.loads(line) for line in opened.computed.read_text().splitlines()]
    with opened.computed.open("w") as file:
        for line in lines:
            if "items" in line["found"]:
                line["found"]["arrays"] = dump_arrays(
                    {name: array + 1 for name, array in parse_arrays(line["found"]["arrays"]).items()}
                )
            del line["sha256"]
            file.write(json.dumps(line | {"sha256": content_sha256(line)}) + "\n")
    warnings: list[str] = []
    assert render_page(gather_contents((), opened, warnings.append)) == page
    assert [line for line in warnings if "not what its predictions give" in line]


def test_extractions_count_as_computing(page: str) -> None:
    assert "2 extractions on &lt;b&gt;H100&lt;/b&gt;" in page
    assert "2 h 0 min for 2,000 windows, at most 1.40 kWh at 700 W" in page.replace("120 min", "2 h 0 min")


def test_foreign_text_stays_text(page: str, contents: Contents) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    text = render_markdown(contents)
    assert "\x1b" not in text
    assert "<script" not in text
    data = next(d for d in list_drawings(contents) if d.name == "ucf_hmdb_sdv2-classes").render_csv()
    assert {row["class"] for row in csv.DictReader(io.StringIO(data))} == {HOSTILE[0], f"'{escape_text(HOSTILE[1])}"}


def test_it_says_what_check_says(page: str, contents: Contents, workspace: Path) -> None:
    checked = json.loads(run_repro("check", "--json", "--workspace", workspace).out)
    verdicts = {entry["row"]: entry for entry in checked["verdicts"]}
    assert {one.name: str(one.verdict.outcome) for one in contents.rows if one.verdict} == {
        name: entry["verdict"] for name, entry in verdicts.items()
    }
    own = verdicts["ucf_hmdb_sdv2"]
    line = re.search(r"<tr data-verdict[^\n]*ucf_hmdb_sdv2.*?</tr>", page)
    assert line is not None
    assert f"{own['measured']:.2f} ± {own['spread']:.2f}" in line[0]
    assert f">{own['measured'] - 76.5:+.2f}<" in line[0]
    assert f"| {own['measured']:.2f} ± {own['spread']:.2f} |" in render_markdown(contents)
    assert page.count("<tr data-verdict=") == len(row_names())


def test_an_interval_is_around_the_measured_mean(contents: Contents) -> None:
    verdict = next(one.verdict for one in contents.rows if one.name == "ucf_hmdb_sdv2")
    assert verdict is not None
    assert verdict.interval is not None
    assert verdict.measured is not None
    low, high = (f"{end - verdict.measured + verdict.difference:+.2f}" for end in verdict.interval)
    assert f"95 % prediction interval {low} to {high}" in verdict.reason


def test_a_grid_shows_what_each_seed_selects(contents: Contents) -> None:
    one = next(one for one in contents.rows if one.name == "ucf_hmdb")
    assert one.grid is not None
    lines = list(csv.DictReader(io.StringIO(draw_seed_grids(one.grid).render_csv())))
    assert [(line["seed"], line["cell"], line["cells"]) for line in lines] == [
        ("39", "t10_layer09", "3"),
        ("40", "t10_layer09", "3"),
    ]
    assert len(list(csv.DictReader(io.StringIO(draw_grid(one.grid).render_csv())))) == 6


def test_figures_are_files_with_their_data(contents: Contents) -> None:
    one = next(one for one in contents.rows if one.name == "ucf_hmdb_sdv2")
    drawing = list_row_drawings(one)[0]
    assert drawing.render_file("svg").startswith(b"<?xml")
    assert b"#000000" in drawing.render_file("svg")
    assert drawing.render_file("png").startswith(b"\x89PNG")
    data = list(csv.DictReader(io.StringIO(drawing.render_csv())))
    assert len(data) == 3 * one.row.readout.epochs
    assert drawing.render_svg() == drawing.render_svg()


def test_data_is_no_formula() -> None:
    drawing = Drawing("x", "x", lambda: pytest.fail("drawn"), ("a",), [["=1"], ["+1"], ["-1"], ["@x"], [-1.0], ["a-1"]])
    assert drawing.render_csv().splitlines() == ["a", "'=1", "'+1", "'-1", "'@x", "-1.0", "a-1"]


def test_deviations_are_those_of_the_ledger() -> None:
    ledger = (ROOT / "docs" / "deviations.md").read_text()
    found = list_deviations(map(load_row, row_names()))
    numbers = [deviation.number for deviation in found]
    assert numbers == sorted(set(numbers))
    assert all(re.search(rf"^\| {number} \|", ledger, re.MULTILINE) for number in numbers)
    rows = {deviation.number: deviation.rows for deviation in found}
    assert len(rows[2]) == 24
    assert all(name.endswith("_sdv2") for name in rows[4])
    assert set(rows[20]) == {"ucf_hmdb_sdv2", "hmdb_ucf_sdv2"}


def test_the_command_writes_files(workspace: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "r.html", tmp_path / "figures"
    done = run_repro("report", "ucf_hmdb_sdv2", "-o", out, "--figures", figures, "--json", "--workspace", workspace)
    found = json.loads(done.out)
    assert found["rows"] == ["ucf_hmdb_sdv2"]
    assert sorted(map(Path, found["files"])) == sorted([out, *figures.iterdir()])
    assert {path.suffix for path in figures.iterdir()} == {".svg", ".png", ".csv"}
    Page(out.read_text())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nonsense"], 2, "nonsense"),
        (["ak_full"], 5, "no run record of ak_full"),
        (["-o", "page.pdf"], 2, "expected the name of an .html or .md file"),
        (["--format", "markdown", "-o", "page.html"], 2, "ends with .md"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_line(words: list[str], code: int, message: str, workspace: Path) -> None:
    done = run_repro("report", *words, "--workspace", workspace)
    assert done.code == code
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_what_other_programs_read_from_the_environment_changes_nothing(workspace: Path, tmp_path: Path) -> None:
    pages = []
    for number, values in enumerate(({}, {"SOURCE_DATE_EPOCH": "x", "MPLBACKEND": "x", "MATPLOTLIBRC": "/dev/zero"})):
        page = tmp_path / f"{number}.html"
        command = [sys.executable, "-m", "repro", "report", "ucf_hmdb_sdv2", "-o", page, "--workspace", workspace]
        subprocess.run(command, cwd=ROOT, env=os.environ | values, check=True, capture_output=True, timeout=120)
        pages.append(page.read_text())
    assert pages[0] == pages[1]


def test_a_report_imports_no_torch() -> None:
    """It would take a tenth of a report's time."""
    code = "import sys, repro.report.page; print(sorted({'torch', 'av', 'pandas', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_readmes_picture_has_every_published_value(tmp_path: Path) -> None:
    drawn = load_script("readme_picture").render_picture(tmp_path).decode()
    shown = (ROOT / "docs" / "table.svg").read_text()
    published = [row.published for row in map(load_row, row_names())]
    values = Counter(f"{value.value:.{value.digits}f}" for value in published if value is not None)
    for text in (drawn, shown):
        found = Counter(re.findall(r">(\d+\.\d+)</text>", text))
        assert all(found[value] >= count for value, count in values.items())


def test_two_workspaces_are_compared_in_place_of_a_page(workspace: Path, tmp_path: Path) -> None:
    write_with_evidence(tmp_path / "runs", record("ucf_hmdb_sdv2", 39, 0.75))
    done = run_repro("report", "--compare", workspace, tmp_path, "--json")
    assert len(json.loads(done.out)["comparison"]["pairs"]) == 1
    assert "ucf_hmdb_sdv2" in run_repro("report", "--compare", workspace, tmp_path).out
    assert run_repro("report", "ak_full", "--compare", workspace, tmp_path).code == 2
