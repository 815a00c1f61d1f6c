"""A bundle that is not what `repro bundle` writes is refused in one line, and leaves nothing behind.

Each forgery changes the bundle in examples/evidence and signs again whatever somebody who forges it can sign.
"""

import io
import json
import re
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders.commands import ROOT, run_repro

from repro.core.hashing import content_sha256
from repro.pipeline.bundle.archive import END_RECORD, BundleError
from repro.pipeline.bundle.read import open_bundle

EXAMPLE = ROOT / "examples" / "evidence" / "smoke.zip"
Files = dict[str, bytes]


def read_example() -> Files:
    with zipfile.ZipFile(EXAMPLE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sign(raw: dict[str, Any]) -> bytes:
    unsigned = {key: value for key, value in raw.items() if key != "sha256"}
    return json.dumps({**unsigned, "sha256": content_sha256(unsigned)}).encode()


def change_manifest(bundled: Files, /, **changes: Any) -> None:
    bundled["bundle.json"] = sign(json.loads(bundled["bundle.json"]) | changes)


def sign_all(files: Files) -> None:
    """List the files as they are now in bundle.json."""
    listed = {
        name: {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
        if name != "bundle.json"
    }
    change_manifest(files, files=listed)


def pack(files: Files, path: Path, tamper: Callable[[zipfile.ZipFile], None] = lambda _: None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        tamper(archive)


def find(files: Files, end: str) -> str:
    """Return the first file of a run of `smoke` whose name ends with `end`."""
    return next(name for name in files if name.startswith("runs/smoke/") and name.endswith(end))


def drop_runs(files: Files, beginning: str) -> None:
    for name in [*files]:
        if name.startswith(beginning):
            del files[name]
    sign_all(files)


def change_record(files: Files, change: Callable[[dict[str, Any]], object]) -> None:
    name = find(files, "record.json")
    raw = json.loads(files[name])
    change(raw)
    files[name] = sign(raw)
    sign_all(files)


def change_predictions(files: Files, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the predictions of one run, and the record's hash of them."""
    name = find(files, "predictions.parquet")
    target = io.BytesIO()
    pq.write_table(change(pq.ParquetFile(io.BytesIO(files[name])).read()), target)
    files[name] = target.getvalue()
    change_record(files, lambda raw: raw.update(predictions_sha256=sha256(files[name]).hexdigest()))


def rename_clips(names: Callable[[str], str]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        clips = pa.array([names(clip) for clip in table["clip"].to_pylist()])
        return table.set_column(table.schema.get_field_index("clip"), "clip", clips)

    return change


def swap_two(table: pa.Table) -> pa.Table:
    """Give two clips of different labels each other's names, so that every score stays."""
    clips, targets = table["clip"].to_pylist(), table["targets"].to_pylist()
    other = next(n for n, target in enumerate(targets) if target != targets[0])
    names = {clips[0]: clips[other], clips[other]: clips[0]}
    return rename_clips(lambda clip: names.get(clip, clip))(table)


def spoil_numbers(table: pa.Table) -> pa.Table:
    """Replace the first output by NaN, whatever column holds outputs."""
    column = next(name for name in ("logits", "scores") if name in table.schema.names)
    rows = table[column].to_pylist()
    next(row for row in rows if row)[0] = float("nan")
    return table.set_column(
        table.schema.get_field_index(column), column, pa.array(rows, table.schema.field(column).type)
    )


def with_member(
    name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644
) -> Callable[[zipfile.ZipFile], None]:
    def tamper(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of a name that the archive has already
            archive.writestr(info, content)

    return tamper


def with_header(**changes: int) -> Callable[[zipfile.ZipFile], None]:
    """State something else of the last member in the zip's list."""

    def tamper(archive: zipfile.ZipFile) -> None:
        for key, value in changes.items():
            setattr(archive.filelist[-1], key, value)

    return tamper


ARCHIVES: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "path that escapes": (with_member("../../escaped"), "a name that bundles do not have"),
    "path that escapes inside": (with_member("runs/../../escaped"), "a name that bundles do not have"),
    "absolute path": (with_member("/tmp/escaped"), "a name that bundles do not have"),
    "backslashes": (with_member("..\\escaped"), "a name that bundles do not have"),
    "drive": (with_member("C:/escaped"), "a name that bundles do not have"),
    "hidden": (with_member("runs/.ssh/config"), "a name that bundles do not have"),
    "bomb": (with_member("bomb", bytes(60 << 20)), "more than a bundle has"),
    "size of a bomb in the list alone": (with_header(file_size=1 << 40), "more than a bundle has"),
    "more bytes than listed": (with_header(file_size=10), "states"),
    "link": (with_member("link", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
    "folder": (with_member("folder/", b""), "a name that bundles do not have"),
    "two manifests": (with_member("bundle.json"), "two members are named 'bundle.json'"),
    "two manifests, one below": (with_member("runs/bundle.json"), "two manifests"),
    "names that differ in case": (with_member("REPORT.md"), "two members are named"),
    "encrypted": (with_header(flag_bits=1), "is encrypted"),
    "other compression": (with_header(compress_type=zipfile.ZIP_LZMA), "compressed in a way"),
    "not in the manifest": (with_member("runs/more.txt"), "is not listed in bundle.json"),
}

FORGERIES: dict[str, tuple[Callable[[Files], object], str]] = {
    "no manifest": (lambda files: files.pop("bundle.json"), "no bundle.json in it"),
    "empty zip": (lambda files: files.clear(), "no bundle.json in it"),
    "file is missing": (lambda files: files.pop("report.md"), "report.md is listed in bundle.json and not in the file"),
    "sha256 is wrong": (
        lambda files: files.update({"report.md": files["report.md"].replace(b"smoke", b"smokE")}),
        "report.md does not match its sha256",
    ),
    "size is wrong": (lambda files: files.update({"report.md": b"short"}), "report.md has 5 bytes"),
    "manifest is edited": (
        lambda files: files.update({"bundle.json": files["bundle.json"].replace(b'"records": 4', b'"records": 3')}),
        "edited",
    ),
    "manifest is not JSON": (lambda files: files.update({"bundle.json": b"{"}), "bundle.json is damaged"),
    "manifest is nested": (lambda files: files.update({"bundle.json": b"[" * 100_000}), "bundle.json is damaged"),
    "manifest has NaN": (lambda files: files.update({"bundle.json": b'{"records": NaN, "sha256": ""}'}), "NaN"),
    "unknown key in the manifest": (lambda files: change_manifest(files, extra=1), "is not of format 1: extra"),
    "newer format": (lambda files: change_manifest(files, format=2), "this version reads format 1: use that version"),
    "other rule set": (
        lambda files: change_manifest(files, rules=json.loads(files["bundle.json"])["rules"] | {"name": "rules-9"}),
        "judged by rule set 'rules-9'",
    ),
    "no records": (
        lambda files: drop_runs(files, "runs/"),
        "no run record in it",
    ),
    "records left out": (
        lambda files: drop_runs(files, "runs/smoke/seed52-"),
        "3 run records, bundle.json states 4",
    ),
    "record without predictions": (
        lambda files: (files.pop(find(files, "predictions.parquet")), sign_all(files)), "predictions.parquet"
    ),
    "record of another version of the row": (
        lambda files: change_record(files, lambda raw: raw.update(row_version=7)), "record"
    ),
    "record of another format": (lambda files: change_record(files, lambda raw: raw.update(format=3)), "format"),
    "score that is not that of the predictions": (
        lambda files: change_record(
            files,
            lambda raw: [
                part["scores"].update(top1=0.99) for part in (*raw["epochs"], raw["best_epoch_on_test"], raw["last_epoch"])
            ],
        ),
        "record.json",
    ),
    "NaN in a record": (
        lambda files: (
            files.update({find(files, "record.json"): re.sub(rb'"seconds": [\d.]+', b'"seconds": NaN', files[find(files, "record.json")])}),
            sign_all(files),
        ),
        "NaN",
    ),
    "NaN in predictions": (lambda files: change_predictions(files, spoil_numbers), "predictions"),
    "predictions of other clips": (
        lambda files: change_predictions(files, rename_clips(lambda clip: f"other_{clip}")), "not in smoke/test"
    ),
    "targets that disagree with the annotations": (
        lambda files: change_predictions(files, swap_two), "recorded targets of 2 clips"
    ),
    "predictions are no parquet file": (
        lambda files: (
            files.update({find(files, "predictions.parquet"): b"PAR1"}),
            change_record(files, lambda raw: raw.update(predictions_sha256=sha256(b"PAR1").hexdigest())),
        ),
        "predictions",
    ),
    "features index is edited": (
        lambda files: (files.update({"features.index": files["features.index"].replace(b"a", b"b", 40)}), sign_all(files)),
        "features.index",
    ),
    "features index is missing": (lambda files: (files.pop("features.index"), sign_all(files)), "one without the other"),
    "features index is not JSON": (
        lambda files: (files.update({"features.index": b"\xff\xfe"}), sign_all(files)), "features.index"
    ),
    "audit that no record states": (
        lambda files: (files.update({"audits/smoke/manifest.parquet": b"PAR1"}), sign_all(files)), "manifest.parquet"
    ),
}  # fmt: skip


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where files may be written, and are gone afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refuse(path: Path, temporary: Path, reason: str) -> None:
    before = sorted(temporary.parent.iterdir())
    done = run_repro("check", "--bundle", path, "--workspace", temporary.parent / "workspace")
    assert (done.code, done.out) == (2, ""), done.err
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    assert reason in done.err
    assert str(temporary) not in done.err
    assert [*temporary.iterdir()] == []
    assert sorted(temporary.parent.iterdir()) == before


@pytest.mark.parametrize("case", [*ARCHIVES, *FORGERIES])
def test_a_bundle_that_is_not_one_is_refused(case: str, temporary: Path, tmp_path: Path) -> None:
    files, path = read_example(), tmp_path / "forged.zip"
    if case in ARCHIVES:
        tamper, reason = ARCHIVES[case]
        pack(files, path, tamper)
    else:
        forge, reason = FORGERIES[case]
        forge(files)
        pack(files, path)
    refuse(path, temporary, reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not a zip file"), (b"<html>", "not a zip file"), (EXAMPLE.read_bytes()[:100_000], "cut off")],
)
def test_a_file_that_is_no_zip_is_refused(content: bytes, reason: str, temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "forged.zip").write_bytes(content)
    refuse(tmp_path / "forged.zip", temporary, reason)


def with_end(content: bytes, *, gap: bytes = b"", **changes: int) -> bytes:
    """State something else in the record that ends a zip, with bytes between the members and their list."""
    names = ("signature", "disk", "disk_of_list", "here", "members", "length", "start", "comment")
    end = dict(zip(names, END_RECORD.unpack(content[-END_RECORD.size :]), strict=True))
    members, listed = content[: end["start"]], content[end["start"] : -END_RECORD.size]
    end["start"] += len(gap)
    return members + gap + listed + END_RECORD.pack(*(end | changes).values())


BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a program before it": (lambda content: b"#!/bin/sh\nexit\n" + content, "bytes before or between"),
    "another zip before it": (lambda content: content + content, "bytes before or between"),
    "a comment": (lambda content: with_end(content, comment=4) + b"more", "or a comment"),
    "bytes between members and list": (lambda content: with_end(content, gap=b"hidden"), "bytes before or between"),
    "disk 2 of several": (lambda content: with_end(content, disk=1), "of several disks"),
    "list on another disk": (lambda content: with_end(content, disk_of_list=1), "of several disks"),
    "members on other disks": (lambda content: with_end(content, here=1), "of several disks"),
    # Bytes 34 and 35 of the first entry of the list are the number of the disk that its member starts on.
    "a member on another disk": (
        lambda content: (at := content.index(b"PK\1\2") + 34) and content[:at] + b"\1\0" + content[at + 2 :],
        "of several disks",
    ),
}


@pytest.mark.parametrize("case", BYTES)
def test_a_zip_that_is_more_than_its_members_is_refused(case: str, temporary: Path, tmp_path: Path) -> None:
    change, reason = BYTES[case]
    path = tmp_path / "forged.zip"
    path.write_bytes(change(EXAMPLE.read_bytes()))
    refuse(path, temporary, reason)


def test_no_byte_of_a_bundle_can_be_changed_unseen(temporary: Path, tmp_path: Path) -> None:
    content, path = bytearray(EXAMPLE.read_bytes()), tmp_path / "forged.zip"
    for place in range(200, len(content) - 5000, len(content) // 12):
        changed = bytearray(content)
        changed[place] ^= 0x5A
        path.write_bytes(changed)
        done = run_repro("check", "--bundle", path, "--workspace", tmp_path / "workspace")
        assert done.code == 2, place
        assert done.err.count("\n") == 1


def test_without_annotation_files_targets_must_be_those_of_the_records_sha256(temporary: Path, tmp_path: Path) -> None:
    files = read_example()
    for beginning in ("runs/smoke/seed53", "runs/smoke_mean_colour"):  # so that there is no other run to disagree with
        drop_runs(files, beginning)
    change_manifest(files, records=1, rows=["smoke"])
    pack(files, tmp_path / "one.zip")
    with open_bundle(tmp_path / "one.zip", lambda name: None) as opened:
        assert opened.targets == {"smoke/test": "as recorded, and as the sha256 of the split's clips"}
    change_predictions(files, swap_two)
    pack(files, tmp_path / "forged.zip")
    reason = "other clips, targets or videos than the sha256 of smoke/test"
    with pytest.raises(BundleError, match=reason), open_bundle(tmp_path / "forged.zip", lambda name: None):
        pass


def test_what_a_bundle_was_made_under_is_said(tmp_path: Path) -> None:
    files = read_example()
    manifest = json.loads(files["bundle.json"])
    config, results = "configs/smoke/smoke.yaml", "expected/rules-1/results.csv"
    files[config] += b"\n# edited\n"
    files[results] += b"\n"
    sign_all(files)
    change_manifest(files, made_by="actiondiff-repro 0.0.9", rules=manifest["rules"] | {"expected_sha256": "0" * 64})
    pack(files, tmp_path / "older.zip")
    done = run_repro("check", "--bundle", tmp_path / "older.zip", "--workspace", tmp_path / "workspace")
    assert done.code == 0
    for note in (
        "made by actiondiff-repro 0.0.9, judged by",
        "made under another rules-1",
        f"{config} is not the one",
        f"{results} is not the one",
        "records are made by actiondiff-repro 0.2.0.dev0",
    ):
        assert note in done.out


def test_the_example_is_judged_as_when_it_was_stored(tmp_path: Path) -> None:
    done = run_repro("check", "--bundle", EXAMPLE, "--workspace", tmp_path / "workspace")
    assert (done.code, done.err) == (0, "")
    # The rule set may have got another file since.
    lines = [line for line in done.out.splitlines() if not line.startswith("made under")]
    assert lines == (EXAMPLE.parent / "verdict.txt").read_text().splitlines()
    assert not (tmp_path / "workspace").exists()
    assert EXAMPLE.stat().st_size < 1e6
    assert max(map(len, lines)) <= 80


def test_golden_values_that_are_not_repeated_are_judged_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repro.smoke import golden

    true = golden.load_golden()
    scores = {name: runs | {"52": golden.GoldenScore(top1=99.0, map_micro=99.0)} for name, runs in true.scores.items()}
    monkeypatch.setattr(golden, "load_golden", lambda: true.model_copy(update={"scores": scores}))
    done = run_repro("check", "--bundle", EXAMPLE, "--json", "--workspace", tmp_path / "workspace")
    assert done.code == 1
    report = json.loads(done.out)
    assert sum("LOWER" in line for line in report["lines"]) == 4
    assert [one["done"] for one in report["levels"]] == [True, True, False, False, False]


def test_the_page_on_the_example_names_every_field_and_its_code_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (EXAMPLE.parent / "README.md").read_text()
    record = json.loads(read_example()[find(read_example(), "record.json")])
    assert [field for field in record if f"`{field}`" not in page] == []
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # the page's own code
    assert len(capsys.readouterr().out.splitlines()) >= 2
