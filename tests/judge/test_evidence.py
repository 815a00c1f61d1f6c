"""A record must agree with itself, its folder, its predictions and the annotation files, or it is named and not judged."""

import dataclasses
import datetime
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders.commands import run_repro
from builders.records import record, write_with_evidence

import repro
from repro.core.errors import MissingError
from repro.core.hashing import file_sha256
from repro.core.signed import write_signed_json
from repro.core.workspace import Workspace
from repro.datasets.manifest import ClipFacts, Manifest, manifest_path, write_manifest
from repro.datasets.split import Clip, Split, SplitName
from repro.judge import evidence, rescoring
from repro.judge.evidence import Annotations, read_evidence
from repro.judge.rules import RULES
from repro.readout.metrics import all_scores
from repro.readout.predictions import Predictions, read_predictions, write_predictions
from repro.records.keys import compute_keys
from repro.records.record import RunRecord, StoredRun, find_runs
from repro.table.rows import load_row


@pytest.fixture
def stored(workspace: Workspace) -> StoredRun:
    return write_with_evidence(workspace.runs, record("ucf_hmdb_sdv2", 39, 0.765))


def sign(run: StoredRun, change: Callable[[dict[str, Any]], object]) -> StoredRun:
    """Change the record and sign it again, as somebody does who forges it."""
    raw = json.loads(run.record_path.read_text())
    del raw["sha256"]
    change(raw)
    write_signed_json(run.record_path, raw)
    return run


def sign_with_keys(run: StoredRun, change: Callable[[dict[str, Any]], object]) -> StoredRun:
    """As `sign`, with the keys and the folder that the changed contents give."""
    sign(run, change)
    made = RunRecord.model_validate_json(
        json.dumps({k: v for k, v in json.loads(run.record_path.read_text()).items() if k != "sha256"})
    )
    key, group, grid, _ = compute_keys(made, made.key_rest)
    sign(run, lambda raw: raw.update(run=key, group=group, grid=grid))
    return StoredRun(run.folder.rename(run.folder.with_name(f"seed{made.seed}-{key}")))


def set_everywhere(raw: dict[str, Any], name: str, score: float) -> None:
    for part in (*raw["epochs"], raw["best_epoch_on_test"], raw["last_epoch"]):
        part["scores"][name] = score


def rewrite(
    run: StoredRun, change: Callable[[Predictions, dict[int, np.ndarray]], Predictions], path: Path | None = None
) -> None:
    """Replace the predictions, or the file at `path`, by changed ones; the record has the sha256 of the predictions."""
    path = path or run.predictions_path
    found = read_predictions(path)
    logits = {epoch: np.log(scores).astype(np.float32) for epoch, scores in found.by_epoch.items()}
    write_predictions(path, change(found, logits), logits, "softmax")
    sign(run, lambda raw: raw.update(predictions_sha256=file_sha256(run.predictions_path)))


def better_epoch(found: Predictions, _: object) -> Predictions:
    """Predictions by which an epoch that the record does not select is the best."""
    return dataclasses.replace(found, predicted={**found.predicted, 5: (found.targets[:, 0] == 0).astype(np.uint16)})


def not_finite(found: Predictions, logits: dict[int, np.ndarray]) -> Predictions:
    logits[1][3, 0] = np.nan
    return found


def copy_as(run: StoredRun, seed: int, change: Callable[[dict[str, Any]], object] = lambda raw: None) -> StoredRun:
    """Copy a run under another seed, with the keys that it would have there."""
    copy = StoredRun(run.folder.with_name(f"seed{seed}-copied"))
    shutil.copytree(run.folder, copy.folder)
    return sign_with_keys(copy, lambda raw: (raw.update(seed=seed), change(raw)))


def rename(run: StoredRun, name: str) -> None:
    run.folder.rename(run.folder.with_name(name))


def future(raw: dict[str, Any]) -> None:
    raw["made"]["at"] = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).isoformat()


FORGERIES: dict[str, tuple[Callable[[StoredRun], object], str, str]] = {
    "best in no epoch": (
        lambda run: sign(run, lambda raw: raw["best_epoch_on_test"]["scores"].update(top1=0.9)), "R04", "contradicts itself"
    ),
    "best of another epoch": (
        lambda run: sign(run, lambda raw: raw["best_epoch_on_test"].update(epoch=3)), "R04", "contradicts itself"
    ),
    "last in no epoch": (
        lambda run: sign(run, lambda raw: raw["last_epoch"]["scores"].update(map_macro=0.1)), "R04", "contradicts itself"
    ),
    "a better epoch is hidden": (
        lambda run: sign(run, lambda raw: raw["epochs"][4]["scores"].update(top1=0.99)), "R04", "contradicts itself"
    ),
    "a better epoch by its predictions": (lambda run: rewrite(run, better_epoch), "R05", "top1 after epoch 5 is 1"),
    "epochs left out": (lambda run: sign(run, lambda raw: raw["epochs"].pop(2)), "R03", "contradicts itself"),
    "predictions of an epoch left out": (
        lambda run: rewrite(run, lambda found, _: dataclasses.replace(found, predicted={
            epoch: classes for epoch, classes in found.predicted.items() if epoch != 7
        })), "R03", "no scores of every clip after epoch 7"
    ),
    "another score": (
        lambda run: sign(run, lambda raw: set_everywhere(raw, "top1", 0.9)), "R05", "top1 after epoch 1 is 0.765"
    ),
    "a score of nobody's interest": (
        lambda run: sign(run, lambda raw: set_everywhere(raw, "class_accuracy", 0.1)), "R05", "class_accuracy after epoch"
    ),
    "chance": (lambda run: sign(run, lambda raw: raw["chance"].update(top1=0.1)), "R05", "top1 of chance"),
    "constant": (
        lambda run: sign(run, lambda raw: raw["constant"].update(map_macro=0.1)), "R05", "map_macro of a constant"
    ),
    "NaN in the record": (
        lambda run: run.record_path.write_text(run.record_path.read_text().replace('"train_loss": 0.', '"train_loss": NaN, "x": 0.', 1)),
        "R06", "NaN is not a number",
    ),
    "infinite score": (
        lambda run: run.record_path.write_text(run.record_path.read_text().replace('"seconds": 1.0', '"seconds": 1e999')),
        "R06", "a number is infinite",
    ),
    "NaN in the predictions": (lambda run: rewrite(run, not_finite), "R06", "NaN or infinite"),
    "negative seed": (
        lambda run: sign(run, lambda raw: raw.update(seed=-1)), "R01", "seed: Input should be greater"
    ),
    "readers": (
        lambda run: sign(run, lambda raw: raw["features"].update(readers={"pyav": 7})), "R07", "7 clips were read"
    ),
    "clips of the test split": (
        lambda run: sign(
            run,
            lambda raw: (raw["test"].update(clips=1199), raw["features"].update(readers={"pyav": 1438 + 1199})),
        ),
        "R07", "the record has 1199",
    ),
    "one clip twice": (
        lambda run: rewrite(run, lambda found, _: dataclasses.replace(found, clips=("clip1", *found.clips[1:]))),
        "R07", "1199 clips in 1200 lines",
    ),
    "predictions of other classes": (
        lambda run: sign(run, lambda raw: raw.update(classes=["a", "c"])), "R07", "classes"
    ),
    "folder of another seed": (
        lambda run: rename(run, f"seed2-{run.folder.name.split('-')[1]}"), "R02", "not the run of"
    ),
    "folder of another row": (
        lambda run: shutil.move(run.folder, run.folder.parent.parent / "ak_full_sdv2" / run.folder.name),
        "R02", "not the run of its folder",
    ),
    "billions of epochs": (
        lambda run: sign(run, lambda raw: raw["recipe"].update(epochs=10**9)), "R03", "its recipe has 1000000000"
    ),
    "another recipe": (
        lambda run: sign(run, lambda raw: raw["recipe"].update(learning_rate=1e-3)), "R09", "the key of run and group and grid"
    ),
    "another group": (lambda run: sign(run, lambda raw: raw.update(group="0" * 16)), "R09", "the key of group is not"),
    "other features": (
        lambda run: sign(run, lambda raw: raw["features"]["identity"].update(precision="fp32")), "R09", "the key of features"
    ),
    "in the future": (lambda run: sign(run, future), "R11", "is in the future"),
    "no time": (lambda run: sign(run, lambda raw: raw["made"].update(at="yesterday")), "R11", "'yesterday' is no time"),
    "no zone": (
        lambda run: sign(run, lambda raw: raw["made"].update(at="2026-01-01T00:00:00")), "R11", "has no zone"
    ),
    "claims less predictions": (
        lambda run: sign(run, lambda raw: (raw.pop("predictions_format"))), "R01", "format 2, the record states 1"
    ),
    "record is a pipe": (
        lambda run: (run.record_path.unlink(), os.mkfifo(run.record_path)), "R01", "cannot be read"
    ),
    "record is a folder": (lambda run: (run.record_path.unlink(), run.record_path.mkdir()), "R01", "cannot be read"),
    "predictions are a pipe": (
        lambda run: (run.predictions_path.unlink(), os.mkfifo(run.predictions_path)), "R01", "cannot be read"
    ),
    "predictions are empty": (
        lambda run: (
            run.predictions_path.write_bytes(b""),
            sign(run, lambda raw: raw.update(predictions_sha256=file_sha256(run.predictions_path))),
        ),
        "R01", "not the predictions of a readout",
    ),
}  # fmt: skip


def check(workspace: Workspace) -> tuple[dict[str, Any], str]:
    done = run_repro("check", "--json", "--workspace", workspace.root)
    return json.loads(done.out), done.err


def test_a_record_with_its_evidence_is_judged(stored: StoredRun, workspace: Workspace) -> None:
    report, err = check(workspace)
    assert report["damaged_records"] == []
    assert report["counts"]["WITHIN MARGIN"] == 1
    assert err == ""


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_record_that_does_not_agree_is_named_and_not_judged(
    stored: StoredRun, workspace: Workspace, forgery: str
) -> None:
    forge, rule, reason = FORGERIES[forgery]
    (workspace.runs / "ak_full_sdv2").mkdir()
    forge(stored)
    records, damaged = read_evidence(find_runs(workspace.runs))
    assert records == []
    assert len(damaged) == 1
    assert damaged[0][1].startswith(f"{rule} ")
    assert reason in damaged[0][1]
    assert str(workspace.runs) in damaged[0][1]
    assert "\n" not in damaged[0][1]


def test_check_names_a_forged_record_and_its_remedy(stored: StoredRun, workspace: Workspace) -> None:
    FORGERIES["another score"][0](stored)
    report, err = check(workspace)
    assert report["counts"]["NOT RUN"] == 24
    assert [one["rule"] for one in report["damaged_records"]] == ["R05"]
    assert "left out; `repro ucf_hmdb_sdv2` writes it again" in err


def test_a_copied_run_is_no_other_seed(stored: StoredRun, workspace: Workspace) -> None:
    """Neither as it is, nor with keys that suit the seed, nor with other predictions, losses or weights alone."""
    weights = {"last_epoch.safetensors": "1" * 64}
    sign(stored, lambda raw: raw.update(checkpoints=weights))

    def other_losses(raw: dict[str, Any]) -> None:
        for epoch in raw["epochs"]:
            epoch["train_loss"] += raw["seed"]

    copy_as(stored, 40)
    copy_as(stored, 41, lambda raw: (other_losses(raw), raw.update(checkpoints={})))
    other = write_with_evidence(workspace.runs, record("ucf_hmdb_sdv2", 42, 0.765))
    sign(other, lambda raw: raw.update(checkpoints=weights))
    other = write_with_evidence(workspace.runs, record("ucf_hmdb_sdv2", 43, 0.765))
    losses = [epoch["train_loss"] for epoch in json.loads(stored.record_path.read_text())["epochs"]]
    sign(other, lambda raw: [epoch.update(train_loss=loss) for epoch, loss in zip(raw["epochs"], losses, strict=True)])
    records, damaged = read_evidence(find_runs(workspace.runs))
    assert [found.seed for found in records] == [39]
    whys = [why for _, why in damaged]
    assert all(why.startswith("R10 ") and f"those of {stored.folder.name}" in why for why in whys)
    assert ["predictions" in whys[0], "predictions" in whys[1], "weights" in whys[2], "losses" in whys[3]] == [True] * 4


def test_a_run_copied_under_another_seed_has_not_its_key(stored: StoredRun, workspace: Workspace) -> None:
    copy = StoredRun(stored.folder.with_name("seed40-copied"))
    shutil.copytree(stored.folder, copy.folder)
    sign(copy, lambda raw: raw.update(seed=40, run="copied"))
    records, damaged = read_evidence(find_runs(workspace.runs))
    assert [found.seed for found in records] == [39]
    assert damaged[0][1].startswith("R09 ")


def listed(name: str, found: Predictions) -> SimpleNamespace:
    """Annotation files that list the clips of some predictions."""
    parsed = SplitName.parse(name)
    clips = tuple(
        Clip(clip, Path("nowhere"), tuple(np.flatnonzero(row).tolist()))
        for clip, row in zip(found.clips, found.targets, strict=True)
    )
    split = Split(parsed, found.classes, clips)
    return SimpleNamespace(splits={parsed.split: split})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: found, ""),
        (lambda found: dataclasses.replace(found, targets=found.targets[:, ::-1].copy()), "R08"),
        (lambda found: dataclasses.replace(found, clips=("other", *found.clips[1:])), "R07"),
        (lambda found: dataclasses.replace(found, classes=("a", "c")), "R07"),
    ],
)
def test_targets_are_those_of_the_annotation_files(
    stored: StoredRun,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Predictions], Predictions],
    expected: str,
) -> None:
    """A record that was made of edited targets agrees with itself, and with nothing else."""
    dataset = listed("hmdb51/full", change(read_predictions(stored.predictions_path)))
    monkeypatch.setattr(evidence, "list_dataset", lambda *_, **__: dataset)
    annotations = Annotations(workspace)
    records, damaged = read_evidence(find_runs(workspace.runs), annotations)
    assert annotations.compared == {"hmdb51/full"}
    assert [why.split(" ")[0] for _, why in damaged] == ([expected] if expected else [])
    assert len(records) == (not expected)
    assert (
        read_evidence(find_runs(workspace.runs))[1] == []
    )  # without annotation files, the recorded ones are all there is


def test_an_audit_pins_clips_and_targets_without_annotation_files(stored: StoredRun, workspace: Workspace) -> None:
    """Edited targets that the record's scores agree with, or other clips: the record's sha256 of the split is of neither."""
    found = read_predictions(stored.predictions_path)
    facts = [ClipFacts(clip, clip, (), True, 1, 1, 1.0, 1, 1, 1.0, "pyav", "", clip) for clip in found.clips]
    audit = Manifest("hmdb51", "listing", tuple(facts))
    manifest_path(workspace, "hmdb51").parent.mkdir(parents=True)
    write_manifest(manifest_path(workspace, "hmdb51"), audit)
    digest = rescoring.hash_test_split(found, {clip.id: clip.sha256 for clip in audit.clips})
    run = sign_with_keys(
        stored, lambda raw: (raw["test"].update(sha256=digest), raw.update(manifests={"hmdb51": audit.sha256}))
    )
    assert read_evidence([run], Annotations(workspace))[1] == []
    for clips, rule in ((found.clips[::-1], "R08"), (("other", *found.clips[1:]), "R07")):
        rewrite(run, lambda found, _, clips=clips: dataclasses.replace(found, clips=clips))
        ((_, why),) = read_evidence([run], Annotations(workspace))[1]
        assert why.startswith(f"{rule} ")


def test_a_run_of_another_row_is_none_of_this(stored: StoredRun, workspace: Workspace) -> None:
    other = write_with_evidence(workspace.runs, record("ucf_hmdb_vjepa", 39, 0.765))
    shutil.copy(stored.predictions_path, other.predictions_path)
    sign(other, lambda raw: raw.update(predictions_sha256=file_sha256(other.predictions_path)))
    ((_, why),) = read_evidence(find_runs(workspace.runs))[1]
    assert why.startswith("R10 ")
    assert f"those of ucf_hmdb_sdv2/{stored.folder.name}" in why


def test_records_of_earlier_versions_are_read(workspace: Workspace) -> None:
    stored = write_with_evidence(workspace.runs, record("ucf_hmdb_sdv2", 39, 0.765), format_=1)
    raw = json.loads(stored.record_path.read_text())
    assert "predictions_format" not in raw
    assert "key_rest" not in raw
    report, err = check(workspace)
    assert (report["damaged_records"], err) == ([], "")
    (judged,) = (one for one in report["verdicts"] if one["row"] == "ucf_hmdb_sdv2")
    assert "selection not recomputed (record of an earlier version)" in judged["reason"]
    assert judged["selection_recomputed"] is False
    FORGERIES["another score"][0](stored)
    assert check(workspace)[0]["damaged_records"][0]["rule"] == "R05"


def test_a_stored_record_of_version_0_1_0_is_read_as_before() -> None:
    """Written by that version on the smoke job's clips, and never changed."""
    (run,) = find_runs(Path(__file__).parents[1] / "builders" / "version_0_1_0")
    (found,), damaged = read_evidence([run])
    assert damaged == []
    assert (found.made.by["actiondiff-repro"], found.run) == ("0.1.0", "b5e8330f2a00a4c5")
    assert (found.predictions_format, found.key_rest, found.protocol) == (1, {}, "published")
    assert found.best_epoch_on_test.scores["top1"] == 0.4375


def test_kept_scores_are_not_taken_on_trust(stored: StoredRun, workspace: Workspace) -> None:
    """Kept scores that were changed, and signed again, are found out."""
    assert check(workspace)[1] == ""
    kept = json.loads(workspace.rescored.read_text().splitlines()[0])  # the second line is an interval
    FORGERIES["another score"][0](stored)
    del kept["sha256"]
    for of_epochs in (kept["found"]["whole"], kept["found"]["others"]):
        for scores in of_epochs.values():
            scores["top1"] = 0.9
    write_signed_json(workspace.rescored, kept)
    workspace.rescored.write_text(json.dumps(json.loads(workspace.rescored.read_text())) + "\n")
    report, err = check(workspace)
    assert "not what its predictions give" in err
    assert report["damaged_records"][0]["rule"] == "R05"


def test_kept_scores_are_used(stored: StoredRun, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [write_with_evidence(workspace.runs, record("ucf_hmdb_sdv2", seed, 0.765)) for seed in (40, 41)]
    computed = []
    real = rescoring.rescore
    monkeypatch.setattr(rescoring, "rescore", lambda path: computed.append(path) or real(path))
    for runs in (3, 1):
        read_evidence(find_runs(workspace.runs), Annotations(workspace))
        assert len(computed) == runs
        computed.clear()
    workspace.rescored.write_text(workspace.rescored.read_text()[:-200])  # a killed writer's last line
    assert len(read_evidence(find_runs(workspace.runs), Annotations(workspace))[0]) == 1 + len(others)
    assert 1 <= len(computed) <= 2
    # A copied workspace brings what somebody kept, of which too little is verified to believe the rest.
    copy = Workspace(workspace.root.with_name("copy"))
    shutil.copytree(workspace.root, copy.root)
    computed.clear()
    read_evidence(find_runs(copy.runs), Annotations(copy))
    assert len(computed) == 1 + len(others)


def grid_cell(workspace: Workspace, row: str = "ucf_hmdb", cell: str = "t00_layer05") -> StoredRun:
    made = record(row, load_row(row).seeds.published, 0.7)
    made = made.model_copy(update={"features": made.features.model_copy(update={"cell": cell})})
    return write_with_evidence(workspace.runs, made, is_grid_cell=True)


@pytest.mark.parametrize("row", ["ucf_hmdb", "ak_full"])
def test_a_cell_of_a_grid_is_verified_by_its_ranks(workspace: Workspace, row: str) -> None:
    run = grid_cell(workspace, row)
    assert not read_predictions(run.predictions_path).by_epoch
    (made,), damaged = read_evidence([run])
    assert damaged == []
    epoch = made.best_epoch_on_test.epoch
    with_scores = repro.load_predictions(made, workspace.root)
    assert all_scores(with_scores.scores_after(epoch), with_scores.targets) == made.best_epoch_on_test.scores
    run.scores_path.unlink()
    assert read_evidence([run])[0] == [made]
    with pytest.raises(MissingError, match="--all-predictions"):
        repro.load_predictions(made, workspace.root).scores_after(epoch)
    sign(run, lambda raw: set_everywhere(raw, made.metric, 0.9))
    ((_, why),) = read_evidence([run])[1]
    assert why.startswith("R05 ")
    # An epoch that the ranks do not have.
    sign(run, lambda raw: set_everywhere(raw, made.metric, made.best_epoch_on_test.scores[made.metric]))
    rewrite(run, lambda found, _: dataclasses.replace(found, predicted=dict(list(found.predicted.items())[:-1]),
                                                      at_least=dict(list(found.at_least.items())[:-1])))  # fmt: skip
    ((_, why),) = read_evidence([run])[1]
    assert why.startswith("R03 ")


def test_scores_next_to_ranks_are_those_of_the_record(workspace: Workspace) -> None:
    run = grid_cell(workspace)
    whole = run.scores_path.read_bytes()
    for change, rule in (
        (better_epoch, "R05"),
        (not_finite, "R06"),
        (lambda found, _: dataclasses.replace(found, clips=("other", *found.clips[1:])), "R08"),
    ):
        run.scores_path.write_bytes(whole)
        rewrite(run, change, run.scores_path)
        ((_, why),) = read_evidence([run])[1]
        assert why.startswith(f"{rule} ")
        assert "scores.parquet" in why
    run.scores_path.write_bytes(b"PAR1")
    assert read_evidence([run])[1][0][1].startswith("R01 ")


def test_the_rows_own_cell_has_scores_of_every_clip(workspace: Workspace) -> None:
    """Ranks are easier to make up, and claims and scores by class need more."""
    run = grid_cell(workspace, cell=load_row("ucf_hmdb").features.name)
    ((_, why),) = read_evidence([run])[1]
    assert why.startswith("R03 ")


def test_ranks_that_no_scores_have_are_no_predictions(workspace: Workspace) -> None:
    run = grid_cell(workspace, "ak_full")
    rewrite(run, lambda found, _: dataclasses.replace(
        found, at_least={epoch: np.ones_like(ranks) for epoch, ranks in found.at_least.items()}
    ))  # fmt: skip
    ((_, why),) = read_evidence([run])[1]
    assert why.startswith("R01 ")
    assert "ranks that no scores have" in why


def test_every_rule_is_explained() -> None:
    text = (Path(__file__).parents[2] / "expected/README.md").read_text()
    for rule, what in RULES.items():
        assert f"| {rule} | {what} |" in text
