"""Time `repro report` of 24 rows x 5 seeds and complete grids: `python benchmarks/report.py [--folder FOLDER] [--grids ROW ...]`.

Predictions have the real sizes and random scores. A grid of Animal Kingdom takes 2.8 GB: name it only where there is room.

`first` is the first report where the rows were run, `copied` where runs were copied to, with nothing of what a row keeps at its end,
which is timed too: once for each row, in `repro ROW` and `repro grid ROW`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from checking import write_run

from repro.core.workspace import open_workspace
from repro.judge.grid_selection import grid_cells
from repro.pipeline.runs.score import keep_scores
from repro.table.rows import load_row, row_names

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from builders.records import record


def write_grid(runs: Path, name: str) -> None:
    """Store a run of every other cell of a row's grid for five seeds."""
    row = load_row(name)
    for seed in row.seeds.first(5):
        for number, cell in enumerate(grid_cells(row)):
            if cell != row.features:
                random = np.random.default_rng([seed, number, *name.encode()])
                made = record(name, seed, 0.5)
                features = made.features.model_copy(update={"cell": cell.name})
                # No two runs have the same losses, nor have two rows: copied runs are not judged.
                epochs = tuple(e.model_copy(update={"train_loss": float(random.random())}) for e in made.epochs)
                write_run(runs, made.model_copy(update={"features": features, "epochs": epochs}), random)


def main() -> None:
    """Make the workspace unless it is there, and write its report, each time in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="workspace to make and keep")
    parser.add_argument("--grids", nargs="*", default=["ucf_hmdb", "hmdb_ucf"], help="rows with a complete grid")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    workspace = open_workspace(folder)
    if not workspace.runs.exists():
        for name in row_names():
            for seed in load_row(name).seeds.first(5):
                random = np.random.default_rng([seed, *name.encode()])
                write_run(workspace.runs, record(name, seed, 0.5), random)
        for name in options.grids:
            write_grid(workspace.runs, name)
    page = folder / "report.html"
    command = [sys.executable, "-m", "repro", "report", "-o", str(page), "--workspace", str(folder)]

    def forget() -> None:
        for kept in (workspace.rescored, workspace.computed):
            kept.unlink(missing_ok=True)

    def report(what: str, *words: str) -> None:
        start = time.perf_counter()
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"{what}: {time.perf_counter() - start:.1f} s, {page.stat().st_size / 1e6:.2f} MB", flush=True)

    forget()
    report("copied")
    report("copied, again")
    report("one row", "ucf_hmdb")
    forget()
    seconds = {}
    for name in row_names():
        start = time.perf_counter()
        keep_scores(load_row(name), workspace, print)
        seconds[name] = time.perf_counter() - start
    longest = max(seconds, key=lambda name: seconds[name])
    print(f"kept by rows: {sum(seconds.values()):.1f} s, {longest} {seconds[longest]:.1f} s", flush=True)
    report("first")


if __name__ == "__main__":
    main()
