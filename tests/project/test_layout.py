"""The tree keeps its shape: few entries a folder, files about one thing, tests that mirror the packages."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.commands import ROOT, TESTS
from jaxtyping import TypeCheckError

from repro.readout import heads, metrics
from repro.readout.sequences import Batch
from repro.table.rows import load_row

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


@pytest.mark.skipif(os.environ.get("REPRO_TEST_SHAPES") == "0", reason="REPRO_TEST_SHAPES=0")
def test_shapes_in_signatures_are_checked() -> None:
    """Of functions, methods and dataclasses: wrong dimensions, and two that are to be equal."""
    head = heads.ClassificationTransformer(8, 3, load_row("smoke").readout)
    wrong: list[Callable[[], object]] = [
        lambda: metrics.map_macro(np.zeros((4, 3)), np.zeros((5, 3), bool)),
        lambda: head.forward(torch.zeros(2, 5, 8), torch.ones(2, 4, dtype=torch.bool)),
        lambda: Batch(torch.zeros(3), (3,), torch.zeros(1, 3)),
    ]
    for call in wrong:
        with pytest.raises(TypeCheckError):
            call()
