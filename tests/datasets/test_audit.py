"""Audits: the facts of every clip, independent of the number of processes; resuming; differences of two manifests."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import bad_workers
from builders import tiny_datasets as tiny_data
from builders.commands import TESTS
from builders.reporters import RecordingReporter

from repro.core.errors import UsageError
from repro.core.hashing import file_sha256
from repro.core.workspace import Workspace
from repro.datasets.audit import audit_dataset
from repro.datasets.manifest import (
    ClipFacts,
    Manifest,
    list_differences,
    manifest_path,
    read_manifest,
    stored_manifest,
    write_manifest,
)
from repro.datasets.presence import find_missing
from repro.datasets.registry import Dataset, open_dataset
from repro.video import probe


@pytest.fixture
def hmdb(workspace: Workspace) -> Dataset:
    return open_dataset(tiny_data.hmdb51(workspace.data / "hmdb51"), workspace)


def by_id(manifest: Manifest) -> dict[str, ClipFacts]:
    return {clip.id: clip for clip in manifest.clips}


def test_the_facts_of_every_clip(hmdb: Dataset, workspace: Workspace, reporter: RecordingReporter) -> None:
    done = audit_dataset(hmdb, workspace, 2, reporter)
    assert (done.decoded, done.reused) == (24, 0)
    assert done.path == manifest_path(workspace, "hmdb51")
    for clip, facts in zip(hmdb.clips, done.manifest.clips, strict=True):
        assert dataclasses.asdict(facts) == {
            "id": clip.id,
            "path": str(clip.path.relative_to(hmdb.folder)),
            "splits": ("train" if "ri_med" in clip.id else "val", "full"),
            "present": True,
            "bytes": clip.path.stat().st_size,
            "frames": 9,
            "fps": 25.0,
            "width": 64,
            "height": 48,
            "seconds": pytest.approx(9 / 25),
            "reader": "pyav",
            "error": "",
            "sha256": file_sha256(clip.path),
        }
    assert read_manifest(done.path) == done.manifest
    assert pq.read_table(done.path).num_rows == 24


def test_the_number_of_processes_does_not_matter(
    hmdb: Dataset, workspace: Workspace, reporter: RecordingReporter
) -> None:
    found = []
    for workers in (1, 3):
        place = Workspace(workspace.root / str(workers), workspace.data)
        found.append(audit_dataset(hmdb, place, workers, reporter).manifest)
    assert found[0] == found[1]
    assert found[0].sha256 == found[1].sha256


def test_faulty_clips_are_named_and_the_others_decoded(
    hmdb: Dataset, workspace: Workspace, reporter: RecordingReporter
) -> None:
    absent, empty, text, cut = hmdb.clips[:4]
    absent.path.unlink()
    empty.path.write_bytes(b"")
    text.path.write_bytes(b"no video" * 100)
    cut.path.write_bytes(cut.path.read_bytes()[: cut.path.stat().st_size * 4 // 5])
    done = audit_dataset(hmdb, workspace, 2, reporter)
    found = by_id(done.manifest)
    assert [clip.id for clip in done.manifest.clips if clip.error] == [c.id for c in (absent, empty, text, cut)]
    assert found[absent.id].error == f"hmdb51_org/climb/{absent.path.name}: no such file (listed in {absent.listed})"
    assert (found[absent.id].present, found[text.id].present) == (False, True)
    assert "0 bytes" in found[empty.id].error
    for clip in (text, cut):
        assert found[clip.id].error
        assert str(hmdb.folder) not in found[clip.id].error
        assert found[clip.id].sha256 == file_sha256(clip.path)
    assert found[text.id].frames == 0
    assert found[cut.id].error.startswith("damaged: the file is cut off")
    assert 0 < found[cut.id].frames < 9
    assert set(find_missing(hmdb.split("full"), hmdb.folder, done.manifest, allow_damaged=True)) == {
        absent.id, empty.id, text.id
    }  # fmt: skip
    # What did not decode completely counts as missing, until it is another file.
    gone = find_missing(hmdb.split("full"), hmdb.folder, done.manifest)
    assert set(gone) == {absent.id, empty.id, text.id, cut.id}
    assert "did not decode completely when it was audited" in gone[text.id]
    tiny_data.film(text.path, 99)
    assert text.id not in find_missing(hmdb.split("full"), hmdb.folder, done.manifest)
    again = audit_dataset(hmdb, workspace, 1, reporter)
    assert (again.decoded, again.reused) == (2, 20)  # what was repaired, and what failed
    assert not by_id(again.manifest)[text.id].error


def test_unchanged_clips_are_not_decoded_again(
    hmdb: Dataset, workspace: Workspace, reporter: RecordingReporter
) -> None:
    first = audit_dataset(hmdb, workspace, 1, reporter)
    again = audit_dataset(hmdb, workspace, 1, reporter)
    assert (again.decoded, again.reused) == (0, 24)
    assert again.manifest == first.manifest
    journal = workspace.audits / "hmdb51" / "journal.jsonl"
    journal.write_text(journal.read_text()[:-30] + "\nnonsense\n[1, 2]\n")
    assert audit_dataset(hmdb, workspace, 1, reporter).decoded == 1
    assert read_manifest(first.path) == first.manifest


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from builders import tiny_datasets
from repro.datasets import audit
from repro.datasets.registry import open_dataset
from repro.core.console import Reporter
from repro.core.workspace import Workspace

if __name__ == "__main__":
    workspace = Workspace(Path(sys.argv[1]))
    dataset = open_dataset(tiny_datasets.config("hmdb51"), workspace)
    audit.audit_dataset(dataset, workspace, 1, Reporter())
"""


def test_a_killed_audit_resumes(
    hmdb: Dataset, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    script = tmp_path / "audit.py"
    script.write_text(KILLED)
    run = subprocess.Popen([sys.executable, str(script), str(workspace.root), str(TESTS)], stdout=subprocess.DEVNULL)
    journal = workspace.audits / "hmdb51" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_text().count("\n") >= 3):
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = journal.read_text().count("\n")
    assert kept >= 3
    done = audit_dataset(hmdb, workspace, 2, reporter)
    assert done.reused >= kept
    assert done.decoded == 24 - done.reused
    assert all(not clip.error for clip in done.manifest.clips)


@pytest.mark.slow
def test_a_reader_that_hangs_or_dies_costs_one_clip_at_most(
    hmdb: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = shutil.copy(hmdb.clips[0].path, hmdb.folder / "bad.avi")
    paths = [bad, hmdb.clips[1].path]
    for act, why in (
        (bad_workers.hang_on_bad_clips, "no frame within 2 s"),
        (bad_workers.die_on_bad_clips, "its process died (exit code 9)"),
    ):
        monkeypatch.setattr(probe, "prepare_probing", act)
        found = dict(probe.probe_all(paths, 2, workspace.hashes, time_limit=2.0))
        assert [found[n].error for n in range(2)] == [f"clip {bad}: {why}", ""]
        assert [found[n].reader for n in range(2)] == ["", "pyav"]
    monkeypatch.setattr(probe, "prepare_probing", bad_workers.die_at_start)
    found = dict(probe.probe_all(paths[:1], 1, workspace.hashes))
    assert (found[0].error, found[0].contents) == (f"clip {bad}: its process died (exit code 9)", None)


# The manifest.


def facts(name: str, **changes: object) -> ClipFacts:
    plain = ClipFacts(
        id=name, path=f"x/{name}.avi", splits=("train",), present=True, bytes=10, frames=9, fps=25.0, width=64, height=48,
        seconds=0.36, reader="pyav", error="", sha256="a" * 64,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def manifest(*clips: ClipFacts) -> Manifest:
    return Manifest("hmdb51", "key", clips)


def test_the_content_hash_depends_on_the_clips_alone() -> None:
    a = manifest(facts("1"), facts("2"))
    same = manifest(facts("2", reader="pyav", path="elsewhere"), facts("1", splits=("val",)))
    assert a.sha256 == same.sha256
    others = [
        manifest(facts("1")),
        manifest(facts("1"), facts("2", sha256="b" * 64)),
        manifest(facts("1"), facts("2", frames=0, error="cut off")),
        dataclasses.replace(a, dataset="ucf101"),
    ]
    assert len({a.sha256, *(other.sha256 for other in others)}) == 5


def test_differences_are_named() -> None:
    a = manifest(facts("1"), facts("2"), facts("3"), facts("4", error="cut off"))
    b = manifest(facts("2", sha256="b" * 64, bytes=11), facts("3", reader="pyav"), facts("4", error="cut"), facts("5"))
    assert [str(one) for one in list_differences(a, b)] == [
        "1: only in A",
        "2: bytes 10 -> 11",
        f"2: sha256 {'a' * 12} -> {'b' * 12}",
        "5: only in B",
    ]
    assert list(list_differences(a, a)) == []
    with pytest.raises(UsageError, match="of two data sets, hmdb51 and ucf101"):
        list(list_differences(a, dataclasses.replace(b, dataset="ucf101")))


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "cut off", "other parquet", "edited", "other format"])
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    import pyarrow as pa

    path = tmp_path / "manifest.parquet"
    write_manifest(path, manifest(facts("1"), facts("2")))
    whole = path.read_bytes()
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"manifest"])
    if damage == "absent":
        path.unlink()
    elif damage == "other parquet":
        pq.write_table(pa.table({"x": [1]}), path)
    elif damage == "edited":
        pq.write_table(table.slice(0, 1), path)
    elif damage == "other format":
        pq.write_table(table.replace_schema_metadata({"manifest": json.dumps(about | {"format": "9"})}), path)
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "cut off": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_workspace_without_an_audit_has_no_manifest(workspace: Workspace) -> None:
    assert stored_manifest(workspace, "hmdb51") is None
