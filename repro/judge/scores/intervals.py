"""How closely a test split pins a score: the interval that another draw of its clips would give.

It is shown with a verdict and never enters one: a measured and a published score share the clips, so that what the clips
happen to be cancels in their difference. All values are in points.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.judge.claims import resampling
from repro.judge.claims.resampling import index_groups, resample_score, sample_groups
from repro.judge.kept import Computation, Memory, hash_code
from repro.judge.rescoring import read_run_predictions, stamp_run
from repro.judge.verdict import Verdict
from repro.readout import metrics
from repro.readout import predictions as predictions_module
from repro.readout.metrics import Scores, top1
from repro.readout.predictions import Predictions
from repro.readout.recipe import Metric
from repro.records.record import RunRecord, stored_run

INTERVAL_RESAMPLES = 250
"""Enough for ends that are right to a tenth of the interval's half-width; five runs of Animal Kingdom take a second."""
Z = 1.959963984540054
"""The 97.5 % point of the normal distribution, for intervals of 95 %."""


@dataclass(frozen=True, slots=True)
class SplitInterval:
    """95 % interval of a score over the draw of the test clips, in points."""

    low: float
    high: float
    method: str

    def __str__(self) -> str:
        return f"{self.low:.1f} to {self.high:.1f} (95 %, {self.method})"


def interval_over_clips(metric: Metric, runs: Sequence[Scores], predictions: Predictions) -> SplitInterval | None:
    """Return the interval of the mean score of runs over the draw of the test clips.

    Accuracy of clips whose source videos are not known: Wilson's interval. Otherwise the percentiles of a bootstrap over source
    videos, the same videos for all runs and classes.

    Args:
        metric: top1 or map_micro.
        runs: Scores `[N, K]` of each run.
        predictions: Targets and source videos of the clips.

    Returns:
        The interval, or None if there are fewer than two source videos, or no clip has a label.
    """
    targets = predictions.targets
    groups = index_groups(predictions.clips, predictions.groups)
    videos = int(groups.max(initial=-1)) + 1
    if videos < 2 or not targets.any():
        return None
    # Every clip is its own video: right or wrong, independently of the others.
    if metric == "top1" and videos == len(targets):
        low, high = wilson_interval(float(np.mean([top1(scores, targets) for scores in runs])), videos)
        return SplitInterval(low, high, f"Wilson, {videos} clips")
    weights = sample_groups(videos, INTERVAL_RESAMPLES)
    # The mean over runs on each sample, not of each run's interval: all runs see the same clips.
    values = np.mean([resample_score(metric, scores, targets, groups, weights) for scores in runs], axis=0)
    low, high = np.percentile(values, (2.5, 97.5))
    return SplitInterval(
        float(low), float(high), f"bootstrap over {videos} {'source videos' if videos < len(targets) else 'clips'}"
    )


def find_intervals(
    verdicts: Iterable[Verdict], runs: Path, kept: Path | None = None, warn: Callable[[str], None] = lambda line: None
) -> dict[str, SplitInterval]:
    """Return for each judged row the interval of its first judged seed's score, under the published rule (best epoch on test).

    One seed says it: the clips are the same for all. Rows whose predictions of that epoch are not kept are left out.

    Args:
        verdicts: Of the rows; runs whose predictions agree with their records.
        runs: The folder of the runs.
        kept: Where intervals are kept between checks (kept.py); None keeps and reads none.
        warn: Called with a message if an interval that was kept is wrong.

    Raises:
        MissingError: predictions were removed or damaged after the verdict.
    """
    # By what an interval depends on.
    records = {_key_of(verdict.runs[0]): verdict.runs[0] for verdict in verdicts if verdict.runs}

    def compute(record: RunRecord) -> SplitInterval | None:
        predictions = read_run_predictions(stored_run(runs, record.row, record.seed, record.run))
        scores = predictions.by_epoch.get(record.best_epoch_on_test.epoch)
        return None if scores is None else interval_over_clips(record.metric, [scores], predictions)

    computation = Computation(
        code=hash_code(metrics.__file__, predictions_module.__file__, resampling.__file__, __file__),
        compute=compute,
        verify=lambda record, known: agree_intervals(compute(record), known),
        dump=dump_interval,
        parse=parse_interval,
        stamp=lambda record: stamp_run(stored_run(runs, record.row, record.seed, record.run)),
    )
    found = Memory(computation, kept, warn).recall(records)
    return {record.row: interval for key, record in records.items() if (interval := found[key]) is not None}


def _key_of(record: RunRecord) -> str:
    return f"{record.predictions_sha256} {record.metric} after epoch {record.best_epoch_on_test.epoch}"


def dump_interval(interval: SplitInterval | None) -> dict[str, Any]:
    """Return the fields of an interval; none of no interval."""
    return {} if interval is None else asdict(interval)


def parse_interval(values: Mapping[str, Any]) -> SplitInterval | None:
    """Return what `dump_interval` was given."""
    return SplitInterval(**values) if values else None


def agree_intervals(ours: SplitInterval | None, kept: SplitInterval | None) -> bool:
    """Whether two intervals are the same up to what processors round in other ways."""
    if ours is None or kept is None:
        return ours is kept
    ends = ((ours.low, kept.low), (ours.high, kept.high))
    return ours.method == kept.method and all(abs(mine - theirs) <= 1e-6 for mine, theirs in ends)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count` clips, in points (Wilson 1927), also for a mean over runs of the same clips.

    It holds for few clips and for shares near 0 and 1 (Brown, Cai and DasGupta 2001).
    """
    # The shares p that a score test does not refuse: |share - p| <= Z sqrt(p (1 - p) / count), solved for p.
    below = 1 + Z**2 / count
    centre = (share + Z**2 / (2 * count)) / below
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / below
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
