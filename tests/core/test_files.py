"""Files are whole or absent; keys depend on contents alone; the workspace says what it cannot do."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.core.errors import UsageError
from repro.core.files import replacing_file, set_aside, write_bytes, write_json
from repro.core.hashing import content_key, file_sha256
from repro.core.locks import ABANDONED, remove_partials
from repro.core.workspace import Workspace, open_scratch_workspace, open_workspace


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"old")

    def fail() -> None:
        with replacing_file(path) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_killed_write_leaves_a_partial_that_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from repro.core.files import replacing_file\n"
        "with replacing_file(Path(sys.argv[1])) as p:\n  p.write_bytes(b'half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=False)
    assert not (tmp_path / "f").exists()
    assert len(list(tmp_path.iterdir())) == 1
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_is_writing_is_not_swept(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from repro.core.files import replacing_file\n"
        "with replacing_file(Path(sys.argv[1])) as p:\n  p.write_bytes(b'half'); print('.', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "f")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    remove_partials(tmp_path)
    writer.communicate(b"")
    assert (tmp_path / "f").read_bytes() == b"half"


def test_a_held_partial_is_kept_whatever_its_age_and_whoever_cleans(tmp_path: Path) -> None:
    """Two containers have one host name and pid 1: only the lock tells whose file it is, also within one process."""
    with replacing_file(tmp_path / "f") as partial:
        partial.write_bytes(b"half")
        for path in (partial, partial.parent / "lock", partial.parent):
            os.utime(path, (0, 0))
        remove_partials(tmp_path)
        partial.write_bytes(partial.read_bytes() + b" and half")
    assert (tmp_path / "f").read_bytes() == b"half and half"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_libraries_write_next_to_a_partial_is_deleted_with_it(tmp_path: Path) -> None:
    """SQLite's journals, and the files that safetensors renames."""
    code = (
        "import os, sys; from pathlib import Path; from repro.core.files import replacing_file\n"
        "with replacing_file(Path(sys.argv[1])) as p:\n"
        "  p.with_name(p.name + '-journal').touch(); p.with_name('.tmpAbCdEf').touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=False)
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_partials_without_a_lock_are_deleted_after_a_day(tmp_path: Path) -> None:
    """Of earlier versions, and of file systems without locks."""
    fresh, old = tmp_path / ".f.12-elsewhere-0123ab.partial", tmp_path / ".f.12-elsewhere-4567cd.partial-journal"
    fresh_folder, old_folder = tmp_path / ".g.0123456789ab.partial", tmp_path / ".h.0123456789ab.partial"
    for folder in (fresh_folder, old_folder):
        folder.mkdir()
    for path in (fresh, old, fresh_folder / "content", old_folder / "content"):
        path.write_bytes(b"")
    then = old.stat().st_mtime - 2 * ABANDONED
    for path in (old, old_folder / "content", old_folder, fresh_folder):
        os.utime(path, (then, then))
    remove_partials(tmp_path)
    assert sorted(tmp_path.iterdir()) == [fresh, fresh_folder]


def test_a_writer_killed_before_it_had_its_lock_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is still empty. That of a writer which is about to lock is deleted as well, and it makes another."""
    (tmp_path / ".f.0123456789ab.partial").mkdir()
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == []
    create = os.open

    def create_late(*arguments: Any) -> int:
        monkeypatch.undo()
        remove_partials(tmp_path)
        return create(*arguments)

    monkeypatch.setattr(os, "open", create_late)
    write_bytes(tmp_path / "f", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"1"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written all the same; what needs a lock says so."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with replacing_file(tmp_path / "f") as partial:
        remove_partials(tmp_path)
        partial.write_bytes(b"1")
        remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    with pytest.raises(UsageError, match="cannot be locked"), Workspace(tmp_path).lock("job"):
        pass


def test_a_long_name_of_long_characters(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("\U0001f3ac" * 63), b"1")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_as_long_as_file_systems_allow(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["x" * 255]


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "f", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_setting_aside_keeps_every_copy(tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        (tmp_path / "f").write_bytes(content)
        set_aside(tmp_path / "f")
    assert sorted(p.read_bytes() for p in tmp_path.iterdir()) == [b"1", b"2"]


def test_keys_depend_on_contents_alone(tmp_path: Path) -> None:
    assert content_key({"a": 1, "b": [1, 2]}) == content_key({"b": [1, 2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 1.5})
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_workspace_is_the_option_then_the_environment_then_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REPRO_WORKSPACE", raising=False)
    assert open_workspace(None).root == tmp_path / "workspace"
    monkeypatch.setenv("REPRO_WORKSPACE", str(tmp_path / "env"))
    assert open_workspace(None).root == tmp_path / "env"
    assert open_workspace(Path("opt")).root == tmp_path / "opt"
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        open_workspace(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written"):
        Workspace(tmp_path / "file" / "below").require_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_workspace(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        Workspace(tmp_path).require_writable()


def test_a_lock_is_held_once_and_freed_by_death(workspace: Workspace) -> None:
    workspace.require_writable()
    with (
        workspace.lock("job"),
        pytest.raises(UsageError, match=f'already running here .*"pid": {os.getpid()}'),
        workspace.lock("job"),
    ):
        pass
    code = (
        "import os, sys; from pathlib import Path; from repro.core.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock('job'): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(workspace.root)], check=False)
    with workspace.lock("job"):
        pass


def test_scratch_is_used_only_where_the_environment_offers_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = tmp_path / "file" / "workspace"
    monkeypatch.setenv("REPRO_WORKSPACE", str(broken))
    monkeypatch.delenv("REPRO_SCRATCH", raising=False)
    with pytest.raises(UsageError, match="cannot be written"):
        open_scratch_workspace(None)
    monkeypatch.setenv("REPRO_SCRATCH", str(tmp_path / "scratch"))
    workspace, note = open_scratch_workspace(None)
    assert workspace.root.parent == tmp_path / "scratch"
    assert str(broken) in note
    with pytest.raises(UsageError, match="cannot be written"):
        open_scratch_workspace(broken)
    assert open_scratch_workspace(tmp_path / "good")[1] == ""


def test_data_and_checkpoints_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "d"))
    monkeypatch.setenv("REPRO_CHECKPOINTS", str(tmp_path / "c"))
    workspace = open_workspace(tmp_path / "w")
    assert (workspace.data, workspace.checkpoints) == (tmp_path / "d", tmp_path / "c")
    assert workspace.features == tmp_path / "w" / "features"
