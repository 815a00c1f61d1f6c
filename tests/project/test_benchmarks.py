"""The figures that benchmarks/README.md and the issues promise are counted, not timed, and so can be held in a test."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from builders.commands import ROOT

from repro.backbones.registry import load_backbone
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.model import find_needs
from repro.backbones.vit.encoder import iterate_layers
from repro.video.readers import open_clip, read_frames
from repro.video.sampling import Sampling


def benchmark(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tiny(sections: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run sections of benchmarks/gpu.py at small sizes; returns what they measured."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu, threads = benchmark(ROOT / "benchmarks" / "gpu.py"), torch.get_num_threads()
    try:
        words = ["--tiny", "--device", "cpu", "--json", str(folder / "rows.json"), "--sections", ",".join(sections)]
        assert gpu.main(words) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert isinstance(rows, list)
    assert [row["section"] for row in rows if row["name"] == "section done"] == sections
    return rows


# Otherwise a change of what benchmarks/gpu.py measures would be noticed only while a GPU is there for minutes.


@pytest.mark.slow
def test_what_a_gpu_measures_runs_at_small_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_tiny(["ceilings", "transformers", "noise", "readouts"], tmp_path, monkeypatch)
    assert [row for row in rows if "failed" in row] == []
    found = {row["name"]: row for row in rows}
    assert 0 < found["vjepa_tiny fp16, compiled, batch 2"]["deviation"] < 2e-3
    assert found["width 64, fp32, 2 cells together: an epoch of 2 steps"]["steps_per_s"] > 0


@pytest.mark.slow
def test_what_a_gpu_measures_of_svd_runs_at_small_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_tiny(["svd", "extraction"], tmp_path, monkeypatch)
    assert [row for row in rows if "failed" in row] == []
    found = {row["name"]: row for row in rows}
    assert 0 < found["fast, compiled: window"]["deviation"] < 0.02
    # Clips of 40 and 12 frames, every 4th, 3 a window.
    assert found["SVD-XT fast, compiled, 2 clips"]["windows"] == 5


@pytest.mark.parametrize(("name", "teraflop"), [("vjepa", 2.38), ("videomaev2", 5.09)])
def test_counted_work_of_a_video_transformer(name: str, teraflop: float) -> None:
    extraction = benchmark(ROOT / "benchmarks" / "extraction.py")
    config, encoder = extraction.build_vit(name, "meta")
    seen = torch.empty(1, 3, 16, config.picture.size, config.picture.size, device="meta")
    assert extraction.count_teraflops(
        lambda: list(iterate_layers(encoder, seen, encoder.sizes.depth))
    ) == pytest.approx(teraflop, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "most"),
    [("one timestep", 167), ("seven timesteps", 330), ("one timestep, svd_xt and sdv2", 195)],
)
def test_counted_work_at_the_published_size(job: str, most: float) -> None:
    extraction = benchmark(ROOT / "benchmarks" / "extraction.py")
    config = load_backbone("svd_xt", {"precision": "fp32"})  # autocast knows no meta device; the work is the same
    assert isinstance(config, SvdConfig)
    requests = extraction.JOBS[job]
    networks = extraction.DiffusersNetworks(config.architecture, find_needs(config, requests.values()))
    networks.to("meta")
    assert extraction.count_teraflops(lambda: extraction.compute_ours(config, networks, requests, "meta")) <= most


def test_the_big_store_is_measured(tmp_path: Path) -> None:
    """Every step of the benchmark, on a store of 20 clips."""
    big = benchmark(ROOT / "benchmarks" / "big_store.py")
    big.ADDED = 2
    options = big.parse_options(["--folder", str(tmp_path), "--clips", "20", "--width", "16", "--steps", "1"])
    figures = {name: big.run_step(name, options) for name in big.STEPS}
    assert figures["load, warm"]["open, find and load, s"] > 0
    assert 0 < figures["epoch"]["batches of an epoch, s"] < figures["epoch"]["epoch (extrapolated), s"]
    assert figures["pack"]["peak private, GB"] > 0
    store = big.open_store(tmp_path)
    assert {clip.id for split in big.make_splits(20).values() for clip in split.clips} <= store.stored_clips(big.CELL)
    assert len(store.stored_clips(big.CELL)) == 20 + big.ADDED


def test_the_soaks_clips_are_different_files_that_decode(tmp_path: Path) -> None:
    soak = benchmark(ROOT / "benchmarks" / "soak.py")
    (tmp_path / "videos").mkdir()
    soak.write_videos(tmp_path / "videos", 25)
    paths = sorted((tmp_path / "videos").rglob("*.mp4"))
    assert len({path.read_bytes() for path in paths}) == len(paths) == 25
    sampling = Sampling(stride=4, max_seconds=180.0, chunk=25)
    for path in (paths[0], paths[-1]):
        frames = list(read_frames(open_clip(path, sampling), sampling))
        assert sum(map(len, frames)) == soak.FRAMES // 4
    # Two runs' clips a second; what was stored before the second look is start-up.
    run = soak.Run()
    run.stored = [(n, soak.Usage(cpu, 1, 1)) for n, cpu in ((0, 3.0), (100, 4.0), (200, 5.0), (400, 6.0), (400, 9.0))]
    assert run.clips_per_cpu_second() == pytest.approx(100)
