"""Write the table of false verdicts on claims in expected/README.md: `python scripts/make_claim_rates.py`. Takes two minutes.

Four equal rows in each of six settings are compared as `repro check --claims` compares ActionDiff with its three baselines. Any HOLDS
or REVERSED is false. A test checks some of its lines.
"""

from pathlib import Path

import numpy as np

from repro.judge.claims.comparison import (
    LEVEL,
    Source,
    adjust_holm,
    claim_p_value,
    combine_sources,
    compare_seeds,
)
from repro.judge.claims.resampling import index_groups, resample_score, sample_groups
from repro.readout.metrics import map_micro, top1
from repro.readout.recipe import Metric

README = Path(__file__).resolve().parent.parent / "expected" / "README.md"
BEGIN, END = "<!-- claims -->\n", "<!-- end of claims -->\n"
SETTINGS, ROWS, VIDEOS = 6, 4, 400
RUNS, CLIP_ERRORS = (3, 5, 10), (0.0, 0.1, 0.3, 1.0, 5.0)
SPREAD, DRAWS, CLIP_DRAWS = 0.5, 10_000, 1_000


def family_rates(runs: int, clip_error: float, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Return the percentage of families of 18 with a false verdict, by the tests that a verdict takes.

    Args:
        runs: Seeds of each row; their scores have the standard deviation SPREAD.
        clip_error: Standard error of a difference of two rows that is due to the sampled clips, in points.
        draws: Number of families.
        seed: Of the random numbers.
    """
    draw = np.random.default_rng(seed)
    scores = draw.normal(0, SPREAD, (draws, SETTINGS, ROWS, runs))
    # Each row has an advantage of its own on the clips at hand, which all its seeds share.
    scores += draw.normal(0, clip_error / np.sqrt(2), (draws, SETTINGS, ROWS, 1))
    means, errors = scores.mean(-1), scores.std(-1, ddof=1) / np.sqrt(runs)
    difference = means[..., :1] - means[..., 1:]
    seeds = combine_sources(Source(errors[..., :1], runs - 1), Source(errors[..., 1:], runs - 1))
    estimated = clip_error * np.sqrt(draw.chisquare(VIDEOS - 1, difference.shape) / (VIDEOS - 1))
    clips = Source(estimated, VIDEOS - 1)
    values = {
        "seeds": seeds.p_value(difference),
        "both": np.maximum(seeds.p_value(difference), clips.p_value(difference)),
        "judged": claim_p_value(difference, seeds, clips),
    }
    return {
        name: 100 * float((adjust_holm(np.reshape(found, (draws, -1))) <= LEVEL).any(-1).mean())
        for name, found in values.items()
    }


def clip_family_rate(runs: int, draws: int = CLIP_DRAWS, seed: int = 0, resamples: int = 300) -> float:
    """Return the percentage of families with a false verdict, from made-up predictions by the code that judges.

    200 clips of 80 source videos and 6 classes: three settings by accuracy, three by micro-averaged average precision.
    """
    draw = np.random.default_rng(seed)
    groups = index_groups([str(n) for n in range(200)], [str(n % 80) for n in range(200)])
    weights = sample_groups(80, resamples)
    metrics: tuple[Metric, ...] = ("top1", "map_micro")
    false = 0
    for _ in range(draws):
        values = []
        for setting in range(SETTINGS):
            metric = metrics[setting % 2]
            targets = np.eye(6, dtype=np.int64)[draw.integers(0, 6, 200)]
            # What is hard in a video, alike for all rows; what each row makes of a video and of a clip; and seeds.
            hard = draw.normal(0, 1, (80, 6))[groups]
            measured, sampled = [], []
            for _ in range(ROWS):
                own = draw.normal(0, 0.5, (80, 6))[groups] + draw.normal(0, 0.5, (200, 6))
                logits = [targets + hard + own + draw.normal(0, 0.5, (200, 6)) for _ in range(runs)]
                score = top1 if metric == "top1" else map_micro
                measured.append([100 * score(one, targets) for one in logits])
                sampled.append(
                    np.mean([resample_score(metric, one, targets, groups, weights) for one in logits], axis=0)
                )
            for row in range(1, ROWS):
                difference = float(np.mean(measured[0]) - np.mean(measured[row]))
                clips = Source(float(np.std(sampled[0] - sampled[row], ddof=1)), 79)
                values.append(float(claim_p_value(difference, compare_seeds(measured[0], measured[row]), clips)))
        false += bool((adjust_holm(np.array(values)) <= LEVEL).any())
    return 100 * false / draws


def table() -> str:
    lines = [
        "| seeds a row | error from clips | Welch on seeds alone | seeds and clips, each by itself | as judged |",
        "|---|---|---|---|---|",
    ]
    for runs in RUNS:
        for error in CLIP_ERRORS:
            found = family_rates(runs, error)
            lines.append(f"| {runs} | {error} | {found['seeds']:.1f} | {found['both']:.1f} | {found['judged']:.1f} |")
    return (
        "\n".join(lines) + f"\n\nFrom predictions, five seeds, {CLIP_DRAWS:,} families: {clip_family_rate(5):.1f} %.\n"
    )


def with_table(text: str) -> str:
    """Return `text` with what is between the two markers replaced."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
