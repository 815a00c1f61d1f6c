"""Write scripts/rows/<row>.sh from the configs: `python scripts/row_scripts.py`. A test holds them in step."""

import shlex
from pathlib import Path

from repro.backbones.cells import choose_cells
from repro.cli.planning import count, hours
from repro.core.workspace import Workspace
from repro.features.rates import kind_of
from repro.judge.expected import load_expected, table_path
from repro.plan.amounts import total
from repro.plan.plan import make
from repro.table.row import Row, row_backbone, row_datasets
from repro.table.rows import load_row, row_names

FOLDER = Path(__file__).resolve().parent / "rows"

TEMPLATE = """\
#!/usr/bin/env bash
# {title}: published {published} ({metric}; {selection}),
# {source}; there: {command}
# Cost: {cost}
# `repro {name}` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; {planned} are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch {backbone}

# The data, in their owners' layout. {obtain}
{fetch}{prepare}

# Features of every clip the row reads.
{extract}

# The readout, one a seed, each with its run record.
repro readout {name} --seeds "${{SEEDS:-1}}"

# All that was measured here, against the published table.
repro check
"""
METRICS = {"map_micro": "micro-averaged mAP", "top1": "top-1 accuracy"}


def script(name: str) -> str:
    row, line = load_row(name), {line.row: line for line in load_expected(table_path())}[name]
    assert row.published is not None
    datasets = row_datasets(row)
    asked = [dataset for dataset, config in datasets.items() if config.obtain]
    return TEMPLATE.format(
        name=name,
        title=row.title,
        published=f"{line.published:.{line.digits}f}",
        metric=METRICS[row.metric],
        selection=line.selection,
        source=row.published.source,
        command=row.published.command,
        cost=cost(name),
        planned=row.seeds.planned,
        backbone=row.backbone,
        obtain="Their owners give them on request: `repro fetch animal_kingdom` says how."
        if asked
        else "docs/data.md says what lies where.",
        fetch="".join(f"repro fetch {dataset}\n" for dataset, config in datasets.items() if config.files),
        prepare="\n".join(f"repro data prepare {dataset}" for dataset in datasets),
        extract="\n".join(extraction(row, split) for split in dict.fromkeys((row.data.train, row.data.test))),
    )


def extraction(row: Row, split: str) -> str:
    words = ["repro", "extract", split, "--backbone", row.backbone]
    if row.features.timestep is not None:
        words += ["--timesteps", str(row.features.timestep), "--layers", str(row.features.layer)]
    assert row.features.timestep is not None or (row.features,) == choose_cells(row.backbone, row_backbone(row))
    return shlex.join(words)


def cost(name: str) -> str:
    """From nothing, on the GPU that configs/plan.yaml assumes; `repro plan` reckons with what is there and was measured."""
    (row,) = make({name: load_row(name)}, Workspace(Path("/nowhere")), kind_of("cuda"), 1, "published").rows
    clips, windows = (total([getattr(job.whole, what) for job in row.jobs]) for what in ("clips", "windows"))
    time = total([job.hours for job in row.jobs])
    fetched = total([one.whole for one in row.downloads])
    assert clips is not None
    assert windows is not None
    assert time is not None
    assert fetched is not None
    return (
        f"{count(clips)} clips, {count(windows)} windows, about {fetched.likely / 1e9:.0f} GB to fetch, {hours(time)} on a GPU (assumed: "
        f"configs/plan.yaml); `repro plan {name}` says more."
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in row_names():
        path = FOLDER / f"{name}.sh"
        path.write_text(script(name))
        path.chmod(0o755)
