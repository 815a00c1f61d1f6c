"""A grid of readouts: real stores and readouts, on a tiny random backbone with 91 cells."""

import csv
import json
import multiprocessing
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from builders import tiny_datasets
from builders.commands import schemas
from builders.records import record
from builders.repro_rows import run_here

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone, family_of
from repro.backbones.weights import ensure_random_weights
from repro.cli import app as cli
from repro.cli.grid import print_grid
from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split
from repro.features.gathering import Extraction
from repro.features.store import Entry, FeatureStore
from repro.judge.evidence import read_evidence
from repro.judge.grid_selection import choose_grid_part, grid_cells, select_cell, selection_of, selection_score
from repro.pipeline import extract as extraction
from repro.pipeline import row as rows
from repro.pipeline.grid import grid
from repro.pipeline.grid.figure import render_svg
from repro.pipeline.grid.grid import GridRequest, run_grid
from repro.pipeline.grid.report import GridResult, format_summary, format_table, grid_as_csv, grid_as_json
from repro.pipeline.predict import predict_videos
from repro.pipeline.row_data import RowData
from repro.pipeline.runs import train
from repro.readout import checkpoints
from repro.readout.checkpoints import STATE
from repro.readout.compute import Compute
from repro.readout.predictions import read_predictions
from repro.records import mlflow_view
from repro.records.record import EpochRecord, RunRecord, Selection, find_runs
from repro.table.row import Row, row_backbone
from repro.table.rows import load_row
from repro.video import workers

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = "ucf_hmdb"
OWN = "t20_layer09"
LOGGED = mlflow_view.log_runs
FEW = GridRequest(timesteps=(20, 25), layers=(8, 9))
ONE_THREAD = Compute(threads=1)


def tiny_row() -> Row:
    recipe = load_row("smoke").readout.model_copy(update={"epochs": 2, "layers": 1, "max_length": 8})
    return load_row(ROW).model_copy(update={"backbone": "svd_xt_tiny", "readout": recipe})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke job's folder with the tiny backbone's weights in it."""
    workspace = Workspace(tmp_path_factory.mktemp("drawn"))
    config = row_backbone(tiny_row())
    ensure_random_weights(config, family_of(config), workspace, lambda warning: None)
    return workspace.smoke


@pytest.fixture
def place(workspace: Workspace, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a few clips of two classes, and the row on the tiny backbone."""
    workspace.root.mkdir()
    workspace.smoke.symlink_to(drawn)
    row, numbers = tiny_row(), {"train": range(10), "test": range(20, 24)}
    splits = {}
    for part, name in (("train", row.data.train), ("test", row.data.test)):
        clips = tuple(Clip(f"clip{n}", workspace.data / f"{n}.avi", (n % 2,)) for n in numbers[part])
        for clip in clips:
            clip.path.parent.mkdir(exist_ok=True)
            clip.path.write_bytes(clip.id.encode())
        splits[part] = Split(name, ("a", "b"), clips)
    for module in (grid, rows):
        monkeypatch.setattr(module, "open_row_data", lambda *_, **__: RowData(splits))
    monkeypatch.setattr(mlflow_view, "log_runs", lambda *_: None)  # takes seconds; one test has it
    return workspace


def put_features(workspace: Workspace, clips: tuple[Clip, ...], dataset: str, stored_as: Any = "float32") -> None:
    """Store features of all 91 cells as an extraction would; some cells separate the classes better than others."""
    config = row_backbone(tiny_row())
    store = FeatureStore.open(
        workspace, "svd_xt_tiny", describe_backbone(config, workspace).identity(), dataset, stored_as
    )
    for clip in clips:
        draws, values = np.random.default_rng(int(clip.id[4:])), {}
        for place, cell in enumerate(grid_cells(tiny_row())):
            features = draws.normal(size=(3, config.channels(cell) or 0)).astype(store.stored_as)
            features[:, clip.target[0]] += place % 4
            values[cell.name] = features
        store.write_clip(clip.id, Entry(values, store.hashes.sha256(clip.path), "pyav"))


@pytest.fixture
def featured(place: Workspace) -> Workspace:
    data = grid.open_row_data(tiny_row(), place)
    for part, dataset in (("train", "ucf101"), ("test", "hmdb51")):
        put_features(place, data.splits[part].clips, dataset)
    return place


def run(workspace: Workspace, request: GridRequest = FEW, *, as_json: bool = False) -> dict[str, str]:
    """Run what `repro grid ROW` does once data are present; returns the failed cells."""
    reporter = Reporter(to_stderr=as_json)
    found, failures = run_grid(tiny_row(), request, workspace, Execution(), ONE_THREAD, reporter)
    print_grid(found, workspace, as_json=as_json)
    return failures


def records(workspace: Workspace) -> dict[tuple[str, int, str], RunRecord]:
    found = [whole for stored in find_runs(workspace.runs) if (whole := stored.load_record())]
    return {(r.protocol, r.seed, r.features.cell): r for r in found}


def report(workspace: Workspace, name: str = f"{ROW}-grid") -> Any:
    return json.loads((workspace.reports / f"{name}.json").read_text())


@pytest.mark.slow
def test_one_pass_over_the_clips_extracts_all_cells(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From videos: the cells of a grid, then the row's own run, which is one of them."""
    data = grid.open_row_data(tiny_row(), place)
    few = {p: Split(s.name, s.classes, s.clips[: 2 if p == "train" else 1]) for p, s in data.splits.items()}
    for number, clip in enumerate(few["train"].clips + few["test"].clips):
        tiny_datasets.film(clip.path, number)
    for module in (grid, rows):
        monkeypatch.setattr(module, "open_row_data", lambda *_, **__: RowData(few))
    monkeypatch.setattr(mlflow_view, "log_runs", LOGGED)
    done: list[Extraction] = []
    real = extraction.extract_missing
    monkeypatch.setattr(extraction, "extract_missing", lambda *a: done.append(real(*a)) or done[-1])
    run(place)
    assert [(len(d.extracted), d.windows) for d in done] == [(2, 2), (1, 1)]  # a window a clip, once for four cells
    made = records(place)
    assert set(made) == {("published", 42, f"t{t}_layer{n:02d}") for t in (20, 25) for n in (8, 9)}
    assert len({r.grid for r in made.values()}) == 1
    assert len({r.group for r in made.values()}) == 4
    captured = capsys.readouterr().out
    assert "disk        about" in captured
    assert "mlflow      4 logged" in captured
    run(place)
    assert done[-1].windows == 0
    captured = capsys.readouterr().out
    assert "readout     reused all 4" in captured
    assert "4 of 91 cells" in captured
    assert records(place) == made
    run_here(tiny_row(), place)
    assert "readout     reused all 1" in capsys.readouterr().out
    assert records(place) == made
    video = few["test"].clips[0].path
    scored = predict_videos(tiny_row(), [video], None, place, Execution(), Reporter(to_stderr=True))
    assert (scored.readout.backbone, scored.readout.cell, list(scored.scores)) == ("svd_xt_tiny", OWN, [video])


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the cells whose training starts from now on in this process."""
    cells: list[str] = []
    real = train._open_training
    monkeypatch.setattr(
        train, "_open_training", lambda r, *a: cells.append(r.plan.inputs.row.features.name) or real(r, *a)
    )
    return cells


@pytest.mark.slow
def test_a_killed_grid_resumes(featured: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in a cell after its first epoch: finished cells are kept, this one resumes, another cell may run first."""
    monkeypatch.setattr(checkpoints, "STATE_EVERY", 0.0)  # saved after every epoch
    with monkeypatch.context() as patch:
        real, epochs = checkpoints.save_training, []

        def killed(*arguments: Any) -> None:
            real(*arguments)
            epochs.append(1)
            if len(epochs) == 5:
                raise KeyboardInterrupt

        patch.setattr(checkpoints, "save_training", killed)
        with pytest.raises(KeyboardInterrupt):
            run(featured)
    assert {cell for _, _, cell in records(featured)} == {OWN, "t20_layer08"}
    assert len(list(featured.runs.glob(f"*/*/{STATE}"))) == 1
    before = records(featured)
    cells = trained(monkeypatch)
    run(featured, GridRequest((25,), (9,)))  # next to the unfinished one
    run(featured)
    assert cells == ["t25_layer09", "t25_layer08"]
    assert set(records(featured)) == {("published", 42, f"t{t}_layer{n:02d}") for t in (20, 25) for n in (8, 9)}
    assert records(featured).items() >= before.items()
    assert not list(featured.runs.glob(f"*/*/{STATE}"))
    whole = report(featured)["protocols"]["published"]
    assert (whole["cells"], whole["whole"], report(featured)["cells_of_grid"]) == (4, False, 91)


def plain(made: dict[Any, RunRecord]) -> dict[Any, dict[str, Any]]:
    """Dump records without their time and duration."""
    return {key: r.model_dump(exclude={"made": {"at", "seconds"}}) for key, r in made.items()}


@pytest.mark.slow
def test_scores_of_every_clip_are_kept_of_the_own_cell_and_the_best(
    featured: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was kept, the record is the same."""

    def kept() -> dict[str, tuple[bool, bool]]:
        """By cell: whether the predictions have scores of every clip, and whether a file next to them does."""
        assert read_evidence(find_runs(featured.runs))[1] == []
        cells = {r.run: cell for (_, _, cell), r in records(featured).items()}
        return {
            cells[stored.folder.name.split("-")[1]]: (
                bool(read_predictions(stored.predictions_path).by_epoch), stored.scores_path.exists()
            )
            for stored in find_runs(featured.runs)
        }  # fmt: skip

    # The scores of all other cells are above, then below the one that is trained.
    for others, request in ((2.0, GridRequest((20, 25), (9,))), (-1.0, GridRequest((25,), (8,)))):
        monkeypatch.setattr("repro.pipeline.runs.record.selection_score", lambda _, others=others: others)
        run(featured, request)
    assert kept() == {OWN: (True, False), "t25_layer09": (False, False), "t25_layer08": (False, True)}
    before = plain(records(featured))
    run(featured, GridRequest((25,), (9,), all_predictions=True))
    assert kept()["t25_layer09"] == (False, True)
    assert plain(records(featured)) == before


@pytest.mark.slow
def test_two_processes_train_the_same_runs_as_one(
    featured: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell that fails is named and the others continue."""
    run(featured)
    alone = plain(records(featured))
    shutil.rmtree(featured.runs)
    (featured.runs / ROW).mkdir(parents=True)
    broken = next(r["run"] for (_, _, cell), r in alone.items() if cell == OWN)
    (featured.runs / ROW / f"seed42-{broken}").write_text("a file where a folder belongs")
    failures = run(featured, replace(FEW, jobs=2))
    assert failures == {"t20_layer09 (published)": "its process died (exit code 1)"}
    assert "warning: cell t20_layer09, published protocol: its process died (exit code 1)" in capsys.readouterr().err
    assert report(featured)["protocols"]["published"]["cells"] == 3
    (featured.runs / ROW / f"seed42-{broken}").unlink()
    run(featured)
    assert plain(records(featured)) == alone
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_cells_of_a_layer_are_trained_together(
    featured: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same runs as one by one; a cell that cannot be trained is named and the others continue."""
    run(featured, replace(FEW, seeds=2))
    alone = records(featured)
    shutil.rmtree(featured.runs)
    monkeypatch.setattr(sys.modules[__name__], "ONE_THREAD", replace(ONE_THREAD, together=4))
    real = train.load_splits

    def spoil(inputs: Any) -> Any:
        if inputs.row.features.name == OWN:
            raise MissingError("features are damaged")
        return real(inputs)

    with monkeypatch.context() as patch:
        patch.setattr(train, "load_splits", spoil)
        assert run(featured, replace(FEW, seeds=2)) == {f"{OWN} (published)": "features are damaged"}
    assert len(records(featured)) == 6
    assert f"warning: cell {OWN}, published protocol: features are damaged" in capsys.readouterr().err
    assert not run(featured, replace(FEW, seeds=2))
    together = records(featured)
    assert {key: r.run for key, r in together.items()} == {key: r.run for key, r in alone.items()}
    sizes = {cell: r.made.on.get("trainings_together") for (_, _, cell), r in together.items()}
    assert sizes == {"t20_layer08": "4", "t25_layer08": "4", "t25_layer09": "2", OWN: "2"}
    for key, made in together.items():
        for ours, theirs in zip(made.epochs, alone[key].epochs, strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_and_keeps_finished_runs(
    featured: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = workers.wait, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(multiprocessing.active_children())
        # Workers also send how many epochs they have trained.
        if records(featured):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(workers, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(featured, replace(FEW, jobs=2))
    assert len(calls[0]) == 2
    assert not multiprocessing.active_children()
    assert records(featured)
    with featured.lock(f"run {ROW}"):
        pass


@pytest.mark.slow
def test_both_protocols_are_reported_together(featured: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    pair = GridRequest((20, 25), (9,), seeds=2)
    run(featured, pair)
    first = capsys.readouterr().out
    assert "the held-out selection too: the same command with --protocol both" in first
    assert "held-out protocol" not in first
    run(featured, replace(pair, protocols=("held-out",)))
    captured = capsys.readouterr().out
    made = records(featured)
    assert len(made) == 8
    found = report(featured)
    for protocol in ("published", "held-out"):
        for one in found["protocols"][protocol]["selected"]:
            own = {cell: r for (p, s, cell), r in made.items() if (p, s) == (protocol, one["seed"])}
            assert selection_score(own[one["cell"]]) == max(selection_score(r) for r in own.values())
            assert one["test"] == pytest.approx(100 * selection_of(own[one["cell"]]).scores["top1"])
        assert f"ucf_hmdb, {protocol} protocol: top1" in captured
        assert f"± {found['protocols'][protocol]['spread']:.2f} over 2 seeds on test" in captured
    run(featured, pair, as_json=True)
    assert json.loads(capsys.readouterr().out) == found
    rows = list(csv.DictReader((featured.reports / f"{ROW}-grid.csv").read_text().splitlines()))
    assert len(rows) == len(found["scores"]) == 8
    assert {row["run"] for row in rows} == {r.run for r in made.values()}
    for row in rows:
        one = made[row["protocol"], int(row["seed"]), row["cell"]]
        assert (row["cell"], one.features.cell) == (f"t{row['timestep']}_layer{int(row['layer']):02d}", row["cell"])
        assert float(row["last_epoch"]) == pytest.approx(100 * one.last_epoch.scores["top1"])


def made_up(protocol: str, cell: str, test: float, held: float | None = None, seed: int = 52) -> RunRecord:
    """A record with one epoch selected on the test split and, if `held` is given, another on held-out clips."""
    one = record("ak_full", seed, test)
    one = one.model_copy(update={"features": one.features.model_copy(update={"cell": cell}), "protocol": protocol})
    if held is None:
        return one
    chosen = Selection(epoch=2, scores={"map_micro": test - 0.1})
    epochs = tuple(
        EpochRecord(epoch=2, train_loss=0.1, scores=chosen.scores, held_out={"map_micro": held})
        if epoch.epoch == chosen.epoch
        else epoch.model_copy(update={"held_out": {"map_micro": held - 0.1}})
        for epoch in one.epochs
    )
    return one.model_copy(update={"held_out": one.train, "best_epoch_on_held_out": chosen, "epochs": epochs})


def test_each_rule_selects_by_its_own_clips() -> None:
    order = ["t00_layer01", "t00_layer02", "t05_layer01"]
    published = {cell: made_up("published", cell, test) for cell, test in zip(order, (0.5, 0.7, 0.7), strict=True)}
    chosen = select_cell(published, order)
    assert (chosen.cell, chosen.epoch, chosen.chosen_on, chosen.test, chosen.equals) == ("t00_layer02", 1, 0.7, 0.7, 2)
    # Held-out clips prefer the cell that is worst on test, and an epoch that is not its best there.
    held_out = {
        cell: made_up("held-out", cell, test, held)
        for cell, test, held in zip(order, (0.5, 0.7, 0.7), (0.66, 0.65, 0.64), strict=True)
    }
    chosen = select_cell(held_out, order)
    assert (chosen.cell, chosen.epoch, chosen.chosen_on, chosen.equals) == ("t00_layer01", 2, 0.66, 1)
    assert chosen.test == pytest.approx(0.4)
    assert chosen.last_epoch == 0.5


def result(missing: int = 0, protocols: tuple[str, ...] = ("published", "held-out")) -> GridResult:
    row = load_row("ak_full")
    cells, runs = grid_cells(row), {}
    for place, cell in enumerate(cells):
        for protocol in protocols:
            if protocol == "published" or place >= missing:
                held = 0.9 - place / 200 if protocol == "held-out" else None
                runs[protocol, 52, cell.name] = made_up(protocol, cell.name, 0.3 + place / 200, held)
    return GridResult(row, cells, (52,), runs, "float32", "ak_full-grid")  # type: ignore[arg-type]


def test_the_table_and_the_summary() -> None:
    found = result(missing=3)
    lines = format_table(found, "published")
    assert len(lines) == 14
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith(" 75.00*")
    assert "".join(lines).count("*") == 1
    assert lines[0].split() == ["layer", "t0", "t5", "t10", "t15", "t20", "t25", "t29"]
    assert format_table(found, "held-out")[1].split()[:3] == ["1", "-", "83.50"]
    message = "\n".join(format_summary(found))
    assert "published  map_micro 75.00 on test: best cell and epoch on the test split, 91 of 91 cells" in message
    assert (
        "held-out   map_micro 21.50 on test: cell and epoch picked on held-out training clips, 88 of 91 cells"
        in message
    )
    assert "seed 52: t00_layer04 epoch 2, 21.50 on test, 88.50 on held-out clips; its last epoch 31.50" in message
    assert "the row's own cell t20_layer09, epoch 1, 60.00 on test" in message
    assert "the best of 91 cells on the test split is optimistic by construction" in message
    as_json = grid_as_json(found)
    schemas().check_output("grid", as_json)
    assert as_json["cells_of_grid"] == 91
    assert len(grid_as_csv(found).splitlines()) == 1 + 91 + 88


@pytest.mark.slow
def test_the_heat_map_shows_every_value_and_a_caption() -> None:
    """The SVG is well-formed and has text elements: every value once, captions, and no value for cells that were not run."""
    for found, panels in ((result(missing=3), 2), (result(protocols=("published",)), 1), (result(missing=91), 1)):
        written = render_svg(found)
        root = ElementTree.fromstring(written)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = [" ".join("".join(e.itertext()).split()) for e in root.iter("{http://www.w3.org/2000/svg}text")]
        values = [text for text in texts if text.replace(".", "").isdigit() and "." in text and len(text) == 5]
        assert len(values) == len(found.runs)
        assert texts.count("layer") == panels
        message = " ".join(texts)
        for word in (
            "Animal Kingdom, full dataset: ActionDiff, transformer readout",
            "mAP (micro) in percent, seed 52; trained on animal_kingdom/full_train, tested on animal_kingdom/full_test",
            "the best of 91 cells on the test split is optimistic by construction",
            "published: best cell and epoch on the test split; 91 of 91 cells; 75.00 on test",
        ):
            assert word in message
        assert ("held out of the training split" in message) == (panels == 2)
    assert render_svg(found) == written


@pytest.mark.slow
def test_fp16_features_and_other_heads_are_separate_grids(featured: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    place, data = featured, grid.open_row_data(tiny_row(), featured)
    own = GridRequest((20,), (9,))
    run(place, own)
    for part, dataset in (("train", "ucf101"), ("test", "hmdb51")):
        put_features(place, data.splits[part].clips, dataset, "float16")
    run(place, replace(own, stored_as="float16"))
    assert [whole.features.cell for stored in find_runs(place.runs) if (whole := stored.load_record())] == [OWN, OWN]
    # It cannot be decoded, and is not refused for a readout trained on other features.
    video = data.splits["test"].clips[0].path
    scored = predict_videos(tiny_row(), [video], None, place, Execution(), Reporter(to_stderr=True))
    assert list(scored.failed) == [str(video)]
    with monkeypatch.context() as patch:
        real = checkpoints.save_training

        def killed(*arguments: Any) -> None:
            real(*arguments)
            raise KeyboardInterrupt

        patch.setattr(checkpoints, "STATE_EVERY", 0.0)
        patch.setattr(checkpoints, "save_training", killed)
        with pytest.raises(KeyboardInterrupt):
            run(place, replace(own, stored_as="float16", protocols=("held-out",)))
    run(place, replace(own, head="linear", stored_as="float16", protocols=("held-out",)))
    assert sorted(path.name for path in place.reports.glob("*.json")) == [
        "ucf_hmdb-grid-fp16.json", "ucf_hmdb-grid-linear-fp16.json", "ucf_hmdb-grid.json"
    ]  # fmt: skip
    found = report(place, f"{ROW}-grid-linear-fp16")
    assert list(found["protocols"]) == ["held-out"]
    assert {name: found["recipe"][name] for name in ("head", "layers", "epochs", "learning_rate", "max_length", "mixup")} == {
        "head": "linear", "layers": 0, "epochs": 50, "learning_rate": 1e-5, "max_length": 300, "mixup": 0.2,
    }  # fmt: skip
    assert found["features"]["stored_as"] == "fp16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid", "ak_full_vjepa"], "--grid: ak_full_vjepa reads vjepa, which has no timesteps"),
        (["grid", "ak_full", "--timesteps", "20,21"], "--timesteps 21: the grid has 0, 5, 10, 15, 20, 25, 29"),
        (["grid", "ak_full", "--layers", "9-14"], "--layers 14: the grid has 1, 2, 3"),
        (["grid", "ak_full", "--layers", "x"], "--layers x: expected numbers"),
        (["grid", "ak_full", "--jobs", "0"], "--jobs 0: expected a number from 1 on"),
        (
            ["grid", "charades_1to1", "--head", "linear"],
            "the release has linear grids of animal_kingdom, ucf101, hmdb51",
        ),
        (["ak_full", "--grid"], "--grid is no option of `repro run`: `repro grid` is a command"),
        (["run", "--grid"], "--grid is no option of `repro run`: `repro grid` is a command"),
        (["ak_full", "--head", "linear"], "--head is no option of `repro run`, but of `repro grid`"),
        (["ak_full", "--protocol", "both"], "both"),
        (["grid", "ak_full", "--limit", "5"], "--limit"),
        (["grid", "ak_full", "--grid"], "--grid is no option of `repro grid`, but of `repro extract`"),
        (["grid", "smoke"], "run `repro smoke`"),
    ],
)
def test_invalid_grid_options_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        cli.dispatch([*words, "--workspace", str(tmp_path / "w")])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "w").exists()


def test_parts_of_a_grid() -> None:
    cells = grid_cells(load_row("ak_full"))
    assert len(cells) == 91
    assert choose_grid_part(cells, None, None) == cells
    assert [cell.name for cell in choose_grid_part(cells, (0, 29), (13,))] == ["t00_layer13", "t29_layer13"]
