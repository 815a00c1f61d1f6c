"""The workflow with Snakemake itself, which is no part of the lock: these tests skip where it is not on PATH."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders.commands import ROOT, load_script

pytestmark = pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not on PATH")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """`repro` on PATH, as `repro submit` puts it there."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
@pytest.mark.usefixtures("commands")
def test_snakemake_finds_nothing_to_complain_of_and_the_picture_is_its_graph(tmp_path: Path) -> None:
    words = ["snakemake", "--snakefile", ROOT / "workflow" / "Snakefile", "--config", f"workspace={tmp_path}", "--lint"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    script = load_script("workflow_graph")
    assert script.draw_svg(*script.read_graph()) == (ROOT / "docs" / "workflow.svg").read_text()
