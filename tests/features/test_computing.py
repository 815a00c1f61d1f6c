"""Batches launched ahead, and of several clips, give the features of windows computed one by one."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from builders.reporters import RecordingReporter

from repro.backbones.config import Cell, FrameSampling
from repro.backbones.extractor import Backbone, Execution, Extractor, Noise, Stream, WindowFeatures
from repro.backbones.registry import describe_backbone, load_backbone, open_extractors
from repro.backbones.vit.extractor import VitExtractor
from repro.core.errors import MissingError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features import extract as extracting
from repro.features.collection import Collection
from repro.features.extract import FeatureRequest, extract_missing
from repro.features.gathering import Extraction
from repro.features.store import FeatureStore
from repro.video import decoders
from repro.video.decoders import Job, decode_clip
from repro.video.sampling import Sampling

FINAL = (Cell(layer="final"),)


class Colour:
    """Mean colour of each frame, of windows of three frames; says nothing before it is asked."""

    backbones = ("mean_colour",)
    frames = FrameSampling(stride=4, window=3)
    noise_seed, batch = 0, "windows by 4"

    def __init__(self, at_once: int = 1) -> None:
        self.at_once = at_once

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def compute(self, window: np.ndarray) -> WindowFeatures:
        return {"mean_colour": {"final": window.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)}}

    def features(self, windows: Sequence[np.ndarray], noises: Sequence[Noise]) -> WindowFeatures:
        (window,) = windows
        return self.compute(window)


class Launching(Colour):
    """The same on a device that is not waited for: windows of several clips at once."""

    mixes_clips = True

    def __init__(self, at_once: int, fail_at: int | None = None) -> None:
        super().__init__(at_once)
        self.log: list[str] = []
        self.sizes: list[int] = []
        self.fail_at = fail_at

    def launch(self, windows: Sequence[np.ndarray], noises: Sequence[Noise]) -> Callable[[], list[WindowFeatures]]:
        number = len(self.sizes)
        if number == self.fail_at:
            raise MissingError("out of memory")
        self.sizes.append(len(windows))
        self.log.append(f"launch {number}")
        # As a device reads its own copy: frames that the caller changes meanwhile do not matter.
        copies = [window.copy() for window in windows]

        def finish() -> list[WindowFeatures]:
            self.log.append(f"read {number}")
            return [self.compute(window) for window in copies]

        return finish


@pytest.fixture
def clips(rendered: dict[str, Path]) -> list[Clip]:
    return [Clip(name, path, (0,)) for name, path in rendered.items()]


def extract(
    clips: Sequence[Clip],
    extractor: Extractor,
    folder: Path,
    reporter: RecordingReporter,
    monkeypatch: pytest.MonkeyPatch,
    execution: Execution,
) -> tuple[Extraction, FeatureStore]:
    monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution: [extractor])
    monkeypatch.setattr(extracting, "explain_precision", lambda precision, device: "")
    store = FeatureStore.open(Workspace(folder), "test", {"a": 1}, "clips", "float32")
    request = FeatureRequest(Backbone(load_backbone("mean_colour"), None, None, None), FINAL, store)
    collection = Collection("clips", tuple(clips))
    return extract_missing(collection, [request], execution, {"by": "test"}, reporter), store


def read(store: FeatureStore, clip: Clip) -> np.ndarray:
    entry = store.read_clip(clip.id)
    assert entry is not None
    return entry.features["final"]


def test_the_next_batch_is_launched_before_the_last_is_read_and_clips_stay_apart(
    clips: list[Clip], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Clip("bad", tmp_path / "bad.mp4", (0,))
    bad.path.write_bytes(clips[2].path.read_bytes()[: clips[2].path.stat().st_size // 2])
    launching, some = Launching(4), [*clips[:2], bad, *clips[2:]]
    done, store = extract(some, launching, tmp_path / "a", reporter, monkeypatch, Execution("cuda"))
    plain, other = extract(clips, Colour(), tmp_path / "b", reporter, monkeypatch, Execution())
    assert list(done.failed) == ["bad"]
    assert str(bad.path) in done.failed["bad"]
    assert done.extracted == plain.extracted == [clip.id for clip in clips]
    for clip in clips:
        np.testing.assert_array_equal(read(store, clip), read(other, clip))
    # Batches are full but for the last, and no window of a clip that decodes is lost or computed twice.
    assert set(launching.sizes[:-1]) == {4}
    assert plain.windows <= sum(launching.sizes) == done.windows
    assert launching.log[:4] == ["launch 0", "launch 1", "read 0", "launch 2"]
    assert launching.log[-1] == f"read {len(launching.sizes) - 1}"


@pytest.mark.parametrize(
    ("asked", "device", "from_clips", "compiled"),
    [
        (None, "cuda", 1, True),
        (None, "cuda", 100, False),
        (None, "cpu", 1, False),
        (True, "cuda", 100, True),
        (False, "cuda", 1, False),
    ],
)
def test_networks_are_compiled_for_many_clips_on_a_gpu(
    clips: list[Clip], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch,
    asked: bool | None, device: str, from_clips: int, compiled: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(extracting, "FROM_CLIPS", from_clips)
    found: list[bool | None] = []

    def open_one(requests: object, execution: Execution) -> list[Extractor]:
        found.append(execution.compile)
        return [Launching(4)]

    monkeypatch.setattr(extracting, "open_extractors", open_one)
    monkeypatch.setattr(extracting, "explain_precision", lambda precision, device: "")
    store = FeatureStore.open(Workspace(tmp_path), "test", {"a": 1}, "clips", "float32")
    request = FeatureRequest(Backbone(load_backbone("mean_colour"), None, None, None), FINAL, store)
    execution = Execution(device, compile=asked)
    extract_missing(Collection("clips", tuple(clips[:1])), [request], execution, {"by": "test"}, reporter)
    assert found == [compiled]
    # Asked for in a precision that is never compiled: said, not silently ignored.
    assert any("mean_colour: not compiled" in line for line in reporter.lines) == (asked is True)


def test_an_error_keeps_the_clips_before_it(
    clips: list[Clip], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = [-(-clip_frames(clip) // 3) for clip in clips]
    failing = Launching(1, fail_at=counted[0] + counted[1] + 1)
    with pytest.raises(MissingError, match="out of memory"):
        extract(clips, failing, tmp_path, reporter, monkeypatch, Execution("cuda"))
    store = FeatureStore.open(Workspace(tmp_path), "test", {"a": 1}, "clips", "float32")
    # The second clip's last batch had been launched and not been read when the third clip's second window failed.
    assert [store.read_clip(clip.id) is not None for clip in clips[:3]] == [True, True, False]


def clip_frames(clip: Clip) -> int:
    chunks: list[np.ndarray] = []
    decode_clip(Job(clip.path, Sampling(4, 180.0, 3, "pyav", False)), lambda frames: chunks.append(frames))  # type: ignore[arg-type]
    return sum(len(chunk) for chunk in chunks if chunk is not None)


def test_windows_of_several_clips_in_one_batch_change_features_by_rounding_alone(
    rendered: dict[str, Path], workspace: Workspace, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [Clip(name, path, (0,)) for name, path in rendered.items()][:3]
    config = load_backbone("vjepa_tiny", {"frames.stride": "1"})
    backbone = describe_backbone(config, workspace)
    found = []
    for mixes in (False, True):
        (extractor,) = open_extractors([(backbone, FINAL)], Execution(batch=1 + 7 * mixes))
        assert isinstance(extractor, VitExtractor)
        assert not extractor.mixes_clips  # on a CPU
        extractor.mixes_clips = mixes
        monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution, one=extractor: [one])
        store = FeatureStore.open(workspace, "vjepa_tiny", {"mixes": mixes}, "clips", "float32")
        done = extract_missing(
            Collection("clips", tuple(clips)), [FeatureRequest(backbone, FINAL, store)], Execution(), {}, reporter
        )
        assert not done.failed
        found.append([read(store, clip) for clip in clips])
    for alone, together in zip(*found, strict=True):
        assert alone.shape == together.shape
        assert np.linalg.norm(alone - together) < 1e-5 * np.linalg.norm(alone)


def test_a_profile_is_of_the_first_batches_and_changes_no_feature(
    clips: list[Clip], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trace.json"
    execution = Execution(profile=file)
    _, store = extract(clips, Colour(), tmp_path / "a", reporter, monkeypatch, execution)
    _, other = extract(clips, Colour(), tmp_path / "b", reporter, monkeypatch, Execution())
    for clip in clips:
        np.testing.assert_array_equal(read(store, clip), read(other, clip))
    assert "traceEvents" in json.loads(file.read_text())
    # Another extraction of the same command leaves the file as it is.
    before = file.read_bytes()
    extract(clips, Colour(), tmp_path / "c", reporter, monkeypatch, execution)
    assert file.read_bytes() == before


def test_waiting_is_counted(
    clips: list[Clip], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, _ = extract(clips, Colour(), tmp_path, reporter, monkeypatch, Execution())
    assert done.waits.decoder > 0
    assert done.waits.device > 0
    assert done.waits.decoder + done.waits.device <= done.seconds
    assert done.windows_by == {("mean_colour",): done.windows}


def test_a_clip_is_decoded_ahead_of_what_is_taken(clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody reads blocks `send`: the frames after it are decoded all the same, up to a bound."""
    import threading

    decoded: list[int] = []
    third = threading.Event()

    def count(index: object, sampling: Sampling) -> object:
        for number in range(9):
            decoded.append(number)
            if number == 3:
                third.set()
            yield np.zeros((1, 10, 10, 3), np.uint8)

    sent: list[object] = []

    def send(frames: object) -> None:
        if frames is not None:
            assert third.wait(10)
            # 300 bytes a chunk: three are held, and the fourth waits until one is sent.
            assert len(decoded) <= len(sent) + 4
            sent.append(frames)

    monkeypatch.setattr(decoders, "read_frames", count)
    monkeypatch.setattr(decoders, "BYTES_AHEAD", 900)
    outcome = decode_clip(Job(clips[0].path, Sampling(4, 180.0, 3, "pyav", False)), send)
    assert (outcome.error, len(sent)) == ("", 9)
