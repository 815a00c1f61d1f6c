"""All 24 rows from their owners' files to a record, on tiny data, weights of all four backbones, and the shipped code."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import tiny_datasets, tiny_project
from builders.commands import ROOT
from builders.repro_rows import read_out_here, run_here
from builders.shipped import use_shipped

from repro.backbones.registry import describe_backbone, load_backbone
from repro.core.workspace import Workspace
from repro.features.store import Entry, FeatureStore
from repro.records.record import RunRecord, find_runs
from repro.table.rows import load_row, row_names, table_order


@pytest.fixture(scope="module")
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


def repro(folder: Path, *words: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """The copy's command, as a user would run it in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "repro", *words], cwd=folder, env=environment(folder), text=True, capture_output=True,
        check=False, **kwargs,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def records(workspace: Workspace) -> dict[str, RunRecord]:
    found = {run.folder.parent.name: run.load_record() for run in find_runs(workspace.runs)}
    return {name: record for name, record in found.items() if record is not None}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_all_24_rows_run_end_to_end_and_then_reuse_everything(
    project: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in row_names():
        run_here(load_row(name), project, as_json=True)
    capsys.readouterr()
    made = records(project)
    made = {name: made[name] for name in sorted(row_names())}
    for name, record in made.items():
        row = load_row(name)
        assert (record.train.name, record.test.name) == (str(row.data.train), str(row.data.test)), name
        assert record.recipe == row.readout
        assert record.features.cell == row.features.name
        assert record.features.identity["family"] == {"sdv2": "svd", "svd_xt": "svd"}.get(row.backbone, row.backbone)
        assert record.checkpoint_assumed == (row.backbone in ("vjepa", "videomaev2"))
        assert len(record.epochs) == tiny_project.EPOCHS
    # Rows of one backbone share a key, backbones do not; settings that read other clips have other splits.
    keys = {(load_row(name).backbone, record.features.key) for name, record in made.items()}
    assert len(keys) == 4
    assert (
        len({record.test.sha256 for record in made.values()}) == len(table_order().settings) - 1
    )  # charades 1to1 and 3to1 share a test
    assert len({record.run for record in made.values()}) == 24

    for name in row_names():
        run_here(load_row(name), project, as_json=True)
    said = capsys.readouterr().err
    assert "extracted" not in said
    assert "trained" not in said
    assert {name: record for name, record in records(project).items() if name in made} == made


EXTRAS = (
    "charades_1to3_vjepa", "ak_unseen_svd", "ak_unseen_fixed", "hmdb_hmdb", "ak_actions_videomaev2", "ak_unseen_linear",
    "ak_full_window10", "ak_full_bce", "ak_full_no_conditioning", "ak_full_action_text", "ak_full_empty_text",
    "hmdb_ucf_latent_noise", "ucf_hmdb_up_07",
)  # fmt: skip
"""One of each kind."""


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_kind_of_extra_runs_end_to_end(project: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for name in EXTRAS:
        run_here(load_row(name), project, as_json=True)
    capsys.readouterr()
    made = records(project)
    for name in EXTRAS:
        row, record = load_row(name), made[name]
        assert (record.kind, record.train.name, record.test.name) == ("extra", str(row.data.train), str(row.data.test))
        assert record.recipe == row.readout
        assert record.features.cell == row.features.name
    # Another window, conditioning or noise is another set of features.
    changed = [
        "ak_full_window10",
        "ak_full_no_conditioning",
        "ak_full_action_text",
        "ak_full_empty_text",
        "hmdb_ucf_latent_noise",
    ]
    assert len({made[name].features.key for name in ["ak_unseen_fixed", "ak_unseen_svd", *changed]}) == 7


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_workspace_may_move(
    project: Workspace, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(load_row("ak_full_vjepa"), project, as_json=True)
    capsys.readouterr()
    shutil.copytree(folder / "workspace", tmp_path / "elsewhere", ignore=shutil.ignore_patterns("*.lock"))
    elsewhere = Workspace(tmp_path / "elsewhere")
    run_here(load_row("ak_full_vjepa"), elsewhere, as_json=True)
    said = capsys.readouterr().err
    assert "extracted" not in said
    assert "trained" not in said


@pytest.mark.slow
def test_a_trial_on_few_clips_is_recorded_as_one_and_not_judged(folder: Path, tmp_path: Path) -> None:
    place = _place(folder, tmp_path / "trial")
    done = repro(folder, "ucf_hmdb_vjepa", "--limit", "6", "--workspace", str(place), "--json")
    assert done.returncode == 0, done.stderr
    assert "a trial on 6 of train, 6 of test: recorded as one, and never judged" in done.stderr
    (record,) = json.loads(done.stdout)
    assert record["complete"] is False
    assert (record["train"]["clips"], record["test"]["clips"]) == (6, 6)
    # As many clips as there are make it the row's own run, and a trial's readout scores no video.
    predicted = repro(folder, "predict", "ucf_hmdb_vjepa", "x.mp4", "--workspace", str(place))
    assert predicted.returncode == 4
    assert "but of 1 trial on fewer clips" in predicted.stderr
    checked = repro(folder, "check", "--workspace", str(place))
    assert "ucf_hmdb_vjepa" in checked.stdout + checked.stderr
    assert "LOWER" not in checked.stdout
    for words in (["--limit", "0"], ["--from", "readout", "--limit", "3"], ["--seeds", "0"]):
        done = repro(folder, "ucf_hmdb_vjepa", *words, "--workspace", str(place))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
    # What there is of features is not all that the row reads.
    done = repro(folder, "ucf_hmdb_vjepa", "--from", "readout", "--workspace", str(place))
    assert done.returncode == 4
    assert "have no features final" in done.stderr
    # Another version's workspace is left alone.
    (place / "workspace.json").write_text(json.dumps({"format": 99, "made_by": "actiondiff-repro 9"}))
    done = repro(folder, "ucf_hmdb_vjepa", "--workspace", str(place))
    assert done.returncode == 2
    assert "was made by actiondiff-repro 9 and has layout 99, this version reads layout 1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hmdb_ucf_videomaev2", "ak_unseen"])
def test_a_rows_script_does_what_the_row_does(folder: Path, tmp_path: Path, name: str) -> None:
    """As a real shell script, on a workspace of its own."""
    place = _place(folder, tmp_path / "by hand")
    command = tmp_path / "bin" / "repro"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m repro "$@"\n')
    command.chmod(0o755)
    env = environment(folder) | {"REPRO_WORKSPACE": str(place), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    script = ROOT / "scripts" / "rows" / f"{name}.sh"
    done = subprocess.run(["bash", str(script)], env=env, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode in (0, 1), (
        done.stdout + done.stderr
    )  # 1: judged, and random weights are not the published ones
    (by_hand,) = records(Workspace(place)).values()
    whole = repro(folder, name, "--workspace", str(place), "--json")
    assert whole.returncode == 0, whole.stderr
    assert "extracted" not in whole.stderr
    assert "trained" not in whole.stderr
    assert json.loads(whole.stdout)[0]["run"] == by_hand.run


@pytest.mark.slow
def test_killed_at_any_moment_a_row_ends_with_the_same_record(folder: Path, tmp_path: Path) -> None:
    kills(folder, tmp_path, "charades_3to1_videomaev2", [0.3, 0.4, 0.5, 0.6, 0.7])


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", ["ucf_hmdb", "hmdb_ucf_sdv2", "ak_full_vjepa", "charades_1to1_videomaev2", "ak_unseen"]
)
def test_killed_ten_times_a_row_ends_with_the_same_record(folder: Path, tmp_path: Path, name: str) -> None:
    draws = random.Random(name)
    print(f"{name}: killed {kills(folder, tmp_path, name, [draws.uniform(0.05, 1) for _ in range(10)])}")


def kills(folder: Path, tmp_path: Path, name: str, shares: Sequence[float]) -> dict[str, int]:
    """Run a row undisturbed, then elsewhere kill it after these shares of the time that took; where it was quicker than its
    killer, its record is compared and it begins anew, until as many kills have struck. How often what was there then."""
    begun = time.monotonic()
    undisturbed = _ended(folder, _place(folder, tmp_path / "undisturbed"), name)
    whole = time.monotonic() - begun
    seen: Counter[str] = Counter()
    place = _place(folder, tmp_path / "0")
    for share in shares:
        struck = False
        while not struck:
            process = subprocess.Popen(
                [sys.executable, "-m", "repro", name, "--workers", "1", "--workspace", str(place)],
                cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            time.sleep(share * whole)
            struck = process.poll() is None
            if struck:
                os.killpg(process.pid, signal.SIGKILL)
                seen[_reached(place)] += 1
            process.wait()
            if not struck:
                assert _ended(folder, place, name) == undisturbed
                place = _place(folder, tmp_path / str(int(place.name) + 1))
    assert _ended(folder, place, name) == undisturbed
    return dict(seen)


def _place(folder: Path, place: Path) -> Path:
    place.mkdir()
    for part in ("data", "checkpoints"):
        (place / part).symlink_to(folder / "workspace" / part)
    return place


def _ended(folder: Path, place: Path, name: str) -> dict[str, object]:
    """Let the row end; its one record."""
    done = repro(folder, name, "--workers", "1", "--workspace", str(place))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (record,) = records(Workspace(place)).values()
    return record.model_dump(exclude={"made"})


def _reached(place: Path) -> str:
    for what, pattern in (
        ("with a record", "runs/*/*/record.json"),
        ("in training", "runs/*/*"),
        ("with features", "features/*/*/*/*"),
    ):
        if any(place.glob(pattern)):
            return what
    return "at the beginning"


@pytest.mark.slow
def test_two_runs_of_one_row_do_not_meet(folder: Path, tmp_path: Path) -> None:
    for part in ("data", "checkpoints"):
        (tmp_path / part).symlink_to(folder / "workspace" / part)
    words = [sys.executable, "-m", "repro", "ak_full_videomaev2", "--workspace", str(tmp_path)]
    first = subprocess.Popen(words, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    lock = tmp_path / ".run ak_full_videomaev2.lock"
    while first.poll() is None and not (lock.is_file() and lock.read_text()):
        time.sleep(0.02)
    second = repro(folder, "ak_full_videomaev2", "--workspace", str(tmp_path))
    first.communicate()
    assert first.returncode == 0
    if second.returncode:  # else the first was quicker
        assert second.returncode == 2
        assert f'"pid": {first.pid}' in second.stderr
        assert "wait for it to end, or use another --workspace" in second.stderr


@pytest.mark.slow
def test_interrupted_a_row_says_what_is_kept(folder: Path, tmp_path: Path) -> None:
    for part in ("data", "checkpoints"):
        (tmp_path / part).symlink_to(folder / "workspace" / part)
    words = [sys.executable, "-m", "repro", "ucf_hmdb", "--workers", "1", "--workspace", str(tmp_path)]
    process = subprocess.Popen(
        words, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(tmp_path.glob("features/*/*/clips/*.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted: finished work is kept; run the same command again to resume" in said
    assert "Traceback" not in said
    assert repro(folder, "ucf_hmdb", "--workspace", str(tmp_path)).returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_with_permuted_labels_the_score_falls_to_chance(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted features that say the class: learnt when the owners' file has the labels in order, not when it has them mixed."""
    shutil.copytree(folder / "configs", tmp_path / "configs")
    use_shipped(monkeypatch, configs=tmp_path / "configs")
    load_row.cache_clear()
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 4, 160)
    names = ["".join(chr(65 + n // 26**k % 26) for k in range(8)) for n in range(160)]
    scores = {}
    for what in ("in order", "permuted"):
        workspace = Workspace(tmp_path / what)
        (workspace.root).mkdir()
        (workspace.root / "checkpoints").symlink_to(folder / "workspace" / "checkpoints")
        reporter = (
            labels.copy() if what == "in order" else np.concatenate([draws.permutation(labels[:120]), labels[120:]])
        )
        rows = [
            (name, "train" if n < 120 else "test", str(40 + int(reporter[n])), "[('Mallard', 'Eating')]")
            for n, name in enumerate(names)
        ]
        facts = tiny_datasets.animal_kingdom(workspace.data / "animal_kingdom", films=False, rows=rows).splits
        counts = {name: {} for name in facts} | {"full_train": {"clips": 120}, "full_test": {"clips": 40}}
        config = yaml.safe_load((folder / "configs" / "datasets" / "animal_kingdom.yaml").read_text()) | {
            "splits": counts
        }
        (tmp_path / "configs" / "datasets" / "animal_kingdom.yaml").write_text(yaml.safe_dump(config))
        path = tmp_path / "configs" / "rows" / "ak_full_vjepa.yaml"
        row = yaml.safe_load(path.read_text())
        row["readout"] |= {"epochs": 8, "learning_rate": 1e-3, "mixup": 0.0, "layers": 1}
        path.write_text(yaml.safe_dump(row))
        load_row.cache_clear()
        backbone = describe_backbone(load_backbone("vjepa"), workspace)
        store = FeatureStore.open(workspace, "vjepa", backbone.identity(), "animal_kingdom")
        planted = np.random.default_rng(1).standard_normal((4, 96)).astype(np.float32)
        for n, name in enumerate(names):
            noise = np.random.default_rng(n).standard_normal((6, 96)).astype(np.float32)
            store.write_clip(name, Entry({"final": planted[labels[n]] + noise}, f"{n:064x}", "planted"))
        read_out_here(load_row("ak_full_vjepa"), workspace, as_json=True)
        (record,) = json.loads(capsys.readouterr().out)
        scores[what] = record["last_epoch"]["scores"]["map_macro"]
        prior = record["class_prior"]["map_macro"]
    load_row.cache_clear()
    assert scores["in order"] > 0.95
    assert scores["permuted"] < prior + 0.15
