"""`repro extract` from the command line, on the backbone that needs no weights."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from builders.commands import run_repro, schemas

from repro.backbones.registry import describe_backbone, load_backbone
from repro.backbones.svd.config import SvdConfig
from repro.cli.app import dispatch
from repro.cli.options import parse_numbers, parse_shards
from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.manifest import ClipFacts, Manifest, manifest_path, write_manifest
from repro.features.collection import folder_collection
from repro.pipeline.extract import measure_clips
from repro.video.decoders import Decoders, Decoding, Job


@pytest.fixture
def folder(rendered: dict[str, Path], tmp_path: Path) -> Path:
    """Four videos, one of them in a subfolder."""
    place = tmp_path / "my videos"
    for n, path in enumerate(rendered.values()):
        target = place / ("more" if n == 3 else "") / f"clip #{n}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return place


def extract(folder: Path, *options: str, workspace: Path | None = None) -> dict[str, object]:
    place = workspace or folder.parent / "w"
    words = ["extract", folder, "--backbone", "mean_colour", "--workspace", place, "--json", *options]
    done = run_repro(*words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_shards_fill_one_store_that_one_step_packs(folder: Path) -> None:
    first = extract(folder, "--shard", "1/2")
    (store,) = first["stores"].values()  # type: ignore[attr-defined]
    second = run_repro(
        "extract", folder, "--backbone", "mean_colour", "--workspace", folder.parent / "w", "--shard", "slurm",
        env=array_task(2, 1, 2, 2),
    )  # fmt: skip
    assert second.code == 0, second.err
    assert second.out.endswith("the same command without --shard packs their features\n")
    assert len(list(Path(store).glob("clips/*"))) == 4
    assert not (Path(store) / "packed").exists()
    again = extract(folder)
    assert (again["extracted"], again["reused"], again["windows"]) == (0, 4, 0)
    assert list(Path(store).glob("clips/*")) == []
    # One process, and two that one command starts, compute the same.
    alone = extract(folder, workspace=folder.parent / "alone")
    several = extract(folder, "--devices", "cpu,cpu", workspace=folder.parent / "several")
    assert [(one["clips"], one["extracted"]) for one in (alone, several)] == [(4, 4), (4, 4)]
    packed = [path for path in folder.parent.rglob("packed/final-*") if path.suffix == ".npy"]
    assert len(packed) == 3
    assert len({path.read_bytes() for path in packed}) == 1


def array_task(number: int, first: int, last: int, count: int) -> dict[str, str]:
    """Variables of a task of a SLURM job array."""
    values = {"ID": number, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_clips_are_as_long_as_their_windows_or_their_files(folder: Path, workspace: Workspace) -> None:
    complete = folder_collection(folder)
    by_bytes = measure_clips(complete, (), workspace)
    assert by_bytes == {clip.id: 1 + clip.path.stat().st_size for clip in complete.clips}
    facts = [
        ClipFacts(clip.id, clip.id, (), True, 1, 100 * number, 25.0, 8, 8, 4.0, "pyav", "", "0")
        for number, clip in enumerate(complete.clips)
    ]
    write_manifest(manifest_path(workspace, complete.name), Manifest(complete.name, "", tuple(facts)))
    config = load_backbone("mean_colour", {"frames.window": "5"})
    # 0, 25, 50 and 75 sampled frames.
    assert [*measure_clips(complete, [config, config], workspace).values()] == [1, 11, 21, 31]


@pytest.mark.slow
def test_a_failed_clip_is_listed_and_retried(folder: Path) -> None:
    good = (folder / "clip #0.mp4").read_bytes()
    (folder / "clip #0.mp4").write_bytes(good[:1000])
    done = run_repro("extract", folder, "--backbone", "mean_colour", "--workspace", folder.parent / "w")
    assert done.code == 4
    assert "1 of 4 clips failed and are named in " in done.err.splitlines()[-1]
    assert "3 extracted" in done.out
    assert "disk        about" in done.out
    listed = next((folder.parent / "w" / "features").rglob("failed.json"))
    assert list(json.loads(listed.read_text())) == ["clip #0.mp4"]
    (folder / "clip #0.mp4").write_bytes(good)
    found = extract(folder)
    assert (found["extracted"], found["reused"], found["failed"]) == (1, 3, {})
    assert not listed.exists()


def test_a_video_is_a_part_of_its_folder(folder: Path) -> None:
    first = extract(folder / "clip #0.mp4", workspace=folder.parent / "w")
    assert (first["clips"], first["extracted"]) == (1, 1)
    # Computed once, whichever is extracted first.
    assert extract(folder)["reused"] == 1
    assert extract(folder / "clip #0.mp4", workspace=folder.parent / "w")["reused"] == 1
    (folder / "notes.txt").write_text("no video")
    done = run_repro("extract", folder / "notes.txt", "--backbone", "mean_colour", "--workspace", folder.parent / "w")
    assert done.code == 4
    assert "notes.txt: not a video" in done.err


@pytest.mark.slow
def test_a_source_that_is_no_folder_is_refused(folder: Path) -> None:
    for words, message in (
        ([""], "'' is neither a data set"),
        ([folder, "--grid", "--layers", "3"], "--grid is 7 timesteps by 13 layers"),
    ):
        done = run_repro("extract", *words, "--workspace", folder.parent / "w")
        assert done.code == 2
        assert message in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone", "mean_colour,colour"], "unknown backbone 'colour'; did you mean 'mean_colour'? (available: "),
        (["--backbone", "mean_colour,vjepa_tiny,mean_colour"], "duplicate backbone 'mean_colour'"),
        (["elsewhere", "--backbone", "mean_colour"], "'elsewhere' is neither a data set"),
        (
            ["--backbone", "mean_colour,vjepa_tiny", "--precision", "fast", "--precision", "bf16"],
            "--precision fast or bf16: mean_colour has fp32",
        ),
    ],
)
def test_what_is_wrong_with_one_of_several_is_refused_before_any_is_computed(
    folder: Path, workspace: Workspace, words: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        dispatch(["extract", str(folder), *words, "--workspace", str(workspace.root)])
    assert not workspace.features.exists()


def test_several_sources_and_backbones_decode_each_clip_once(
    folder: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decoded: list[Path] = []

    def decode(self: Decoders, jobs: Sequence[Job]) -> Iterator[Decoding]:
        decoded.extend(job.path for job in jobs)
        return original(self, jobs)

    original = Decoders.decode
    monkeypatch.setattr(Decoders, "decode", decode)
    words = ["extract", str(folder), str(folder / "more"), str(folder), "--backbone", "mean_colour,vjepa_tiny"]
    assert dispatch([*words, "--json", "--workers", "1", "--workspace", str(workspace.root)]) == 0
    whole, more = found = json.loads(capsys.readouterr().out)
    schemas().check_output("extract", found)
    assert (whole["clips"], whole["extracted"], more["clips"]) == (4, 4, 1)
    assert set(whole["stores"]) == {"mean_colour", "vjepa_tiny"}
    assert len(decoded) == 4 + 1


def test_a_checkpoint_with_another_sha256_is_refused(tiny: SvdConfig, tiny_checkpoint: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    checkpoint = tiny.checkpoint.model_copy(update={"drawn_from_seed": None, "sha256": "0" * 64})
    config = tiny.model_copy(update={"checkpoint": checkpoint})
    workspace.checkpoints.mkdir()
    shutil.copy(tiny_checkpoint, workspace.checkpoints / checkpoint.file)
    with pytest.raises(MissingError, match=rf"sha256 is [0-9a-f]{{64}}, expected {'0' * 64}: it is damaged or another"):
        describe_backbone(config, workspace)
    (workspace.checkpoints / checkpoint.file).unlink()
    assert describe_backbone(config, workspace, to_compute=False).checkpoint_sha256 == "0" * 64
    with pytest.raises(MissingError, match="not at"):
        describe_backbone(config, workspace)


def test_numbers_and_shards_are_parsed() -> None:
    assert parse_numbers("--layers", "9") == (9,)
    assert parse_numbers("--layers", "3,1-2,2") == (1, 2, 3)
    assert parse_numbers("--layers", None) is None
    assert parse_shards("2/3,1/2") == ((2, 3), (1, 2))
    assert parse_shards(None) == ()
    for text in ("", "a", "1-", "3-1", "-1", "1-99999999"):
        with pytest.raises(UsageError):
            parse_numbers("--layers", text)
    for text in ("0/3", "4/3", "1", "a/b", "1/2,", "slurm", "slurm/2"):
        with pytest.raises(UsageError):
            parse_shards(text)


@pytest.mark.parametrize(
    ("task", "text", "found"),
    [
        ((3, 1, 8, 8), "slurm", (3, 8)),
        ((3, 3, 5, 2), "slurm/8", (3, 8)),
        # Tasks 3 and 5 of an array of 8, submitted again; an array that counts from 0; a task beyond the count.
        ((3, 3, 5, 2), "slurm", "the job array is 3 to 5, 2 tasks, and not 1 to n"),
        ((0, 0, 7, 8), "slurm", "the job array is 0 to 7"),
        ((9, 1, 9, 9), "slurm/8", "task 9 of the job array is no part of 8: expected --array=1-8"),
        ((0, 0, 7, 8), "slurm/8", "task 0 of the job array"),
        ((1, 1, 2, 2), "slurm/x", "expected --array=1-x"),
    ],
)
def test_the_task_of_a_slurm_array_is_a_shard(
    task: tuple[int, int, int, int], text: str, found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in array_task(*task).items():
        monkeypatch.setenv(name, value)
    if isinstance(found, tuple):
        assert parse_shards(text) == (found,)
    else:
        with pytest.raises(UsageError, match=str(found)):
            parse_shards(text)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "many")
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_COUNT=many: expected numbers"):
        parse_shards(text)
