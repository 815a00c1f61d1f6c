"""What the documents say is so."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from builders.commands import ROOT, load_script, schemas

from repro import __version__
from repro.cli.app import command_names
from repro.core.errors import Exit
from repro.table.rows import row_names


def readme() -> str:
    return (ROOT / "README.md").read_text()


def test_the_readmes_table_is_the_configs() -> None:
    assert load_script("readme_table").with_table(readme()) == readme()


def test_scores_of_the_smoke_job_are_the_golden_ones() -> None:
    golden = json.loads((ROOT / "expected" / "smoke" / "golden.json").read_text())["scores"]
    table, printed = ((ROOT / "docs" / page).read_text() for page in ("adding-a-backbone.md", "smoke.md"))
    for row, label in (("smoke", "tiny SVD, random weights"), ("smoke_mean_colour", "mean colour over time")):
        assert f"| {label} | {golden[row]['52']['top1']:.2f} | {golden[row]['53']['top1']:.2f} |" in table
    for metric in ("top1", "map_micro"):
        value = f"{golden['smoke']['52'][metric]:.2f}"
        assert f"tiny SVD, random weights     52  {metric:<9}    {value}    {value} " in printed


@pytest.mark.slow
def test_every_row_has_its_script_and_no_other_is_there() -> None:
    folder = ROOT / "scripts" / "rows"
    assert {path.stem for path in folder.iterdir()} == set(row_names())
    for name in row_names():
        assert (folder / f"{name}.sh").read_text() == load_script("row_scripts").script(name)
        assert os.access(folder / f"{name}.sh", os.X_OK)


def test_what_json_prints_is_published() -> None:
    """A command with --json needs a model in scripts/json_schemas.py; tests that run it with --json are held to it."""
    options = (ROOT / "tests" / "cli" / "options.txt").read_text().splitlines()
    commands = {line.removesuffix(" --json") for line in options if line.endswith(" --json")}
    written = {path.stem for path in (ROOT / "docs" / "schemas").iterdir()}
    made = schemas()
    assert set(made.OUTPUTS) == commands | {"error"}
    assert written == {made.schema_path(command).stem for command in made.OUTPUTS}
    for command in made.OUTPUTS:
        assert json.loads(made.schema_path(command).read_text()) == made.build_schema(command), (
            "python scripts/json_schemas.py"
        )


def test_every_verb_and_exit_code_is_explained() -> None:
    commands = (ROOT / "docs" / "commands.md").read_text()
    for command in set(command_names()) - {"run"}:
        assert f"`repro {command}" in commands
    for code in Exit:
        assert f"| {code.value} |" in commands


def test_every_deviation_a_file_names_is_in_the_ledger() -> None:
    ledger = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "deviations.md").read_text(), re.MULTILINE))
    named = set()
    for path in [*ROOT.glob("repro/**/*.py"), ROOT / "README.md"]:
        named |= set(re.findall(r"deviations\.md\)?,? (\d+)", path.read_text()))
    assert {"1", "2", "3", "4", "5", "6"} <= named <= ledger


def test_links_lead_somewhere() -> None:
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("expected/*.md"),
        *ROOT.glob("requirements/*.md"),
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "MIT"
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version = {{{__version__}}}" in (ROOT / "README.md").read_text()
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
    # A version that is being developed is what follows the last one: its changes are under "Unreleased".
    heading = "Unreleased" if ".dev" in __version__ else __version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall("^## (.*)", changelog, re.MULTILINE)[0].startswith(heading)


def test_the_lock_names_no_place_to_fetch_from() -> None:
    for path in Path(ROOT / "requirements").glob("*.txt"):
        lines = path.read_text().splitlines()
        assert not [
            line for line in lines if line.startswith(("-", "http:", "https:")) or "find-links" in line.split("#")[0]
        ]
        for number, line in enumerate(lines):
            if re.match(r"^[a-z0-9]", line):
                assert "==" in line
                assert "--hash=sha256:" in lines[number + 1]
