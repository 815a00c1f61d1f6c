"""How closely a test split pins a score: intervals that hold, and a bootstrap that scikit-learn agrees with."""

import json
from typing import Any

import numpy as np
import pytest
from builders.commands import run_repro
from builders.records import record, write_with_evidence
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from repro.core.hashing import content_sha256
from repro.core.workspace import Workspace
from repro.judge.claims.resampling import index_groups, resample_score
from repro.judge.scores import intervals
from repro.judge.scores.intervals import interval_over_clips, wilson_interval
from repro.readout.predictions import Predictions
from repro.table.rows import load_row

RNG = np.random.default_rng(3)


def predictions(targets: np.ndarray, groups: tuple[str | None, ...] | None = None) -> Predictions:
    return Predictions(
        tuple(f"clip{n}" for n in range(len(targets))), tuple(map(str, range(targets.shape[1]))), targets, {}, groups
    )


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 12), (3, 12), (621, 1200), (1200, 1200)])
def test_wilson(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right / count, count) == pytest.approx((100 * expected.low, 100 * expected.high))


@pytest.mark.parametrize("ties", [False, True])
def test_a_sample_of_videos_is_scored_as_scikit_learn_scores_weighted_clips(ties: bool) -> None:
    targets = (RNG.random((30, 4)) < 0.3).astype(np.int64)
    scores = np.round(RNG.random((30, 4)), 1 if ties else 9)
    groups = index_groups([f"clip{n}" for n in range(30)], [f"video {n // 3}" if n < 20 else None for n in range(30)])
    weights = RNG.multinomial(17, np.full(17, 1 / 17), size=20).T.astype(np.float32)
    assert groups.max() == 16
    found = resample_score("map_micro", scores, targets, groups, weights)
    accuracy = resample_score("top1", scores, targets, groups, weights)
    right = targets[np.arange(30), scores.argmax(axis=1)]
    for r in range(20):
        of_clip = weights[groups, r]
        expected = average_precision_score(targets.ravel(), scores.ravel(), sample_weight=np.repeat(of_clip, 4))
        assert found[r] == pytest.approx(100 * expected)
        assert accuracy[r] == pytest.approx(100 * np.average(right, weights=of_clip))


def test_clips_of_one_video_are_not_independent() -> None:
    # Ten videos of ten equal clips each: the interval is as wide as that of ten clips.
    targets = np.eye(2, dtype=np.int64)[np.zeros(100, int)]
    scores = np.eye(2)[np.repeat([0, 1], 50)]
    alone = interval_over_clips("top1", [scores], predictions(targets))
    together = interval_over_clips("top1", [scores], predictions(targets, tuple(f"v{n // 10}" for n in range(100))))
    assert alone is not None
    assert together is not None
    assert str(alone) == "40.4 to 59.6 (95 %, Wilson, 100 clips)"
    assert together.high - together.low == pytest.approx(60, abs=11)
    assert "10 source videos" in str(together)
    assert interval_over_clips("top1", [scores, scores], predictions(targets)) == alone


def test_without_videos_to_draw_there_is_no_interval() -> None:
    targets = np.eye(2, dtype=np.int64)
    assert interval_over_clips("top1", [np.eye(2)], predictions(targets, ("one", "one"))) is None
    assert interval_over_clips("map_micro", [np.eye(2)], predictions(np.zeros_like(targets))) is None
    empty = predictions(np.zeros((0, 2), np.int64))
    assert interval_over_clips("map_micro", [np.zeros((0, 2))], empty) is None


def test_check_prints_them_after_the_verdicts(workspace: Workspace) -> None:
    for seed, score in zip(load_row("ucf_hmdb_sdv2").seeds.first(2), (0.765, 0.77), strict=True):
        write_with_evidence(workspace.runs, record("ucf_hmdb_sdv2", seed, score))
    done = run_repro("check", "--workspace", workspace.root)
    low, high = wilson_interval(918 / 1200, 1200)
    line = f"ucf_hmdb_sdv2            {low:.1f} to {high:.1f} (95 %, Wilson, 1200 clips)\n"
    assert f"what other test clips would give, which no verdict uses:\n{line}" in done.out
    report = json.loads(run_repro("check", "--json", "--workspace", workspace.root).out)
    found = report["intervals_over_test_clips"]
    assert found == {"ucf_hmdb_sdv2": {"low": low, "high": high, "method": "Wilson, 1200 clips"}}
    assert str(round(low, 1)) not in json.dumps(report["verdicts"])


def test_kept_intervals_are_used_and_not_taken_on_trust(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in ("ucf_hmdb_sdv2", "ucf_hmdb_vjepa"):
        write_with_evidence(workspace.runs, record(row, load_row(row).seeds.published, 0.765))
    computed = []
    real = interval_over_clips
    monkeypatch.setattr(intervals, "interval_over_clips", lambda *of: computed.append(of) or real(*of))

    def check() -> tuple[dict[str, Any], str]:
        computed.clear()
        done = run_repro("check", "--json", "--workspace", workspace.root)
        return json.loads(done.out)["intervals_over_test_clips"], done.err

    first, err = check()
    assert (len(first), len(computed), err) == (2, 2, "")
    # One of them is computed again, whichever.
    assert check() == (first, "")
    assert len(computed) == 1
    lines = [json.loads(line) for line in workspace.rescored.read_text().splitlines()]
    with workspace.rescored.open("w") as file:
        for line in lines:
            if "method" in line["found"]:
                line["found"]["low"] += 1.0
            del line["sha256"]
            file.write(json.dumps(line | {"sha256": content_sha256(line)}) + "\n")
    forged, err = check()
    assert forged == first
    assert "not what its predictions give" in err
    assert check() == (first, "")
