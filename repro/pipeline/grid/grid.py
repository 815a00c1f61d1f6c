"""`repro ROW --grid`: a readout at every timestep and layer of a row's backbone, and what each rule picks of them.

One pass over a clip makes the features of all cells. Each cell's readout is a run of its own in runs/<row>/, under the key
it has anywhere: a killed grid goes on with the cells it lacks, and the cell of the row itself is the run that `repro ROW`
makes, where the grid's features are stored as fp32 as the row's are. Stored as fp16 they take half the disk, are those of
`repro extract --grid`, and their runs are others.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repro.backbones.config import Cell
from repro.core.console import Reporter
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.files import write_bytes, write_json
from repro.core.workspace import Workspace
from repro.judge.grid_selection import grid_cells, part_of
from repro.pipeline import extract as extraction
from repro.pipeline.grid.report import GridResult, as_csv, as_json, summary, table, told_seeds
from repro.pipeline.row_data import open_row
from repro.readout.recipe import Protocol, Recipe
from repro.records.record import RunRecord
from repro.table import requirements
from repro.table.row import Row, row_backbone
from repro.table.rows import load_row
from repro.video.decoders import spare_cores

LINEAR_LENGTHS = {"animal_kingdom": 150, "ucf101": 300, "hmdb51": 300}
"""max_length of the release's linear grids (configs/lineargrid), by data set learned from."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a grid beside what a row's own run is asked."""

    timesteps: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    """None: all of the grid's."""
    head: Literal["transformer", "linear"] | None = None
    """None: the row's."""
    protocols: tuple[Protocol, ...] = ("published",)
    stored_as: Literal["fp32", "fp16"] = "fp32"
    jobs: int = 1
    threads: int | None = None
    """Of each worker process; None: the cores, divided among them."""


@dataclass(frozen=True, slots=True)
class Options:
    """As of a row's own run (repro/pipeline/running.py)."""

    seeds: int = 1
    device: str = "cpu"
    deterministic: bool = False
    workers: int | None = None
    batch: int | None = None
    allow_missing: bool = False


def wish(
    timesteps: str | None,
    layers: str | None,
    head: Literal["transformer", "linear"] | None,
    protocol: Literal["published", "honest", "both"],
    stored_as: Literal["fp32", "fp16"] | None,
    jobs: int | None,
) -> Wish:
    """What the command line's words ask for.

    Raises:
        UsageError: no numbers where numbers belong.
    """
    return Wish(
        extraction.numbers("--timesteps", timesteps),
        extraction.numbers("--layers", layers),
        head,
        ("published", "honest") if protocol == "both" else (protocol,),
        stored_as or "fp32",
        jobs or 1,
    )


def wished_row(name: str, wished: Wish) -> tuple[Row, tuple[Cell, ...], tuple[Cell, ...]]:
    """The row with the head asked for, all cells of its grid, and those asked for.

    Raises:
        UsageError: a backbone without a grid, a cell outside it, or a head without a recipe.
    """
    row = load_row(name)
    whole = grid_cells(row)
    if row.features not in whole:
        raise UsageError(
            f"row {name}: --grid goes over layers 1 to 13, and the row reads {row.features.name}: run it without"
        )
    if wished.head is not None and wished.head != row.readout.head:
        row = row.model_copy(update={"readout": _with_head(name, row, wished.head)})
    return row, whole, part_of(whole, wished.timesteps, wished.layers)


def _with_head(name: str, row: Row, head: str) -> Recipe:
    dataset = row.data.train.split("/")[0]
    if head == "transformer":
        raise UsageError(f"--head transformer: {name} has a linear readout, and no recipe of a transformer")
    if dataset not in LINEAR_LENGTHS:
        raise UsageError(
            f"--head linear: the release has linear grids of {', '.join(LINEAR_LENGTHS)}, none of {dataset}: leave --head out"
        )
    changes = {
        "head": "linear", "layers": 0, "epochs": 50, "learning_rate": 1e-5, "weight_decay": 1e-4, "mixup": 0.2,
        "max_length": LINEAR_LENGTHS[dataset], "note": "configs/lineargrid; loss, batch and seed as in the row",
    }  # fmt: skip
    return Recipe.model_validate(row.readout.model_dump() | changes)


def run(name: str, wished: Wish, options: Options, workspace: Workspace, *, as_json_: bool) -> Exit:
    """Features, readouts and the result of a grid.

    Raises:
        MissingError: a row lacks something; clips or cells failed, and are named.
        UsageError: no such row or cell; another process runs the row.
    """
    row, whole, cells = wished_row(name, wished)
    requirements.require_all(row, workspace, gpu=options.device != "cpu")
    workspace.require_writable()
    reporter = Reporter(to_stderr=as_json_)
    with workspace.lock(f"run {name}"):
        result, failed = _run(name, row, whole, cells, wished, options, workspace, reporter)
        paths = _write(result, workspace) if result.runs else []
    if as_json_:
        print(json.dumps(as_json(result) if result.runs else {}, indent=1))
    elif result.runs:
        _show(result, paths)
    if failed:
        first = next(iter(failed))
        raise MissingError(
            f"row {name}: {len(failed)} of {len(cells) * len(wished.protocols)} cells failed, {first} first: each is named "
            "above; mend it and run the same command: what is finished is kept"
        )
    return Exit.OK


def _run(
    name: str, row: Row, whole: Sequence[Cell], cells: tuple[Cell, ...], wished: Wish, options: Options,
    workspace: Workspace, reporter: Reporter,
) -> tuple[GridResult, dict[str, str]]:  # fmt: skip
    """The result, and why each cell failed that did."""
    # Here, as they take seconds, and a row that lacks something needs none of it.
    from repro.backbones.extractor import Execution
    from repro.pipeline.grid.workers import Job, of_cell, read_out_cells
    from repro.pipeline.row import extract_row
    from repro.pipeline.run_readout import Source, finished, split_facts
    from repro.pipeline.running import row_segments
    from repro.readout.compute import Compute
    from repro.records import mlflow_view as tracking

    threads = wished.threads or (None if wished.jobs == 1 else max(1, _cores() // wished.jobs))
    compute = Compute(options.device, deterministic=options.deterministic, threads=threads).checked()
    data = open_row(row.data, workspace, allow_missing=options.allow_missing)
    for part, ids in data.missing.items():
        if ids:
            reporter.warn(f"{part}: {len(ids)} clips are missing and left out, as allowed: {', '.join(ids[:3])}")
    configs = {row.backbone: row_backbone(row)}
    stores, extracted = extract_row(
        name, row, cells, data.splits, workspace, reporter,
        Execution(options.device, options.batch, options.workers or spare_cores()),
        "float16" if wished.stored_as == "fp16" else "float32",
        lambda todo: extraction.say_disk(
            todo, configs, {row.backbone: cells}, wished.stored_as, workspace.features, reporter
        ),
    )  # fmt: skip
    source = Source(
        name, row, stores, data.splits, extracted.video_sha256, row_segments(row, workspace), data.also, data.missing,
        data.manifests,
    )  # fmt: skip
    protocols: tuple[Protocol, ...] = ("published", "honest")
    seeds, facts = tuple(row.seeds.first(options.seeds)), split_facts(source)
    runs: dict[tuple[Protocol, int, str], RunRecord] = {}

    def read(protocol: Protocol, cell: Cell) -> tuple[int, ...]:
        """Take up a cell's finished runs; the seeds that lack one."""
        for seed in seeds:
            if (protocol, seed, cell.name) not in runs:
                found = finished(of_cell(source, cell), seed, workspace, reporter, protocol, compute, facts)
                if found is not None:
                    runs[protocol, seed, cell.name] = found
        return tuple(seed for seed in seeds if (protocol, seed, cell.name) not in runs)

    lacking = {(protocol, cell.name): read(protocol, cell) for protocol in protocols for cell in whole}
    jobs = [
        Job(cell, protocol, compute, lacking[protocol, cell.name])
        for cell in cells
        for protocol in wished.protocols
        if lacking[protocol, cell.name]
    ]
    failed: dict[str, str] = {}
    with reporter.progress("readout", len(jobs)) as advance:

        def after(job: Job, failure: str) -> None:
            if failure:
                failed[f"{job.cell.name} ({job.protocol})"] = failure
                reporter.warn(f"cell {job.cell.name}, {job.protocol} protocol: {failure}")
            read(job.protocol, job.cell)
            advance(job.cell.name)

        read_out_cells(source, jobs, workspace, wished.jobs, after)
    asked = len(cells) * len(wished.protocols) * len(seeds)
    fresh = sum(len(job.seeds) for job in jobs)
    there = sum((p, seed, cell.name) in runs for p in wished.protocols for cell in cells for seed in seeds)
    reporter.stage(
        "readout",
        total=there,
        reused=asked - fresh,
        made="trained",
        why=f"{name}, {len(cells)} of {len(whole)} cells, {told_seeds(seeds)}, {' and '.join(wished.protocols)} protocol",
        where=workspace.runs / name,
    )
    tracking.sync(workspace, reporter)
    return GridResult(name, row, tuple(whole), seeds, runs, wished.stored_as), failed


def report_name(result: GridResult) -> str:
    """Grids of another head or other features do not take each other's place."""
    head = "" if result.row.readout.head == load_row(result.name).readout.head else f"-{result.row.readout.head}"
    return f"{result.name}-grid{head}{'-fp16' if result.stored_as == 'fp16' else ''}"


def _write(result: GridResult, workspace: Workspace) -> list[Path]:
    from repro.pipeline.grid.figure import svg

    stem = workspace.reports / report_name(result)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "csv", "svg")]
    write_json(paths[0], as_json(result))
    write_bytes(paths[1], as_csv(result).encode())
    write_bytes(paths[2], svg(result))
    return paths


def _show(result: GridResult, paths: Sequence[Path]) -> None:
    for protocol in result.protocols:
        what = "best epoch on test" if protocol == "published" else "best epoch on held-out clips"
        print(f"\n{result.name}, {protocol} protocol: {result.row.metric}, {what}, {told_seeds(result.seeds)}")
        print("\n".join(table(result, protocol)))
    print()
    print("\n".join(summary(result)))
    for other in ("published", "honest"):
        if other not in result.protocols:
            print(
                f"the {other} selection beside it: the same command with --protocol {'both' if other == 'honest' else other}"
            )
    print("written " + ", ".join(str(path) for path in paths))
    print("`repro check` judges")


def _cores() -> int:
    return len(os.sched_getaffinity(0))
