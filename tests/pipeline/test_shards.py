"""Eight parts of a data set, each computed by itself and packed in one step, give the features of one process to the bit."""

import json
import re
from pathlib import Path

import pytest
from builders.commands import run_repro
from builders.results import describe_results
from builders.tiny_datasets import film

from repro.core.workspace import Workspace

CLIPS, PARTS = 10, 8


@pytest.mark.slow
def test_8_shards_give_the_features_of_one(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for number in range(CLIPS):
        film(videos / f"{number}.mp4", number)
    words = ["extract", videos, "--backbone", "mean_colour", "--workers", "1", "--json"]

    def extract(workspace: Workspace, *options: str) -> tuple[int, int]:
        done = run_repro(*words, *options, "--device", "cpu", "--workspace", workspace.root)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        return found["extracted"], found["reused"]

    alone, parts = Workspace(tmp_path / "alone"), Workspace(tmp_path / "parts")
    assert extract(alone) == (CLIPS, 0)
    # Last parts first: none waits for another.
    counts = [extract(parts, "--shard", f"{part}/{PARTS}") for part in range(PARTS, 0, -1)]
    assert sorted(extracted for extracted, _ in counts) == [1] * 6 + [2] * 2
    assert describe_results(parts) == {}
    assert extract(parts) == (0, CLIPS)
    results = describe_results(alone)
    assert len(results) == 1
    assert describe_results(parts) == results


@pytest.mark.parametrize("shard", ["9/8", "0/8", "8", "1/0", "-1/8"])
def test_a_shard_beyond_the_count_is_refused(shard: str, tmp_path: Path) -> None:
    done = run_repro("extract", tmp_path, "--backbone", "mean_colour", f"--shard={shard}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert re.search(rf"--shard {re.escape(shard)}.*(1/4|1 to)", done.err), done.err
