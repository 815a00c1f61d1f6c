"""What `repro bundle` writes: complete, the same each time, and with nothing private in it."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from builders.commands import ROOT, run_repro
from builders.records import record, write_with_evidence
from builders.results import read_texts

from repro.cli.judge import bundle as bundling
from repro.cli.judge import check_bundle
from repro.core import console
from repro.core.hashing import file_sha256
from repro.core.signed import write_signed_json
from repro.core.workspace import Workspace
from repro.datasets.manifest import ClipFacts, Manifest, manifest_path, read_manifest, write_manifest
from repro.pipeline.bundle.features_index import (
    FeaturesIndex,
    IndexedCollection,
    estimate_deviation,
    fingerprint,
    format_index,
    merkle_root,
    parse_index,
)
from repro.records.record import StoredRun
from repro.table.rows import load_row

ROW = "ucf_hmdb_sdv2"
RULES = "--rules"
HOST, USER, TOKEN = "turing-node7", "mallory.q", "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
OTHER_SECRET, MAIL = "correct-horse-battery", "mallory@example.org"
HOME = f"/home/{USER}"
ENVIRONMENT = {
    "HF_TOKEN": TOKEN,
    "WANDB_API_KEY": OTHER_SECRET,
    "USER": USER,
    "HOSTNAME": HOST,
    "GIT_AUTHOR_EMAIL": MAIL,
    "HOME": HOME,
}


@pytest.fixture
def stored(workspace: Workspace) -> StoredRun:
    return write_with_evidence(workspace.runs, record(ROW, 1, 0.765))


def change(run: StoredRun, **changes: Any) -> None:
    """Change a record where nothing that is judged is, and sign it again."""
    raw = json.loads(run.record_path.read_text())
    del raw["sha256"]
    for key, value in changes.items():
        raw[key] = raw[key] | value
    write_signed_json(run.record_path, raw)


def bundle(workspace: Workspace, path: Path, *rows: str, env: dict[str, str] | None = None) -> str:
    done = run_repro("bundle", *rows, "-o", path, "--workspace", workspace.root, env=env)
    assert done.code == 0, done.err
    return str(done.out)


@pytest.fixture(autouse=True)
def _no_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes seconds: the tests that are about it have it."""
    if request.node.originalname not in (
        "test_a_bundle_is_judged_as_the_workspace_is", "test_nothing_private_gets_into_a_bundle"
    ):  # fmt: skip
        monkeypatch.setattr(bundling, "_render_page", lambda *_: "a page")


def test_a_bundle_is_judged_as_the_workspace_is(stored: StoredRun, workspace: Workspace, tmp_path: Path) -> None:
    first, second = (tmp_path / f"{n}.zip" for n in "ab")
    bundle(workspace, first, ROW)
    bundle(workspace, second, "all")
    assert first.read_bytes() == second.read_bytes()
    here = json.loads(run_repro("check", "--json", "--workspace", workspace.root).out)
    there = run_repro("check", "--bundle", first, "--json", "--workspace", tmp_path / "none")
    assert there.code == 0, there.err
    (found,) = json.loads(there.out)["verdicts"]
    assert found == next(verdict for verdict in here["verdicts"] if verdict["row"] == ROW)
    assert found["verdict"] != "NOT RUN"
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("bundle.json"))
        assert yaml.safe_load(archive.read("codecheck.yml"))["manifest"][0]["file"] in names
        report, page = archive.read("report.md").decode(), archive.read("report.html").decode()
    assert set(manifest["files"]) == set(names) - {"bundle.json"}
    for part in ("record.json", "predictions.parquet", f"rows/{ROW}.yaml", "backbones/sdv2.yaml", "backbones/svd_xt.yaml",
                 "datasets/ucf101.yaml", "results.csv", "requirements/runtime.txt", "environment.json"):  # fmt: skip
        assert any(name.endswith(part) for name in names), part
    assert not any(name.endswith((".mp4", ".avi", ".safetensors")) for name in names)
    assert f"{ROW} " in report
    assert ROW in page
    assert "<script" in page
    assert "src=" not in page.replace("data:", "")
    # The features were never in this workspace: said, and in no index.
    assert "features.index" not in names
    assert "not in the workspace" in report


def test_verdicts_on_a_bundle_fit_a_terminal(
    stored: StoredRun, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 columns, divided between words; what many rows would take is one line."""
    for row in ("ucf_hmdb", "ucf_hmdb_vjepa", "ucf_hmdb_videomaev2"):
        write_with_evidence(workspace.runs, record(row, load_row(row).seeds.published, 0.765))
    bundle(workspace, tmp_path / "a.zip", "all")
    for module in (console, check_bundle):
        monkeypatch.setattr(module, "terminal_width", lambda **_: 80)
    done = run_repro("check", "--bundle", tmp_path / "a.zip", "--workspace", tmp_path / "none")
    assert done.code == 0, done.err
    out = done.out
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"^ucf_hmdb +[A-Z]+ .*\n  top1, margin ", out, re.MULTILINE)
    assert "and so for the 3 other rows" in out
    assert out.count("--repeat-readout") == out.count("not done readout") == 1


def test_the_crate_describes_every_file_and_run(tmp_path: Path) -> None:
    with zipfile.ZipFile(ROOT / "examples" / "evidence" / "smoke.zip") as archive:
        crate, names = json.loads(archive.read("ro-crate-metadata.json")), set(archive.namelist())
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(entities) == len(crate["@graph"])
    assert crate["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    assert entities["ro-crate-metadata.json"]["conformsTo"]["@id"] == "https://w3id.org/ro/crate/1.1"
    root = entities["./"]
    assert root["conformsTo"]["@id"] == "https://w3id.org/ro/wfrun/process/0.5"
    assert {part["@id"] for part in root["hasPart"]} == names - {"ro-crate-metadata.json"}
    assert all(entities[part["@id"]]["@type"] == "File" for part in root["hasPart"])
    actions = [entities[mention["@id"]] for mention in root["mentions"]]
    assert len(actions) == 4
    for action in actions:
        assert action["@type"] == "CreateAction"
        assert entities[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
        assert {result["@id"] for result in action["result"]} <= names
        assert action["object"]["@id"] in names
    linked = [value["@id"] for entity in crate["@graph"] for value in entity.values() if isinstance(value, dict)]
    outside = {"https://w3id.org/ro/crate/1.1"}
    assert set(linked) - outside <= set(entities)


def test_nothing_private_gets_into_a_bundle(stored: StoredRun, workspace: Workspace, tmp_path: Path) -> None:
    facts = ClipFacts("clip0", f"{HOME}/my videos/clip0.avi", ("full",), True, 5, 1, 1.0, 4, 4, 1.0, "pyav",
                      f"cannot open {HOME}/secret place/clip0.avi on {HOST}", "0" * 64)  # fmt: skip
    audit = Manifest("ucf101", "0" * 16, (facts,))
    write_manifest(manifest_path(workspace, "ucf101"), audit)
    change(
        stored,
        recipe={"note": f"run by {USER} ({MAIL}) on {HOST} in {workspace.root}/runs with {TOKEN}"},
        made={"on": {"platform": f"Linux on {HOST}", "device": "cpu", "login": "somebody-else", "hostname": "another-host"},
              "by": {"python": f"3.11 of {HOME}/.pyenv/bin/python", "numpy": f"key {OTHER_SECRET}"}},
        manifests={"ucf101": audit.sha256},
    )  # fmt: skip
    before = run_repro("check", "--json", "--workspace", workspace.root)
    path = tmp_path / "bundle.zip"
    bundle(workspace, path, ROW, env=ENVIRONMENT)
    text = read_texts(path).lower()
    for private in (
        HOST,
        USER,
        TOKEN,
        OTHER_SECRET,
        MAIL,
        HOME,
        str(workspace.root),
        "my videos",
        "somebody-else",
        "another-host",
    ):
        assert private.lower() not in text, private
    assert "[removed]" in text
    # What is left is still evidence: the record is signed again, the audit is the one that it states.
    done = run_repro("check", "--bundle", path, "--json", "--workspace", tmp_path / "none")
    assert done.code == 0, done.err
    assert json.loads(done.out)["verdicts"][0] in json.loads(before.out)["verdicts"]
    with zipfile.ZipFile(path) as archive:
        archive.extract("audits/ucf101/manifest.parquet", tmp_path)
        assert json.loads(archive.read("bundle.json"))["redacted"] == [
            next(name for name in archive.namelist() if name.endswith("record.json")), "audits/ucf101/manifest.parquet"
        ]  # fmt: skip
    assert read_manifest(tmp_path / "audits/ucf101/manifest.parquet").sha256 == audit.sha256


def test_a_path_in_the_evidence_itself_is_refused(stored: StoredRun, workspace: Workspace, tmp_path: Path) -> None:
    made = pq.ParquetFile(stored.predictions_path).read()
    clips = [f"{HOME}/{clip}" for clip in made["clip"].to_pylist()]
    pq.write_table(
        made.set_column(made.schema.get_field_index("clip"), "clip", pa.array(clips)), stored.predictions_path
    )
    raw = json.loads(stored.record_path.read_text())
    del raw["sha256"]
    write_signed_json(stored.record_path, raw | {"predictions_sha256": file_sha256(stored.predictions_path)})
    done = run_repro("bundle", ROW, "-o", tmp_path / "bundle.zip", "--workspace", workspace.root)
    assert done.code == 2
    assert "predictions.parquet would hold '/home/" in done.err
    assert not (tmp_path / "bundle.zip").exists()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["nonsense", "-o", "x.zip"], 2, "unknown row"),
        (["ak_full", "-o", "x.zip"], 5, "no run record of ak_full"),
        ([ROW, "-o", "x.tar"], 2, "ends in .zip"),
        ([ROW], 2, "output"),
        ([ROW, "-o", "there.zip"], 2, "exists"),
    ],
)
def test_what_cannot_be_bundled_is_one_line(
    words: list[str], code: int, reason: str, stored: StoredRun, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "there.zip").touch()
    done = run_repro("bundle", *words, "--workspace", workspace.root, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert reason in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.glob("*.zip")] == ["there.zip"]


def test_runs_that_are_not_intact_are_not_called_missing(tmp_path: Path) -> None:
    write_with_evidence(tmp_path / "runs", record("ucf_hmdb", 39, 0.77)).predictions_path.write_bytes(b"PAR1")
    for words in (["bundle", "ucf_hmdb"], ["bundle", "all"], ["report", "ucf_hmdb"], ["report"], ["check"]):
        output = [] if words[0] == "check" else ["-o", tmp_path / ("made.zip" if words[0] == "bundle" else "made.html")]
        done = run_repro(*words, *output, "--workspace", tmp_path)
        assert done.code == 4
        assert "predictions.parquet" in done.err
        assert "no intact run" in done.err.splitlines()[-1]


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    for words in (["--sample", "3"], ["--nonce", "x"], ["--bundle", "x.zip", RULES, "7"]):
        done = run_repro("check", *words, "--workspace", tmp_path / "none")
        assert done.code == 2
        assert "--bundle" in done.err


def test_fingerprints_show_by_how_much_features_differ() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(7, 30)).astype(np.float32)
    mine = fingerprint(features)
    assert estimate_deviation(mine, fingerprint(features.copy())) == 0
    for size in (1e-4, 1e-2, 1.0):
        found = []
        for _ in range(50):
            noise = generator.normal(size=features.shape)
            other = features + size * noise * np.linalg.norm(features) / np.linalg.norm(noise)
            found.append(estimate_deviation(fingerprint(other.astype(np.float32)), mine))
        assert size / 30 < min(found) <= max(found) < 4 * size
        assert np.sqrt(np.mean(np.square(found))) == pytest.approx(size, rel=0.35)
    # Other features, with the first ones' hash in front, are not theirs.
    forged = fingerprint(generator.normal(size=(7, 30)).astype(np.float32))
    assert estimate_deviation(mine, forged) > 0.05
    assert estimate_deviation(mine, fingerprint(np.full((7, 30), np.nan, np.float32))) != estimate_deviation(mine, mine)


def test_the_root_commits_to_every_line() -> None:
    values = [fingerprint(np.full((2, 3), number, np.float32)) for number in range(6)]

    def collection(**changes: Any) -> IndexedCollection:
        whole: dict[str, Any] = {
            "features": ("a/b", "c/d"),
            "videos": {"x": "0" * 64, "y": "1" * 64, "z": "2" * 64},
            "fingerprints": {"x": (values[0], values[1]), "y": (values[2], None), "z": (values[4], values[5])},
        }
        return IndexedCollection(**whole | changes)

    made = {"hmdb51": collection()}
    root = merkle_root(made)
    index = FeaturesIndex(merkle_root=root, collections=made)
    assert parse_index(format_index(index)) == index
    for changed in (
        {"ucf101": collection()},
        {"hmdb51": collection(features=("a/c", "c/d"))},
        {"hmdb51": collection(videos={"x": "0" * 64, "y": "1" * 64, "z": "3" * 64})},
        {
            "hmdb51": collection(
                fingerprints={"x": (values[0], values[1]), "y": (values[2], values[3]), "z": (values[4], values[5])}
            )
        },
        {
            "hmdb51": collection(
                fingerprints={"x": (values[1], values[0]), "y": (values[2], None), "z": (values[4], values[5])}
            )
        },
    ):
        assert merkle_root(changed) != root
        with pytest.raises(ValueError, match="Merkle root"):
            parse_index(format_index(FeaturesIndex(merkle_root=root, collections=changed)))
