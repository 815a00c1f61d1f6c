"""The public Python API: what docs/api.md shows works, and importing it costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from builders.commands import ROOT
from builders.records import record, write

import repro
from repro.core.workspace import Workspace
from repro.judge.verdict import Outcome


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, repro; assert not {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules); repro.load_row"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_is_there_and_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for name in repro.__all__:
        assert getattr(repro, name) is not None
        assert name in dir(repro)
        assert name == "__version__" or f"`{name}" in text
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = repro.nothing


def test_the_example_of_the_docs_runs(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(5):
        write(workspace.runs, record("ak_full_sdv2", seed, 0.7866))
    monkeypatch.setenv("REPRO_WORKSPACE", str(workspace.root))
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    assert example is not None
    exec(compile(example[1], str(Path("docs") / "api.md"), "exec"), {})
    assert "ak_full_sdv2 REPRODUCED 78.66" in capsys.readouterr().out


def test_verdicts_are_those_of_the_command(workspace: Workspace) -> None:
    write(workspace.runs, record("ak_full_sdv2", 0, 0.7866))
    verdicts = {verdict.expected.row: verdict for verdict in repro.judge_records(repro.load_records(workspace.root))}
    assert list(verdicts) == repro.row_names()
    assert verdicts["ak_full_sdv2"].outcome is Outcome.WITHIN_MARGIN
    assert verdicts["ak_full"].outcome is Outcome.NOT_RUN


def test_a_damaged_record_is_named(workspace: Workspace) -> None:
    path = write(workspace.runs, record("ak_full_sdv2", 0, 0.7866)).record_path
    path.write_text(path.read_text()[:-20])
    with pytest.raises(repro.MissingError, match=re.escape(str(path))):
        repro.load_records(workspace.root)


def test_a_mistake_is_an_error_of_one_line() -> None:
    with pytest.raises(repro.ReproError, match="unknown row 'ak_ful'; did you mean 'ak_full'") as refused:
        repro.load_row("ak_ful")
    assert "\n" not in str(refused.value)
