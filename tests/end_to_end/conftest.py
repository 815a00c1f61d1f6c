"""One tiny project for all tests of a process: making it takes longer than most of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import tiny_project

from repro.core.workspace import Workspace
from repro.table.rows import load_row


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny_project.make(folder)
    return folder


@pytest.fixture(scope="module")
def project(folder: Path) -> Iterator[Workspace]:
    """The copy's configs in this process, and its workspace."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_project.use(folder, patch)
        load_row.cache_clear()
        yield Workspace(folder / "workspace")
    load_row.cache_clear()
