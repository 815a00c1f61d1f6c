"""Claims on records with known truth."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.commands import run_repro
from builders.records import record, write_with_evidence

import repro
from repro.core.errors import Exit, UsageError
from repro.core.hashing import content_sha256
from repro.core.workspace import Workspace
from repro.judge.claims import formats
from repro.judge.claims.formats import claim_as_json, format_claims, summarise_table
from repro.judge.claims.judging import (
    ClaimOutcome,
    ClaimVerdict,
    claims_path,
    judge_claim_families,
    judge_workspace_claims,
    load_claims,
)
from repro.judge.claims.samples import remember_samples
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.grid_selection import grid_cells
from repro.judge.verdict import judge_rows
from repro.readout.metrics import all_scores
from repro.readout.predictions import Predictions
from repro.records.record import EpochRecord, RunRecord, Selection, SplitRecord
from repro.table.rows import load_row, table_order

ROWS = rows_with_expected(table_path())
FAMILIES = load_claims(claims_path(table_path()), ROWS)
CLIPS = 600
Runs = list[tuple[RunRecord, Predictions]]


def make_runs(
    row: str,
    share: float,
    seeds: int = 5,
    *,
    videos: int = 200,
    spread: float = 0.002,
    own: float = 0.0,
    protocol: str = "published",
    clips: int = CLIPS,
) -> Runs:
    """Runs of a row whose readout is right on `share` of all clips, as its published seed and those that follow it.

    Args:
        row: Name of the row.
        share: Share of clips that all possible seeds are right on; for average precision, how well positives are ranked.
        seeds: Number of runs.
        videos: Number of source videos, with equally many clips.
        spread: Standard deviation over seeds.
        own: How much of what is right is the row's own; the rest is what is easy for every row.
        protocol: published or held-out.
        clips: Number of clips.
    """
    config = load_row(row)
    names = tuple(f"clip{n:04}" for n in range(clips))
    groups = tuple(f"video{n % videos}" for n in range(clips))
    easy = np.random.default_rng(0).permutation(clips)
    draw = np.random.default_rng([ord(letter) for letter in row])
    rank = (easy + own * clips * draw.random(clips)).argsort().argsort()
    targets = np.zeros((clips, 2), np.int64)
    targets[np.arange(clips), np.arange(clips) % 2] = 1
    made = []
    for seed in config.seeds.first(seeds):
        right = rank < round(clips * (share + spread * draw.normal()))
        # Some clips of each run's own, in pairs, so that the share stays.
        swapped = draw.choice(np.flatnonzero(right), 5), draw.choice(np.flatnonzero(~right), 5)
        right[swapped[0]], right[swapped[1]] = False, True
        scores = np.where(right[:, None] == targets.astype(bool), 0.9, 0.1) - 1e-3 * draw.random((clips, 2))
        found = all_scores(scores, targets)
        run = record(row, seed, found[config.metric], protocol)
        selection = Selection(epoch=1, scores=found)
        changes: dict[str, object] = {"best_epoch_on_test": selection}
        if protocol == "held-out":
            changes |= {
                "protocol": protocol,
                "held_out": SplitRecord(name="x/train", clips=3, sha256="0" * 64),
                "best_epoch_on_held_out": selection,
                "epochs": tuple(
                    EpochRecord(epoch=e.epoch, train_loss=0.5, scores=found, held_out=found) for e in run.epochs
                ),
            }
        made.append((run.model_copy(update=changes), Predictions(names, ("a", "b"), targets, {1: scores}, groups)))
    return made


def judge(*runs: Runs) -> dict[tuple[str, str], ClaimVerdict]:
    """Verdicts by the names of the two rows."""
    predictions = {id(run): found for part in runs for run, found in part}
    records = [run for part in runs for run, _ in part]
    found = judge_claim_families(ROWS, FAMILIES, records, remember_samples(lambda run: predictions[id(run)]))
    return {(claim.above.row, claim.below.row): claim for claim in found}


SDV2 = ("hmdb_ucf", "hmdb_ucf_sdv2")


@pytest.mark.parametrize(
    ("shares", "outcome"),
    [
        ((0.80, 0.60), ClaimOutcome.HOLDS),
        ((0.60, 0.80), ClaimOutcome.REVERSED),
        ((0.70, 0.70), ClaimOutcome.TOO_CLOSE),
    ],
)
def test_what_is_known_to_be_so(shares: tuple[float, float], outcome: ClaimOutcome) -> None:
    claim = judge(*(make_runs(row, share) for row, share in zip(SDV2, shares, strict=True)))[SDV2]
    assert claim.outcome is outcome
    assert claim.difference == pytest.approx(100 * (shares[0] - shares[1]), abs=0.8)
    assert claim.in_pairs is not None
    # Eighteen claims, of which the others were not run.
    assert claim.adjusted == pytest.approx(min(1, 18 * claim.p_value))
    assert bool(claim.more_seeds) == (outcome is ClaimOutcome.TOO_CLOSE)


def test_average_precision_is_compared_alike() -> None:
    pair = ("ak_full", "ak_full_sdv2")
    assert judge(make_runs(pair[0], 0.8), make_runs(pair[1], 0.6))[pair].outcome is ClaimOutcome.HOLDS
    assert judge(make_runs(pair[0], 0.6), make_runs(pair[1], 0.6))[pair].outcome is ClaimOutcome.TOO_CLOSE


def test_a_drop_is_judged_by_its_own_family() -> None:
    pair = ("charades_1to1", "charades_3to1")
    claims = judge(*(make_runs(row, share) for row, share in zip(pair, (0.8, 0.6), strict=True)))
    assert claims[pair].outcome is ClaimOutcome.HOLDS
    assert claims[pair].adjusted == pytest.approx(4 * claims[pair].p_value)


def test_seeds_alone_prove_nothing_about_other_clips() -> None:
    """Two rows that differ by 2 points at every seed, on clips of which each row has hard ones of its own."""
    claim = judge(make_runs(SDV2[0], 0.62, own=5, spread=1e-4), make_runs(SDV2[1], 0.60, own=5, spread=1e-4))[SDV2]
    assert claim.on_seeds is not None
    assert claim.on_seeds.p_value(claim.difference) < 1e-3
    assert claim.outcome is ClaimOutcome.TOO_CLOSE
    assert claim.more_seeds.startswith("no number of seeds can decide: the test clips leave ±")


def test_clips_of_one_video_are_not_independent() -> None:
    errors = []
    for videos in (600, 60):
        claim = judge(*(make_runs(row, 0.6, own=5, videos=videos) for row in SDV2))[SDV2]
        assert claim.on_clips is not None
        errors.append(claim.on_clips.freedom)
    assert errors == [599, 59]
    few = judge(*(make_runs(row, share, videos=19) for row, share in zip(SDV2, (0.8, 0.6), strict=True)))[SDV2]
    assert (few.outcome, few.reason) == (ClaimOutcome.NOT_RUN, "19 source videos, 20 are needed")


@pytest.mark.parametrize("shares", [(0.8, 0.5), (0.5, 0.8), (0.7, 0.7)])
def test_guessed_weights_are_no_verdict_on_the_claim(shares: tuple[float, float]) -> None:
    pair = ("hmdb_ucf", "hmdb_ucf_vjepa")
    claim = judge(*(make_runs(row, share) for row, share in zip(pair, shares, strict=True)))[pair]
    assert claim.outcome is ClaimOutcome.OUR_WEIGHTS
    direction = {(0.8, 0.5): "above", (0.5, 0.8): "below"}.get(shares, "too close to call")
    assert claim.reason.startswith(
        f"{direction} with our weights: the release does not state the checkpoint of hmdb_ucf_"
    )
    assumed = [any(line.checkpoint_assumed for line in (c.above, c.below)) for c in judge().values()]
    assert (sum(assumed[:18]), sum(assumed[18:])) == (12, 2)


def test_seeds_that_were_not_planned_do_not_count() -> None:
    above, below = make_runs(SDV2[0], 0.8, 8), make_runs(SDV2[1], 0.6)
    claim = judge(above[:2] + above[3:], below)[SDV2]
    assert (claim.outcome, claim.reason) == (ClaimOutcome.NOT_RUN, "seeds run as planned: 2 of 5 and 5 of 5")
    assert claim.difference is not None
    assert judge(above[1:], below)[SDV2].difference is None
    assert judge(above, below)[SDV2].seeds == (tuple(range(42, 50)), tuple(range(42, 47)))


def test_rows_on_other_clips_are_not_compared() -> None:
    above, below = make_runs(SDV2[0], 0.8), make_runs(SDV2[1], 0.6)

    def changed(change: Callable[[Predictions], Predictions], runs: Sequence[int] = range(5)) -> ClaimVerdict:
        return judge(above, [(r, change(p) if n in runs else p) for n, (r, p) in enumerate(below)])[SDV2]

    def rebuild(found: Predictions, **changes: object) -> Predictions:
        values = {name: getattr(found, name) for name in ("clips", "classes", "targets", "by_epoch", "groups")}
        return Predictions(**(values | changes))

    renamed = changed(lambda p: rebuild(p, clips=tuple(f"x{clip}" for clip in p.clips)))
    for claim in (
        renamed,
        changed(lambda p: rebuild(p, targets=p.targets[:, ::-1])),
        changed(lambda p: rebuild(p, groups=None)),
        changed(lambda p: rebuild(p, groups=None), [3]),
    ):
        assert (claim.outcome, claim.p_value) == (ClaimOutcome.NOT_RUN, 1.0)
        assert "other clips" in claim.reason

    def turned(found: Predictions) -> Predictions:
        assert found.groups is not None
        scores = {epoch: one[::-1] for epoch, one in found.by_epoch.items()}
        return rebuild(
            found, clips=found.clips[::-1], groups=found.groups[::-1], targets=found.targets[::-1], by_epoch=scores
        )

    # In another order they are the same clips.
    again, straight = changed(turned), judge(above, below)[SDV2]
    assert again.on_clips is not None
    assert straight.on_clips is not None
    assert again.on_clips.error == pytest.approx(straight.on_clips.error)


def test_missing_clips_are_named() -> None:
    above, below = (
        [
            (
                r.model_copy(
                    update={"test": r.test.model_copy(update={"clips": r.test.clips - 9, "missing_clips": gone})}
                ),
                p,
            )
            for r, p in make_runs(row, share)
        ]
        for row, share, gone in ((SDV2[0], 0.8, tuple("abcdefghi")), (SDV2[1], 0.6, tuple("abcdefghi")))
    )
    assert judge(above, below)[SDV2].reason == "9 of 2009 test clips missing"


def test_without_default_cells_the_held_out_selection_is_compared() -> None:
    held_out = [make_runs(row, share, protocol="held-out") for row, share in zip(SDV2, (0.8, 0.6), strict=True)]
    claim = judge(*held_out)[SDV2]
    assert (claim.outcome, claim.basis) == (ClaimOutcome.HOLDS, "selected on held-out clips")
    # With both, the default cell is judged, and the other is shown.
    equal = [make_runs(row, 0.7) for row in SDV2]
    claim = judge(*held_out, *equal)[SDV2]
    assert (claim.outcome, claim.basis) == (ClaimOutcome.TOO_CLOSE, "best epoch on test, default cell")
    assert [name for name, _ in claim.not_judged] == ["selected on held-out clips"]
    assert claim.not_judged[0][1] == pytest.approx(20, abs=1)


@pytest.mark.slow
def test_the_best_of_a_grid_is_shown_and_not_judged() -> None:
    own, below = make_runs(SDV2[0], 0.7), make_runs(SDV2[1], 0.7)
    cells = [cell.name for cell in grid_cells(load_row(SDV2[0]))]
    grid = [
        (run.model_copy(update={"grid": "g", "run": f"{run.run}{cell}", "features": run.features.model_copy(update={"cell": cell}),
                                "best_epoch_on_test": run.best_epoch_on_test if cell == run.features.cell else better}), found)
        for run, found in own
        for better in [Selection(epoch=1, scores={"top1": 0.9})]
        for cell in cells
    ]  # fmt: skip
    claim = judge(grid, below)[SDV2]
    assert claim.outcome is ClaimOutcome.TOO_CLOSE
    assert claim.difference == pytest.approx(0, abs=0.8)
    assert claim.not_judged[0][0] == "best of 91 cells"
    assert claim.not_judged[0][1] == pytest.approx(20, abs=1)


def test_the_shipped_claims_are_those_of_the_table() -> None:
    order = table_order()
    assert set(FAMILIES["orderings"].pairs) == {(s, f"{s}_{b}") for s in order.settings for b in order.baselines}
    assert len(FAMILIES["orderings"].pairs) == 18
    names = ["", *(f"_{baseline}" for baseline in order.baselines)]
    assert set(FAMILIES["drops"].pairs) == {(f"charades_1to1{name}", f"charades_3to1{name}") for name in names}


def test_near_ties_of_the_published_table_are_named() -> None:
    found = {claim.below.row: claim.near_tie for claim in judge().values() if claim.family == "orderings"}
    assert found["ak_unseen_vjepa"] == "a near-tie: 0.09 points, 535 against 534 of 1,039 clips: one clip"
    assert found["ucf_hmdb_sdv2"] == "a near-tie: 1.1 points, 931 against 918 of 1,200 clips: 13 clips"
    # 81.5 % of 2,009 clips are 1,637 or 1,638.
    assert found["hmdb_ucf_sdv2"] == "a near-tie: 2.0 points"
    assert found["charades_3to1_sdv2"] == "a near-tie: 0.8 points"
    assert sum(map(bool, found.values())) == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("- [ak_full, ak_full_vjepa]", "- [ak_full, ak_fool]", "row 'ak_fool' is none of configs/rows"),
        ("- [ak_full, ak_full_vjepa]", "- [ak_full_videomaev2, ak_full]", "the two rows are in an earlier pair"),
        ("- [ak_full, ak_full_vjepa]", "- [ak_full_vjepa, ak_full]", "published 78.64 is not above 80.79"),
        ("- [ak_full, ak_full_vjepa]", "- [ak_full, ak_unseen]", "rows of other test clips or metrics"),
        ("- [ak_full, ak_full_vjepa]", "- [ak_full]", "families"),
        ("statement", "says", "unknown key"),
        ("families:", "family:", "unknown key"),
    ],
)
def test_wrong_claims_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(claims_path(table_path()).read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=said) as refused:
        load_claims(path, ROWS)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_each_claim_is_two_lines() -> None:
    runs = [make_runs(row, share) for row, share in zip(SDV2, (0.71, 0.70), strict=True)]
    claims = list(judge(*runs, make_runs("hmdb_ucf_vjepa", 0.5)).values())
    lines = format_claims(claims, FAMILIES)
    assert len(lines) == 3 * len(FAMILIES) + 2 * len(claims)  # off a terminal, where a line is one match of grep
    text = " ".join(" ".join(lines).split())
    assert "18 claims: 1 too close to call, 1 with our weights, 16 not run" in text
    assert "95 % intervals: " in text
    assert json.dumps([claim_as_json(claim) for claim in claims])


def test_the_table_as_a_family() -> None:
    """One row far off, one a little, one as published, one with weights that are a guess, one with too few runs."""
    scores = {
        "ucf_hmdb_sdv2": 0.90,
        "hmdb_ucf_sdv2": 0.80,
        "ak_unseen_sdv2": 0.4196,
        "ak_full_vjepa": 0.5,
        "ak_full_sdv2": 0.5,
    }
    runs = [
        record(row, seed, score + 0.001 * place)
        for row, score in scores.items()
        for place, seed in enumerate(load_row(row).seeds.first(2 if row == "ak_full_sdv2" else 5))
    ]
    found = summarise_table(judge_rows(ROWS, runs)[0])
    assert (found.rows, found.judged) == (24, 3)
    assert found.expected_by_chance == pytest.approx(1.2)
    assert found.outside == ("ucf_hmdb_sdv2", "hmdb_ucf_sdv2")
    assert found.outside_after_holm == ("ucf_hmdb_sdv2",)


def test_check_prints_claims(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ("ucf_hmdb", "ucf_hmdb_sdv2")
    for row in pair:
        for seed in load_row(row).seeds.first(5):
            write_with_evidence(workspace.runs, record(row, seed, 0.77, row))

    def turn_first(*given: Any) -> Any:
        (first, *rest), families = judge_workspace_claims(*given)
        return [dataclasses.replace(first, outcome=ClaimOutcome.REVERSED), *rest], families

    with monkeypatch.context() as patched:
        patched.setattr(formats, "judge_workspace_claims", turn_first)
        done = run_repro("check", "--claims", "--workspace", workspace.root)
    assert done.code == Exit.JUDGED_DIFFERENT
    assert "REVERSED           ak_full over ak_full_videomaev2" in done.out
    assert "orderings: ActionDiff above each baseline" in done.out
    assert "535 against 534 of 1,039 clips" in " ".join(done.out.split())
    assert "of 24 rows, about 1.2 are outside" in done.out
    done = run_repro("check", "--claims", "--json", "--workspace", workspace.root)
    assert done.code == Exit.OK
    report = json.loads(done.out)
    found = next(claim for claim in report["claims"] if claim["below"] == pair[1])
    assert (found["verdict"], found["seeds"]) == ("TOO CLOSE TO CALL", [[42, 43, 44, 45, 46], [39, 40, 41, 42, 43]])
    assert found["difference"] == 0
    assert report["table"]["judged"] == 2
    claims = {claim.below.row: claim for claim in repro.judge_claims(workspace.root)}
    assert claims[pair[1]].outcome is ClaimOutcome.TOO_CLOSE
    # What was kept is used, and not taken on trust.
    lines = [json.loads(line) for line in workspace.computed.read_text().splitlines()]
    assert len(lines) == 10
    with workspace.computed.open("w") as file:
        for line in lines:
            line["found"]["videos"] += 1
            del line["sha256"]
            file.write(json.dumps(line | {"sha256": content_sha256(line)}) + "\n")
    done = run_repro("check", "--claims", "--json", "--workspace", workspace.root)
    assert "not what its predictions give" in done.err
    assert json.loads(done.out) == report
