"""`repro report`: the workspace's results as one HTML page."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import COMMON, CommonOptions
from repro.core import LazyModule
from repro.core.console import Reporter, print_lines
from repro.core.disk import format_size
from repro.core.errors import Exit, UsageError
from repro.core.files import write_bytes
from repro.table.rows import load_any_row

# These import matplotlib, which takes a second: mistakes are reported before.
if TYPE_CHECKING:
    from repro.report import comparison
    from repro.report import contents as page_contents
    from repro.report import page as report_page
else:
    comparison = LazyModule("repro.report.comparison")
    page_contents = LazyModule("repro.report.contents")
    report_page = LazyModule("repro.report.page")


def report(
    *rows: str,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    format_: Annotated[Literal["html", "markdown"], Parameter(name="--format")] = "html",
    figures: Path | None = None,
    compare: Annotated[tuple[Path, Path] | None, Parameter(negative="")] = None,
    common: CommonOptions = COMMON,
) -> Exit:
    """Write one page with everything that was measured: table, figures, claims, data, computing.

    The page needs no network and loads nothing.

    Example: `repro report -o report.html`

    Args:
        rows: Names of rows, or paths of row files of own clips [default: the 24, and all others that were run but those of own clips].
        output: File [default: report.html or report.md in this folder].
        format_: html, or markdown for the table alone.
        figures: Also write every figure as SVG and PNG with its data as CSV to this folder.
        compare: Two workspaces or bundles instead: print which numbers differ, and which inputs differ first.
    """
    if compare is not None:
        if rows or output or figures or format_ != "html":
            raise UsageError(
                "--compare A B prints what differs, and goes without rows, --output, --format and --figures"
            )
        return _compare(*compare, as_json=common.as_json)
    ending = "html" if format_ == "html" else "md"
    output = output or Path(f"report.{ending}")
    if output.is_dir() or output.suffix.lower() not in {".html", ".htm", ".md"}:
        raise UsageError(f"--output {output}: expected the name of an .html or .md file")
    if (output.suffix.lower() == ".md") != (format_ == "markdown"):
        raise UsageError(f"--output {output}: --format {format_} writes a file that ends with .{ending}")
    named, workspace = [load_any_row(name) for name in rows], common.open_workspace()
    reporter = Reporter(to_stderr=common.as_json)
    with _without_collector():
        with reporter.run_stage("report", "reading runs, and scoring those that are new"):
            contents = page_contents.gather_contents(named, workspace, reporter.warn)
        if format_ == "markdown":
            page = report_page.render_markdown(contents)
        else:
            with reporter.progress("report", len(contents.rows)) as advance:
                page = report_page.render_page(contents, advance)
    written, page_bytes = [output], page.encode(errors="backslashreplace")
    write_bytes(output, page_bytes, by_user=True)
    if figures is not None:
        for drawing in report_page.list_drawings(contents):
            files = {"svg": drawing.render_file("svg"), "png": drawing.render_file("png")}
            files["csv"] = drawing.render_csv().encode(errors="backslashreplace")
            for kind, content in files.items():
                written.append(figures / f"{drawing.name}.{kind}")
                write_bytes(written[-1], content)
    measured = [one.name for one in contents.rows if one.runs]
    if common.as_json:
        print(json.dumps({"files": [str(path) for path in written], "rows": measured}, indent=1))
    else:
        also = f" and {len(written) - 1} files of figures in {figures}" if figures else ""
        shown = f"{len(measured)} row{'s' * (len(measured) > 1)} with runs, {format_size(len(page_bytes))}"
        reporter.line(f"{'report':<11} {shown}  {output}{also}")
    return Exit.OK


@contextmanager
def _without_collector() -> Iterator[None]:
    """Leave reference cycles in memory within the block: the collector would go through all records again and again, a tenth of a
    report's time. The figures, which are in such cycles, take a few MB."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _compare(first: Path, second: Path, *, as_json: bool) -> Exit:
    found = comparison.compare_places(first, second)
    if as_json:
        print(json.dumps({"comparison": found.as_json()}, indent=1))
    else:
        print_lines(comparison.format_comparison(found))
    return Exit.OK
