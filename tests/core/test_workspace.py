"""A workspace whose stamp is hostile is refused in one line; what libraries keep is in it."""

import os
import runpy
import tempfile
from pathlib import Path

import pytest
import torch

from repro.core.errors import UsageError
from repro.core.workspace import LIBRARY_CACHES, Workspace, keep_caches, open_workspace


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


def test_compiled_networks_are_kept_in_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch itself finds the folders; by default those of torch.compile are in /tmp, which a container loses."""
    for name in LIBRARY_CACHES:
        # Set first, so that it is removed again after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    keep_caches(Workspace(tmp_path))
    # The file alone: importing torch._inductor takes 2 s.
    folders = runpy.run_path(str(Path(torch.__file__).parent / "_inductor" / "runtime" / "cache_dir_utils.py"))
    for folder in (folders["cache_dir"](), folders["triton_cache_dir"](0)):
        assert Path(folder).is_relative_to(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["torchinductor"]


@pytest.mark.parametrize("named", [True, False])
def test_caches_of_the_compiler_that_cannot_be_written_are_in_the_temporary_folder(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing transformers creates torch's, also for `repro predict` with a workspace that is read-only."""
    closed, temporary = tmp_path / "closed", tmp_path / "temporary"
    closed.touch()
    for name in LIBRARY_CACHES:
        monkeypatch.setenv(name, str(closed / "of mine"))
        if not named:
            monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    keep_caches(Workspace(tmp_path if named else closed))
    folders = runpy.run_path(str(Path(torch.__file__).parent / "_inductor" / "runtime" / "cache_dir_utils.py"))
    for folder in (folders["cache_dir"](), folders["triton_cache_dir"](0)):
        assert Path(folder).is_relative_to(temporary)
