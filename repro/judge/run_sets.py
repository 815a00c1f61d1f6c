"""Sets of runs that differ only in seed and cell, and which of their seeds are judged."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from repro.backbones.config import read_precision
from repro.judge.expected import Expected
from repro.judge.fitness import accepted_cells, explain_difference, record_precision
from repro.judge.grid_selection import Selected, select_cell
from repro.judge.outcome import Judgement, MissingClips, judge_values
from repro.judge.rules import format_refusal
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone


@dataclass(slots=True)
class RunSet:
    """Runs that differ only in seed and cell: a grid or a part of it, with the newest run of each seed and cell."""

    expected: Expected
    own: str
    """Name of the row's default cell."""
    precision: str
    is_rows_precision: bool
    cells: Sequence[str]
    """Cells of the complete grid, in its order."""
    by_seed: dict[int, dict[str, RunRecord]] = field(default_factory=lambda: defaultdict(dict))
    refused: list[tuple[RunRecord, str]] = field(default_factory=list)
    """Runs that do not count, and why: beginning with the id of a rule."""

    def add(self, record: RunRecord) -> None:
        """Add a run that is not older than those added before."""
        older = self.by_seed[record.seed].get(record.features.cell)
        if older is not None:
            self.refused.append((older, format_refusal("R13", f"an older run of seed {record.seed}")))
        self.by_seed[record.seed][record.features.cell] = record

    def refuse_different(self) -> None:
        """Take out runs that do not share splits, audit, checkpoint and versions with those of the first seed."""
        runs = [run for _, of_seed in sorted(self.by_seed.items()) for run in of_seed.values()]
        # The published seed's run is the reference, so that later runs cannot outvote it.
        first = next((run for run in runs if run.seed == self.expected.first_seed), runs[0])
        for run in runs:
            why = explain_difference(run, first)
            if why:
                self.refused.append((run, format_refusal("R12", f"seed {run.seed} has {why} as seed {first.seed}")))
                del self.by_seed[run.seed][run.features.cell]
                if not self.by_seed[run.seed]:
                    del self.by_seed[run.seed]

    @property
    def complete_seeds(self) -> list[int]:
        """Seeds with a run of every cell of the grid; empty if the row is judged by one cell."""
        return [s for s, runs in sorted(self.by_seed.items()) if len(self.cells) > 1 and len(runs) == len(self.cells)]

    @property
    def seeds(self) -> list[int]:
        """The seeds that are judged: as `all_seeds`, from the published one to the first that is missing."""
        return self._without_gap(self.complete_seeds) or self._without_gap(self._own_seeds)

    @property
    def all_seeds(self) -> list[int]:
        """Seeds with complete grids if there are any, else those with the default cell."""
        return self.complete_seeds or self._own_seeds

    @property
    def _own_seeds(self) -> list[int]:
        return [seed for seed, runs in sorted(self.by_seed.items()) if self.own in runs]

    def _without_gap(self, seeds: list[int]) -> list[int]:
        # The longest run of seeds without a gap, not any that were run: the best 5 of 10 seeds are no sample of all.
        last = self.expected.first_seed
        while last in seeds:
            last += 1
        return list(range(self.expected.first_seed, last))

    def own_runs(self, seeds: Sequence[int]) -> list[RunRecord]:
        return [self.by_seed[seed][self.own] for seed in seeds]

    def select_cells(self, seeds: Sequence[int]) -> tuple[Selected, ...]:
        """Return what the published rule selects in the complete grid of each seed; empty if one is not complete."""
        if not seeds or not set(seeds) <= set(self.complete_seeds):
            return ()
        return tuple(select_cell(self.by_seed[seed], self.cells) for seed in seeds)

    def count_cells(self, seeds: Sequence[int]) -> int:
        return max(len(self.by_seed[seed]) for seed in seeds)

    def values(self, seeds: Sequence[int]) -> list[float]:
        """Return what the published rule selects for each seed, in points."""
        # All these runs are of the published protocol, so select_cell() maximises the test score, as the published rule does.
        best = self.select_cells(seeds)
        return [
            100 * (best[n].test if best else run.best_epoch_on_test.scores[self.expected.metric])
            for n, run in enumerate(self.own_runs(seeds))
        ]

    def missing_clips(self) -> tuple[MissingClips, str]:
        """Return which clips are missing from the runs, over all of them, and a note on it."""
        notes, largest = [], {}
        runs = [run for of_seed in self.by_seed.values() for run in of_seed.values()]
        for part, role in (("test", "test"), ("train", "training")):
            splits = [run.test if part == "test" else run.train for run in runs]
            # `clips` counts the clips that were read, without the missing ones.
            shares = [len(s.missing_clips) / ((s.clips + len(s.missing_clips)) or 1) for s in splits]
            # The worst run counts: a bound has to hold for each of them.
            largest[part] = max(shares)
            if largest[part]:
                worst = splits[shares.index(largest[part])]
                gone = len(worst.missing_clips)
                notes.append(f"{gone} of {worst.clips + gone} {role} clips missing")
        return MissingClips(largest["test"], largest["train"] > 0), "; ".join(notes)

    def judge(self, seeds: Sequence[int]) -> Judgement:
        """Judge some seeds of the set."""
        missing, _ = self.missing_clips()
        return judge_values(self.expected, self.values(seeds), self.count_cells(seeds), len(self.cells), missing)

    def rank(self) -> tuple[bool, bool, bool, bool, str]:
        """Return the sort key: sets with the published seed before others, the row's precision before others, complete grids
        before single cells, as many runs as planned before fewer, newer before older.

        One complete grid takes precedence over single-cell runs, however many seeds: it is what was published.
        """
        newest = max(run.made.at for run in self.own_runs(self.all_seeds))
        enough = len(self.seeds) >= self.expected.planned_seeds
        return bool(self.seeds), self.is_rows_precision, bool(self.select_cells(self.seeds)), enough, newest

    def describe_seeds(self) -> str:
        """Return how the judged seeds compare with the planned ones."""
        first, plan, judged = self.expected.first_seed, self.expected.planned_seeds, self.seeds
        planned = format_seeds(range(first, first + plan))
        if not judged:
            return f"none of the planned seeds {planned}: {first} is missing"
        found = format_seeds(judged)
        if len(judged) == plan:
            return f"seeds {found} as planned"
        if len(judged) > plan:
            return f"seeds {found}, planned {planned}"
        return f"seed{'s' * (len(judged) > 1)} {found} of the planned {planned}"

    def describe_rest(self) -> str:
        """Return the seeds of the set that are not judged, with their verdict; empty if there are none."""
        judged = self.seeds
        rest = [seed for seed in self._own_seeds if seed not in judged]
        if not rest:
            return ""
        because = f"without {self.expected.first_seed + len(judged)}"
        if self.select_cells(judged) and set(rest).isdisjoint(self.complete_seeds):
            because = "without all cells"
        every = self.all_seeds if set(rest) & set(self.all_seeds) else rest
        return (
            format_refusal("R16", f"seed{'s' * (len(rest) > 1)} {format_seeds(rest)} {because} not judged")
            + f" (seeds {format_seeds(every)} would be {describe_judged(self, every)})"
        )


def describe_judged(runs: RunSet, seeds: Sequence[int]) -> str:
    """Return the mean of some seeds and what it would be judged."""
    values = runs.values(seeds)
    return f"{sum(values) / len(values):.2f}, {runs.judge(seeds).outcome}"


def format_seeds(seeds: Iterable[int]) -> str:
    """Format ascending seeds, as 52-54, 57."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def build_run_sets(row: Row, expected: Expected, records: Iterable[RunRecord]) -> list[RunSet]:
    """Return the sets that the records of a row form."""
    records = list(records)
    if not records:
        return []
    sets: dict[tuple[str, str], RunSet] = {}
    accepted, rows_precision = accepted_cells(row, expected), read_precision(row_backbone(row))
    # Oldest first, so that the newest run of a seed and cell replaces the others. Runs of different grid keys differ in
    # more than cell and seed, so their scores have no common mean.
    for record in sorted(records, key=lambda r: r.made.at):
        precision = record_precision(record)
        # The key of the features has the precision already, and with it the group.
        key = (record.grid or record.group, precision)
        if key not in sets:
            sets[key] = RunSet(expected, row.features.name, precision, precision == rows_precision, accepted)
        sets[key].add(record)
    for runs in sets.values():
        runs.refuse_different()
    return list(sets.values())
