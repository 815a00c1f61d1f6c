"""The tree keeps its shape: few entries a folder, files about one thing, tests that mirror the packages."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from builders.commands import ROOT, TESTS

MOST_ENTRIES, MOST_BYTES = 15, 24_000
SPECIAL_TESTS = {"builders", "end_to_end", "faults", "formats", "hostile", "image", "project", "properties", "workflow"}


def folders(root: Path) -> Iterator[Path]:
    for folder in (root, *root.rglob("*")):
        if folder.is_dir() and "__pycache__" not in folder.parts:
            yield folder


def entries(folder: Path) -> list[Path]:
    """What somebody sees who opens a folder, without the files that Python itself asks for (__init__.py and its like)."""
    return [path for path in folder.iterdir() if not path.name.startswith("__")]


def test_no_folder_has_many_entries() -> None:
    for folder in folders(ROOT / "repro"):
        assert len(entries(folder)) <= MOST_ENTRIES, folder


def test_no_module_is_loose_at_the_root() -> None:
    assert {path.name for path in (ROOT / "repro").iterdir() if path.is_file()} == {"__init__.py", "__main__.py"}


def test_no_module_is_large_or_named_for_nothing() -> None:
    for path in ROOT.glob("repro/**/*.py"):
        assert path.stem not in ("utils", "util", "common", "helpers", "misc")
        assert path.stat().st_size <= MOST_BYTES, path


def test_every_folder_of_tests_belongs_to_a_package() -> None:
    packages = {path.relative_to(ROOT / "repro") for path in folders(ROOT / "repro")}
    for folder in folders(TESTS):
        place = folder.relative_to(TESTS)
        assert place in packages or place.parts[0] in SPECIAL_TESTS, place


def test_every_shape_in_a_signature_is_checked() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    (checked,) = (
        option.partition("=")[2].split(",") for option in options if option.startswith("--jaxtyping-packages=")
    )
    for path in ROOT.glob("repro/**/*.py"):
        if "from jaxtyping import" in path.read_text():
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert any(f"{module}.".startswith(f"{package}.") for package in checked), module
