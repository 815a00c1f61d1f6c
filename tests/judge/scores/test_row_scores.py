"""Scores by class and by group: exactly what the field's library computes, and readable whatever the classes are called."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from builders import tiny_datasets
from builders.commands import run_repro
from builders.records import record
from rich.cells import cell_len
from sklearn.metrics import average_precision_score, confusion_matrix, label_ranking_loss, precision_score, recall_score

from repro.cli.judge import scores
from repro.core.errors import MissingError, NothingToCheckError
from repro.core.hashing import file_sha256
from repro.core.signed import write_signed_json
from repro.core.workspace import Workspace
from repro.datasets.config import load_dataset
from repro.datasets.registry import attribute_names, list_dataset, read_attribute
from repro.judge.scores.row_scores import compute_row_scores, load_scores
from repro.readout import metrics
from repro.readout.predictions import Predictions, read_predictions, to_probabilities, write_predictions
from repro.records.record import RunRecord, Selection, SplitRecord, StoredRun, stored_run
from repro.table.rows import load_row

RNG = np.random.default_rng(5)


def draw_case(clips: int, classes: int, single: bool, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets in which the last class has no clip, if there are two or more."""
    used = max(1, classes - 1)
    targets = np.zeros((clips, classes), np.int64)
    targets[np.arange(clips), RNG.integers(0, used, clips)] = 1
    if not single:
        targets[:, :used] |= RNG.random((clips, used)) < 0.2
    scores = RNG.random((clips, classes)) + 0.3 * targets
    return (np.round(scores, 1) if ties else scores), targets


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(("clips", "classes"), [(1, 1), (1, 3), (7, 1), (9, 5), (60, 12)])
def test_by_class_as_scikit_learn_computes_it(clips: int, classes: int, single: bool, ties: bool) -> None:
    for _ in range(3):
        scores, targets = draw_case(clips, classes, single, ties)
        found = metrics.average_precision_by_class(scores, targets)
        expected = [
            average_precision_score(targets[:, k], scores[:, k]) if targets[:, k].any() else np.nan
            for k in range(classes)
        ]
        np.testing.assert_array_equal(found, expected)
        if single and classes > 1:
            true, predicted = targets.argmax(axis=1), scores.argmax(axis=1)
            matrix = confusion_matrix(true, predicted, labels=range(classes))
            np.testing.assert_array_equal(metrics.count_confusions(scores, targets), matrix)


def test_ranking_errors_are_the_pairs_of_label_ranking_loss() -> None:
    scores, targets = draw_case(40, 6, single=False, ties=True)
    positives = targets.sum(axis=1)
    pairs = np.array([metrics.count_ranking_errors(scores[[n]], targets[[n]]).sum() for n in range(40)])
    assert np.mean(pairs / (positives * (6 - positives))) == pytest.approx(label_ranking_loss(targets, scores))
    assert metrics.count_ranking_errors(scores, targets).sum() == pairs.sum()
    assert metrics.count_ranking_errors(scores[:, :1], targets[:, :1]).sum() == 0


def store(
    workspace: Workspace,
    made: RunRecord,
    by_epoch: dict[int, np.ndarray],
    targets: np.ndarray,
    names: tuple[str, ...] = (),
    groups: tuple[str | None, ...] | None = None,
    held_out: int = 0,
) -> StoredRun:
    """Store a run whose predictions these are; the first epoch is best on test and the last one the last."""
    stored = stored_run(workspace.runs, made.row, made.seed, made.run)
    logits = {epoch: scores.astype(np.float32) for epoch, scores in by_epoch.items()}
    by_epoch = {epoch: to_probabilities(values, made.recipe.activation) for epoch, values in logits.items()}
    clips = names or tuple(f"clip{n}" for n in range(len(targets)))
    predictions = Predictions(clips, made.classes, targets, by_epoch, groups)
    write_predictions(stored.predictions_path, predictions, logits, made.recipe.activation)
    found = {epoch: metrics.all_scores(scores, targets) for epoch, scores in by_epoch.items()}
    best = Selection(epoch=min(by_epoch), scores=found[min(by_epoch)])
    last = Selection(epoch=made.recipe.epochs, scores=found[made.recipe.epochs])
    low = dict.fromkeys(best.scores, 0.0)
    epochs = [
        one.model_copy(
            update={
                "scores": found.get(one.epoch, low),
                "held_out": {k: float(one.epoch == held_out) for k in low} if held_out else None,
            }
        )
        for one in made.epochs
    ]
    best = max(epochs, key=lambda one: one.scores[made.metric])
    changes: dict[str, Any] = {
        "epochs": tuple(epochs),
        "best_epoch_on_test": Selection(epoch=best.epoch, scores=best.scores),
        "last_epoch": last,
        "predictions_sha256": file_sha256(stored.predictions_path),
    }
    if held_out:
        changes |= {
            "protocol": "held-out",
            "held_out": SplitRecord(name="x/train", clips=1, sha256="0" * 64),
            "best_epoch_on_held_out": Selection(epoch=held_out, scores=found[held_out]),
        }
    stored.write_record(made.model_copy(update=changes))
    return stored


NASTY = (
    '=HYPERLINK("x")',
    "\x1b[31mred",
    "[bold]not[/bold]",
    "a " + "very long " * 20 + "name",
    "名" * 60,
    "none here",
)
SDV2 = "ucf_hmdb_sdv2"


@dataclass
class Drawn:
    """Three published runs and a held-out one of a row with one label a clip, with classes named to break a terminal."""

    workspace: Workspace
    targets: np.ndarray
    scores: list[np.ndarray]
    held_out: np.ndarray


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    workspace = Workspace(tmp_path_factory.mktemp("scores"))
    clips = record(SDV2, 1, 0.5).test.clips
    targets = np.eye(6, dtype=np.int64)[RNG.integers(0, 5, clips)]
    names = tuple(f"film{n // 4}_walk_f_cm_np1_{('fr', 'ba')[n % 2]}_med_{n}" for n in range(clips))
    groups = tuple(f"film {n // 4}" for n in range(clips))
    scores = []
    for seed in (1, 2, 3):
        better, worse = ((RNG.random(targets.shape) + gain * targets).astype(np.float32) for gain in (0.5, 0.3))
        made = record(SDV2, seed, 0.5).model_copy(update={"classes": NASTY})
        store(workspace, made, {2: better, made.recipe.epochs: worse}, targets, names, groups)
        scores.append(better)
    made = record(SDV2, 1, 0.5, group="h").model_copy(update={"classes": NASTY})
    store(workspace, made, {3: worse, 4: better, made.recipe.epochs: worse}, targets, names, groups, held_out=3)
    return Drawn(workspace, targets, scores, worse)


def test_a_row_of_one_label_a_clip(drawn: Drawn) -> None:
    shown = compute_row_scores(load_row(SDV2), drawn.workspace)
    true, predicted = drawn.targets.argmax(axis=1), [scores.argmax(axis=1) for scores in drawn.scores]
    assert [reading.rule for reading in shown.readings] == ["published", "held-out", "last epoch"]
    assert [run.seed for run in shown.readings[0].runs] == [1, 2, 3]
    for s, run in enumerate(predicted):
        recall = recall_score(true, run, labels=range(5), average=None)
        assert shown.readings[0].values[s, :5] == pytest.approx(100 * recall)
        expected = precision_score(true, run, labels=range(6), average=None, zero_division=np.nan)
        assert shown.precisions[s] == pytest.approx(100 * expected, nan_ok=True)
    assert np.isnan(shown.readings[0].values[:, 5]).all()
    held_out = recall_score(true, drawn.held_out.argmax(axis=1), labels=range(5), average=None)
    assert shown.readings[1].values[0, :5] == pytest.approx(100 * held_out)
    assert (shown.confusion == sum(confusion_matrix(true, run, labels=range(6)) for run in predicted)).all()
    assert shown.counts.sum() == shown.clips == len(true)
    row = shown.confusion[0].copy()
    row[0] = 0
    assert shown.confused_with(0) == (NASTY[row.argmax()], row.max() / (3 * shown.counts[0]))
    assert shown.confused_with(5) is None
    first = shown.readings[0]
    assert first.means[:5] == pytest.approx(first.values[:, :5].mean(axis=0))
    assert first.spreads is not None
    assert first.spreads[:5] == pytest.approx(first.values[:, :5].std(axis=0, ddof=1))
    worst = shown.rank_items()
    assert first.means[worst].tolist() == sorted(first.means[:5])
    assert shown.rank_items(best_first=True) == worst[::-1]


@pytest.mark.parametrize(("by", "groups"), [("source", 300), ("viewpoint", 2), ("people", 1)])
def test_groups_of_clips(drawn: Drawn, by: str, groups: int) -> None:
    shown = load_scores(SDV2, by, drawn.workspace.root, seeds=[1, 3])
    assert len(shown.items) == groups
    assert shown.counts.sum() == shown.clips
    clips = {"source": range(4), "viewpoint": range(1, 1200, 2), "people": range(1200)}[by]  # film 0; back; 1
    for s, place in enumerate((0, 2)):
        expected = 100 * metrics.top1(drawn.scores[place][clips], drawn.targets[clips])
        assert shown.readings[0].values[s, 0] == pytest.approx(expected)


def test_names_break_neither_terminal_nor_spreadsheet(drawn: Drawn, tmp_path: Path) -> None:
    words = ("scores", SDV2, "--workspace", drawn.workspace.root)
    for more in ((), ("--confusion",), ("--by", "source")):
        table = tmp_path / f"table{len(more)}{more[-1:]}.csv"
        done = run_repro(*words, *more, "--csv", table)
        assert (done.code, done.err) == (0, "")
        assert "\x1b" not in done.out
        lines = list(csv.reader(table.read_text("utf-8-sig").splitlines()))
        if "source" not in more:
            assert [line[0] for line in lines[1:5]] == ["'" + NASTY[0], "\\x1b[31mred", NASTY[2], NASTY[3]]
    report = json.loads(run_repro(*words, "--json").out)
    assert [item["class"] for item in report["items"]] == list(NASTY)
    assert report["items"][5]["published"] is None
    assert np.sum(report["confusion"]["matrix"]) == 3 * 1200
    assert run_repro(*words, "--csv", table).code == 2


@pytest.mark.parametrize("more", [[], ["--confusion"], ["--by", "source", "--best-first"], ["--by", "viewpoint"]])
def test_lines_fit_80_columns(drawn: Drawn, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    monkeypatch.setattr(scores, "terminal_width", lambda: 80)
    done = run_repro("scores", SDV2, "--workspace", drawn.workspace.root, *more)
    assert max(map(cell_len, done.out.splitlines())) <= 80
    if not more:
        assert re.search(r"\[bold\]not\[/bold\] +\d+ +\d+\.\d ± +\d\.\d", done.out)
        assert "a ve…name" in re.sub("ry.*….*", "…name", done.out) or "…" in done.out
        assert re.search(r"interval +\d+\.\d to \d+\.\d \(95 %, bootstrap over 300 source videos\)", done.out)


ANIMALS = [
    ("AAAAXZTV", "test", "2,40", "[('Common Crane', 'Attending'), ('Mallard', 'Eating')]"),
    ("BBBBXZTV", "test", "78", "[('Common Quail', 'Moving')]"),
    ("CCCCABCD", "test", "40", "['[(\"Russell\\'S Viper\", \\'Eating\\')]', '[(\\'Bird\\', \\'Eating\\')]']"),
    ("DDDDABCD", "test", "68", "[]"),
]
AK = "ak_full_sdv2"


@dataclass
class Multi:
    """A run of a row with any number of labels a clip, on four of its clips."""

    workspace: Workspace
    targets: np.ndarray
    scores: np.ndarray
    run: StoredRun


@pytest.fixture
def multi(workspace: Workspace) -> Multi:
    tiny_datasets.animal_kingdom(workspace.data / "animal_kingdom", films=False, rows=ANIMALS)
    targets = np.zeros((4, 140), np.int64)
    for clip, row in enumerate(ANIMALS):
        targets[clip, list(map(int, row[2].split(",")))] = 1
    drawn = RNG.random(targets.shape).astype(np.float32)
    made = record(AK, 7, 0.5)
    missing = tuple(f"missing{n}" for n in range(made.test.clips - 4))
    changes = {
        "classes": tuple(f"action {n}" for n in range(140)),
        "test": made.test.model_copy(update={"clips": 4, "missing_clips": missing}),
        "features": made.features.model_copy(update={"readers": {"pyav": made.train.clips + 4}}),
    }
    clips, groups = tuple(row[0] for row in ANIMALS), tuple(row[0][-4:] for row in ANIMALS)
    run = store(workspace, made.model_copy(update=changes), {made.recipe.epochs: drawn}, targets, clips, groups)
    return Multi(workspace, targets, drawn, run)


def test_a_row_of_any_number_of_labels(multi: Multi) -> None:
    shown = compute_row_scores(load_row(AK), multi.workspace)
    assert [reading.rule for reading in shown.readings] == ["published", "last epoch"]
    present = [2, 40, 68, 78]
    assert sorted(shown.rank_items()) == present
    for k in present:
        expected = average_precision_score(multi.targets[:, k], multi.scores[:, k])
        assert shown.readings[0].values[0, k] == 100 * expected
    above = (multi.scores[[0, 2]] >= multi.scores[[0, 2], 40][:, None]) & (multi.targets[[0, 2]] == 0)
    assert (shown.confusion[40] == above.sum(axis=0)).all()
    assert shown.interval is not None
    assert "2 source videos" in str(shown.interval)
    done = run_repro("scores", AK, "--workspace", multi.workspace.root)
    assert "136 without test clips\na clip of several counts in each\n" in done.out


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (
            "species",
            {
                "Bird": [2],
                "Common Crane": [0],
                "Common Quail Bird": [1],
                "Mallard": [0],
                "Russell'S Viper": [2],
                "no animal": [3],
            },
        ),
        ("parent-class", {"Animal": [0, 1, 2], "no animal": [3]}),
        ("source", {"ABCD": [2, 3], "XZTV": [0, 1]}),
        ("split", {"full_test": [0, 1, 2, 3], "unseen_species_train": [1, 2]}),
    ],
)
def test_groups_of_animals(multi: Multi, by: str, groups: dict[str, list[int]]) -> None:
    shown = compute_row_scores(load_row(AK), multi.workspace, by)
    assert list(shown.items) == list(groups)
    for n, clips in enumerate(groups.values()):
        expected = average_precision_score(multi.targets[clips].ravel(), multi.scores[clips].ravel())
        assert shown.readings[0].values[0, n] == 100 * expected


def test_segments_of_classes(multi: Multi) -> None:
    with pytest.raises(MissingError, match=r"df_action\.xlsx, is not in"):
        compute_row_scores(load_row(AK), multi.workspace, "segment")
    book = openpyxl.Workbook()
    book.active.title = "AR_count"
    for line in (("index", "segment"), *((n, "head" if n < 50 else "tail" if n < 100 else "none") for n in range(140))):
        book.active.append(line)
    book.save(multi.workspace.data / "animal_kingdom" / "df_action.xlsx")
    shown = compute_row_scores(load_row(AK), multi.workspace, "segment")
    assert shown.items == ("head", "none", "tail")
    assert shown.counts.tolist() == [2, 0, 2]
    by_class = metrics.average_precision_by_class(multi.scores, multi.targets)
    assert shown.readings[0].values[0] == pytest.approx(
        [100 * np.mean(by_class[[2, 40]]), np.nan, 100 * np.mean(by_class[[68, 78]])], nan_ok=True
    )


BAD: dict[str, tuple[list[str], int, str]] = {
    "no such row": (["ak_ful"], 2, "did you mean 'ak_full'"),
    "no runs": (["ak_full"], 5, "no run of ak_full to show in"),
    "no such group": ([AK, "--by", "colour"], 2, f"--by colour: {AK} has class, source, segment, species, sub-class"),
    "no such seed": ([AK, "--seed", "8"], 5, "no run of seed 8 to show"),
    "not a seed": ([AK, "--seeds", "x"], 2, "--seeds 'x'"),
    "no such cell": ([AK, "--cell", "t1"], 2, "--cell t1: the grid of ak_full_sdv2 has t00_layer"),
    "two views": ([AK, "--confusion", "--by", "source"], 2, "leave out --by source"),
    "a folder for a table": ([AK, "--csv", "."], 2, "--csv .: the file exists"),
    "no lines": ([AK, "--top", "0"], 2, "--top 0: expected a number from 1 on"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(multi: Multi, case: str) -> None:
    words, code, message = BAD[case]
    done = run_repro("scores", *words, "--workspace", multi.workspace.root)
    assert done.code == code, done.err
    assert message in done.err
    assert done.err.count("\n") == 1


def test_damaged_predictions_are_refused(multi: Multi) -> None:
    whole = multi.run.predictions_path.read_bytes()
    multi.run.predictions_path.write_bytes(whole[:-1])
    with pytest.raises(NothingToCheckError, match="does not match the sha256 in the record"):
        compute_row_scores(load_row(AK), multi.workspace)
    # Signed again, as somebody does who changes scores.
    scored = multi.scores.copy()
    scored[0] = scored[0, ::-1]
    read = read_predictions_of(whole, multi.run.predictions_path)
    logits = {next(iter(read.by_epoch)): scored.astype(np.float32)}
    write_predictions(multi.run.predictions_path, read, logits, "sigmoid")
    raw = json.loads(multi.run.record_path.read_text())
    del raw["sha256"]
    raw["predictions_sha256"] = file_sha256(multi.run.predictions_path)
    write_signed_json(multi.run.record_path, raw)
    with pytest.raises(MissingError, match="its predictions have map_micro"):
        compute_row_scores(load_row(AK), multi.workspace)


def read_predictions_of(content: bytes, path: Path) -> Predictions:
    path.write_bytes(content)
    return read_predictions(path)


def test_runs_that_are_not_shown_are_named(multi: Multi) -> None:
    trial = record(AK, 8, 0.5).model_copy(update={"complete": False, "classes": ("a",)})
    store(multi.workspace, trial, {trial.recipe.epochs: np.ones((4, 1))}, np.ones((4, 1), np.int64))
    done = run_repro("scores", AK, "--workspace", multi.workspace.root)
    assert done.code == 0
    assert done.err == "warning: not shown: seed8-g8: a trial on fewer clips\n"


@pytest.mark.parametrize(
    ("dataset", "stated"),
    [
        (
            "ucf101",
            {
                "original-class": {(name,) for name in tiny_datasets.UCF_CLASSES},
                "split": {("train", "full"), ("val", "full")},
            },
        ),
        (
            "charades_ego",
            {
                "viewpoint": {("first person",), ("third person",)},
                "scene": {("Kitchen",)},
                "split": {("first_train",), ("first_test",), ("third_train",), ("third_test",)},
            },
        ),
    ],
)
def test_what_other_data_sets_state(
    workspace: Workspace, dataset: str, stated: dict[str, set[tuple[str, ...]]]
) -> None:
    config = tiny_datasets.MAKERS[dataset](workspace.data / load_dataset(dataset).folder, films=False)
    clips = [clip.id for clip in list_dataset(config, workspace).clips]
    assert set(attribute_names(config)) == set(stated)
    for name, values in stated.items():
        assert set(read_attribute(config, workspace, name, clips).values()) == values
    with pytest.raises(MissingError, match="1 of 1 clips have none in"):
        read_attribute(config, workspace, "split", ["strange"])
