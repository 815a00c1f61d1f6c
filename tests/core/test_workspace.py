"""A workspace whose stamp is hostile is refused in one line."""

import os
from pathlib import Path

import pytest

from repro.core.errors import UsageError
from repro.core.workspace import Workspace, open_workspace


def test_deep_nesting_in_the_stamp_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workspace.json").write_text("[" * 200_000)
    with pytest.raises(UsageError, match=r"workspace\.json: does not state the workspace's layout"):
        open_workspace(tmp_path)


def test_a_stamp_that_is_a_named_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "workspace.json")
    with pytest.raises(UsageError, match=r"workspace\.json: not a regular file"):
        open_workspace(tmp_path)


def test_what_a_killed_command_left_of_trying_the_disk_is_deleted(tmp_path: Path) -> None:
    left = tmp_path / ".writable.0123456789ab.partial"
    left.mkdir()
    (left / "lock").touch()
    Workspace(tmp_path).require_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["workspace.json"]
