"""The figures that benchmarks/README.md and the issues promise are counted, not timed, and so can be held in a test."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from repro.backbones.config import load_backbone
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.model import needs


def benchmark(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "most"),
    [("one timestep", 167), ("seven timesteps", 330), ("one timestep, svd_xt and sdv2", 195)],
)
def test_counted_work_at_the_published_size(job: str, most: float) -> None:
    extraction = benchmark(ROOT / "benchmarks" / "extraction.py")
    config = load_backbone("svd_xt")
    assert isinstance(config, SvdConfig)
    requests = extraction.JOBS[job]
    networks = extraction.DiffusersNetworks(config.architecture, needs(config, requests.values()))
    networks.to("meta")
    assert extraction.counted(lambda: extraction.ours(config, networks, requests, "meta")) <= most
