"""The quickstart runs from its first cell to its last, and what it shows is what it gives."""

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from builders.commands import ROOT, load_script

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
MOST_BYTES, MOST_FIGURE_BYTES = 150_000, 40_000


def read_text(outputs: list[dict[str, Any]]) -> list[str]:
    """Return the printed lines without decimals and their order, which rounding on another processor may change."""
    text = "".join(line for output in outputs if output["output_type"] == "stream" for line in output["text"])
    return sorted(re.sub(r"\d+\.\d+", "#", text).splitlines())


def measure_figures(outputs: list[dict[str, Any]]) -> list[int]:
    """Return width and height of each figure, from the header of the PNG."""
    pictures = [base64.b64decode(one["data"]["image/png"]) for one in outputs if one["output_type"] == "display_data"]
    return [side for picture in pictures for side in struct.unpack(">II", picture[16:24])]


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text())
    return notebook


def test_stored_outputs_are_small_and_links_lead_somewhere(stored: dict[str, Any]) -> None:
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    figures = [
        output["data"]["image/png"]
        for cell in stored["cells"]
        for output in cell.get("outputs", ())
        if output["output_type"] == "display_data"
    ]
    assert len(figures) == 4
    assert max(map(len, figures)) < MOST_FIGURE_BYTES * 4 / 3
    links = re.findall(r"\]\(([^)#]+)\)", "".join("".join(cell["source"]) for cell in stored["cells"]))
    assert links
    assert all((NOTEBOOK.parent / link).exists() for link in links)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_runs_and_stored_outputs_are_its_own(
    stored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # read from the environment again
    monkeypatch.setenv("REPRO_DEVICE", "cpu")
    runner = load_script("run_notebook")
    code = runner.read_code_cells(stored)
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    for cell, found in zip(code, runner.run_cells(NOTEBOOK), strict=True):
        assert read_text(found) == read_text(cell["outputs"])
        # Ticks follow the numbers, and may be a few pixels wider.
        assert measure_figures(found) == pytest.approx(measure_figures(cell["outputs"]), abs=15)
