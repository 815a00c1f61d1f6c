"""The figures that benchmarks/README.md and the issues promise are counted, not timed, and so can be held in a test."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from builders.commands import ROOT

from repro.backbones.registry import load_backbone
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.model import find_needs
from repro.backbones.vit.encoder import iterate_layers


def benchmark(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
