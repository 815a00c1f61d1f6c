"""The smoke job as a user runs it: offline, damaged, with other seeds; the same numbers every time."""

import json
import os
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.commands import run_repro

from repro.smoke import clips, golden
from repro.smoke.job import GoldenJudgement
from repro.video.synthetic import figures, scenes

FEW_CLIPS = (
    "biped_walk_0", "biped_jump_1",  # train, an action each
    "bird_walk_0", "bird_jump_0",  # test
)  # fmt: skip
"""Short ones, of one window each."""
HERE = ("127.0.0.1", "::1", "localhost")

SMALL_SEEDS = ("--seeds", "7,8")


def take_few_clips(patch: pytest.MonkeyPatch) -> None:
    """Restrict the smoke job to FEW_CLIPS: `make smoke` runs the complete job. Its scores are not judged: the golden ones are those of all clips."""
    few = [scene for scene in scenes.smoke_scenes() if scene.id in FEW_CLIPS]
    expected, features = golden.load_golden(), golden.load_golden_features()
    clips_of_few = {scene.id: expected.clips[scene.id] for scene in few}
    patch.setattr(golden, "load_golden", lambda: expected.model_copy(update={"clips": clips_of_few}))
    patch.setattr(golden, "load_golden_features", lambda: {scene.id: features[scene.id] for scene in few})
    patch.setattr(scenes, "smoke_scenes", lambda: few)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    take_few_clips(monkeypatch)


def test_there_are_enough_actions_bodies_rates_sizes_and_lengths() -> None:
    all_scenes = scenes.smoke_scenes()
    assert len(figures.ACTIONS) >= 4
    assert len(figures.SPECIES) >= 3
    assert not set(figures.TRAIN_SPECIES) & set(figures.TEST_SPECIES)
    assert {s.species for s in all_scenes if s.split == "test"} == set(figures.TEST_SPECIES)
    assert len({s.rate for s in all_scenes}) >= 3
    assert len({(s.height, s.width) for s in all_scenes}) >= 3
    tokens = [-(-s.frames // 4) for s in all_scenes]
    assert min(tokens) < 25 < max(tokens)
    assert max(tokens) > 50
    assert {(s.species, s.action) for s in all_scenes} == {(a, b) for a in figures.SPECIES for b in figures.ACTIONS}


@pytest.mark.parametrize("species", figures.SPECIES)
def test_actions_move_the_body_each_in_its_way(species: str) -> None:
    def track(action: str) -> np.ndarray:
        return np.array([[b.start + b.end for b in figures.pose(species, action, c / 16)] for c in range(16)])

    tracks = {action: track(action) for action in figures.ACTIONS}
    for action, track_ in tracks.items():
        assert np.ptp(track_, axis=0).max() > 0.1, action
    height = {action: t[..., 1].mean(axis=1).max() for action, t in tracks.items()}
    assert height["jump"] > 1.2 * height["walk"]


def test_a_clips_bytes_do_not_depend_on_the_processors_vector_instructions(tmp_path: Path) -> None:
    """Features depend on them, through the noise keyed by them."""
    scene = scenes.smoke_scenes()[1]
    clips.encode_scene(tmp_path / "with.mp4", scene)
    clips.encode_scene(tmp_path / "without.mp4", scene, "asm=0")
    assert (tmp_path / "with.mp4").read_bytes() == (tmp_path / "without.mp4").read_bytes()


def test_colours_are_converted_as_bt601_says() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:] = (255, 0, 0)
    planes = clips.convert_to_yuv420(picture)
    assert planes.shape == (6, 4)
    assert (planes[:4] == 82).all()
    assert (planes[4] == 90).all()
    assert (planes[5] == 240).all()


@pytest.mark.parametrize(
    ("measured", "golden_value", "outcome"),
    [(50.0, 50.4, "REPEATED"), (50.0, 49.4, "HIGHER"), (50.0, 50.6, "LOWER"), (50.0, None, "NOT JUDGED")],
)
def test_a_score_is_judged_two_sided(measured: float, golden_value: float | None, outcome: str) -> None:
    assert GoldenJudgement("smoke", 52, "map_micro", measured, golden_value, 0.5).outcome == outcome


def contents(workspace: Path, *folders: str) -> dict[str, bytes]:
    files = [p for folder in folders for p in sorted((workspace / folder).rglob("*.*")) if p.name != "manifest.json"]
    return {str(p.relative_to(workspace)): p.read_bytes() for p in files}


def refuse_connections(patch: pytest.MonkeyPatch) -> None:
    """In this process, but to this machine itself. test_offline.py does so in every process of a command."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE:
            raise PermissionError(f"the smoke job reached for {address}")
        connect(self, address)

    def look_up_here(host: Any, *rest: Any, **options: Any) -> Any:
        if host not in (None, *HERE):
            raise PermissionError(f"the smoke job looked up {host}")
        return look_up(host, *rest, **options)

    patch.setattr(socket.socket, "connect", connect_here)
    patch.setattr(socket, "getaddrinfo", look_up_here)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run, made with every socket but loopback refused."""
    workspace = tmp_path_factory.mktemp("smoke") / "w"
    with pytest.MonkeyPatch.context() as patch:
        take_few_clips(patch)
        refuse_connections(patch)
        result = run_repro("smoke", *SMALL_SEEDS, "--workspace", workspace, "--json")
    assert result.code == 0, result.err + result.out
    return workspace, json.loads(result.out)


@pytest.mark.slow
def test_it_passes_offline_and_repeats_the_golden_features(done: tuple[Path, dict[str, Any]]) -> None:
    workspace, report = done
    assert report["verdict"] == "PASS"
    assert report["features"]["repeat"]
    assert report["features"]["clips_changed"] == []
    scores = report["scores"]
    assert len(scores) == 8
    assert {s["row"] for s in scores} == {"smoke", "smoke_mean_colour"}
    records = report["records"]
    assert len(records) == 4
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        assert database.execute("select count(*) from runs where status = 'FINISHED'").fetchone() == (6,)
        logged = dict(
            database.execute(
                "select r.name, l.value from latest_metrics l join runs r on r.run_uuid = l.run_uuid "
                "where l.key = 'best_epoch_on_test/map_micro'"
            )
        )
    for path in records:
        record = json.loads((workspace / "runs" / path).read_text())
        assert (
            logged[f"{record['row']} {record['features']['cell']} seed{record['seed']}"]
            == 100 * record["best_epoch_on_test"]["scores"]["map_micro"]
        )


@pytest.mark.usefixtures("few")
@pytest.mark.slow
def test_a_second_run_reuses_everything_and_says_so(done: tuple[Path, dict[str, Any]]) -> None:
    workspace, _ = done
    before = contents(workspace, "features", "runs", "smoke")
    result = run_repro("smoke", *SMALL_SEEDS, "--workspace", workspace)
    assert result.code == 0
    stages = [
        line
        for line in result.out.splitlines()
        if line.startswith(("clips ", "checkpoint ", "features  ", "readout  ", "mlflow "))
    ]
    reused = [line for line in stages if "reused all" in line]
    assert len(reused) == 7
    assert result.out.splitlines()[-1] == "smoke: PASS"
    assert contents(workspace, "features", "runs", "smoke") == before


@pytest.mark.usefixtures("few")
@pytest.mark.slow
def test_damaged_files_are_named_kept_and_made_again(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    shutil.copytree(done[0], workspace)
    clip = workspace / "smoke/clips/bird_walk_0.mp4"
    # The cheaper of the two backbones: its features are extracted again.
    features = next((workspace / "features").glob("mean_colour-*/smoke/packed/final-*.npy"))
    index = features.with_name("final.parquet")
    record = next((workspace / "runs").glob("smoke/seed7-*/record.json"))
    predictions = next((workspace / "runs").glob("smoke/seed8-*/predictions.parquet"))
    checkpoint = workspace / "smoke/svd_xt_tiny.safetensors"
    clip.write_bytes(b"not a video")
    features.write_bytes(features.read_bytes()[:-7])
    record.write_text(record.read_text().replace("0", "1", 3))
    predictions.write_bytes(b"")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    (workspace / "mlflow.db").write_bytes(b"nothing")
    result = run_repro("smoke", *SMALL_SEEDS, "--workspace", workspace)
    assert result.code == 0, result.err
    warnings = result.err.splitlines()
    assert len(warnings) == 6
    for path in (clip, index, record, predictions, checkpoint, workspace / "mlflow.db"):
        assert sum(str(path) in line for line in warnings) == 1, path
    assert all(line.startswith("warning: ") for line in warnings)
    assert clip.with_name(clip.name + ".damaged1").read_bytes() == b"not a video"
    assert contents(workspace, "smoke").items() >= contents(done[0], "smoke").items()


@pytest.mark.usefixtures("few")
@pytest.mark.slow
def test_other_seeds_run_and_are_not_judged(done: tuple[Path, dict[str, Any]]) -> None:
    result = run_repro("smoke", "--seed", "9", "--json", "--workspace", done[0])
    assert result.code == 0
    report = json.loads(result.out)
    assert {s["verdict"] for s in report["scores"]} == {"NOT JUDGED"}
    assert report["features"]["repeat"]


@pytest.mark.slow
def test_two_jobs_in_one_workspace_do_not_mix(done: tuple[Path, dict[str, Any]]) -> None:
    from repro.core.workspace import Workspace

    with Workspace(done[0]).lock("smoke"):
        result = run_repro("smoke", "--workspace", done[0])
    assert result.code == 2
    assert str(os.getpid()) in result.err
    assert result.err.count("\n") == 1


def test_golden_values_cover_every_clip() -> None:
    expected = golden.load_golden()
    names = {s.id for s in scenes.smoke_scenes()}
    assert set(expected.clips) == names
    assert set(golden.load_golden_features()) == names
