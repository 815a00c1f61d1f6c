"""Show that a change of the code changes no number: `python scripts/compare_versions.py OLD NEW`.

OLD and NEW are checkouts. In a temporary folder, the tests' tiny project (all data sets and backbones, small) and the smoke
job run with OLD. Then NEW runs twice: on a copy of OLD's workspaces, where it must reuse everything and write no feature and
no run; and on copies of the inputs alone, where features, run ids, records, predictions and readouts must come out the same.
Records are compared without what describes the run itself (time, duration, versions). Exits 1 if anything differs.

With --folder, the work is kept there, and OLD's part is reused by the next comparison with the same OLD.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROWS = ("ak_full", "ak_unseen_vjepa", "charades_1to1_sdv2", "charades_3to1_videomaev2", "hmdb_ucf", "ucf_hmdb")
EXTRAS = ("ak_unseen_linear", "ak_full_no_conditioning", "hmdb_ucf_latent_noise")
GRID = ("ucf_hmdb", "--timesteps", "20,25", "--layers", "8-9", "--protocol", "both")
INPUTS = ("data", "checkpoints")

MAKE_TINY = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
try:
    from builders import tiny_project
except ImportError:
    import tiny_project
tiny_project.make(Path(sys.argv[1]))
"""


@dataclass(frozen=True)
class Version:
    """A checkout, and the folder its projects and workspaces are in."""

    name: str
    checkout: Path
    work: Path

    def python(self, *words: str | Path, code: Path, name: str, passing: Sequence[int] = (0,)) -> str:
        """Run Python on `code`, a folder with the package in it; returns its output, and stops at another exit code."""
        env = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=code, env=env, text=True, capture_output=True, check=False
        )
        text = done.stdout + done.stderr
        (self.work / f"{name}.log").write_text(text)
        if done.returncode not in passing:
            sys.exit(
                f"{self.name}: {name} failed with exit code {done.returncode}; {self.work / name}.log:\n{text[-3000:]}"
            )
        return text

    def make_project(self, workspace_from: Path | None = None, only: Sequence[str] = ()) -> Path:
        """A tiny project of this version, with another workspace's content if one is given (all of it, or `only` these)."""
        project = self.work / "tiny"
        self.python("-c", MAKE_TINY, project, code=self.checkout, name="make tiny project")
        if workspace_from is not None:
            shutil.rmtree(project / "workspace")
            copy_workspace(workspace_from, project / "workspace", only)
        return project

    def run_everything(self, project: Path) -> str:
        """All rows, extras and the grid of the tiny project, and the smoke job; returns what was printed."""
        workspace = ("--workspace", project / "workspace", "--device", "cpu")
        said = ""
        for row in (*ROWS, *EXTRAS):
            said += self.python("-m", "repro", row, *workspace, code=project, name=row)
        has_grid_verb = (project / "repro" / "cli" / "grid.py").exists()
        grid = ("grid", *GRID) if has_grid_verb else (GRID[0], "--grid", *GRID[1:])
        said += self.python("-m", "repro", *grid, *workspace, code=project, name="grid")
        smoke = ("smoke", "--workspace", self.work / "smoke")
        # 1: other scores than its golden ones, as where another PyAV writes its clips. Here OLD and NEW are compared.
        return said + self.python("-m", "repro", *smoke, code=self.checkout, name="smoke", passing=(0, 1))


def copy_workspace(source: Path, target: Path, only: Sequence[str] = ()) -> None:
    """Copy with times, by which files are recognised."""
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.suffix != ".lock" and (not only or entry.name in only):
            (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, target / entry.name)


def results(workspace: Path) -> dict[str, Path]:
    """Everything under features/ and runs/, by its place in the workspace."""
    return {
        str(path.relative_to(workspace)): path
        for folder in ("features", "runs")
        for path in sorted((workspace / folder).rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def comparable(path: Path) -> Any:
    """What a file says about numbers: without times, durations and versions of what made it."""
    if path.name == "record.json":
        return {k: v for k, v in json.loads(path.read_bytes()).items() if k not in ("made", "sha256")}
    if path.name == "training.jsonl":
        # What a training read and what it reached: without times, versions, and what it took of the machine.
        lines = [json.loads(line) for line in path.read_text().splitlines() if line]
        started = [{key: value for key, value in line.get("started", {}).items() if key != "made"} for line in lines]
        return started, [line.get("epoch") for line in lines]
    if path.suffix == ".parquet":
        # `origins` names the description of the machine and versions that extracted a clip.
        table = pq.read_table(path)
        kept = [name for name in table.column_names if name != "origins"]
        return table.select(kept).to_pylist(), table.schema.metadata if "origins" not in table.column_names else None
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kind_of(place: str) -> str:
    first, *_, name = place.split("/")
    if first == "features":
        return {".npy": "feature arrays", ".safetensors": "feature files"}.get(Path(name).suffix, "feature indexes")
    return {".safetensors": "readouts", ".parquet": "predictions"}.get(Path(name).suffix, "records")


class Table:
    """Lines of the report; remembers whether anything differed."""

    def __init__(self) -> None:
        self.differs = False
        print(f"{'what':<12} {'kind':<18} {'compared':>9} {'different':>10}")

    def line(self, what: str, kind: str, compared: int, different: Sequence[str]) -> None:
        print(f"{what:<12} {kind:<18} {compared:>9} {len(different):>10}")
        for place in different[:20]:
            print(f"    {place}")
        self.differs |= bool(different) or not compared


def compare_reused(table: Table, what: str, before: Path, after: Path) -> None:
    """Every result of `before` must be in `after` byte for byte and not rewritten, and nothing else."""
    old, new = results(before), results(after)
    different = [f"new: {place}" for place in new if place not in old]
    for place, path in old.items():
        if place not in new:
            different.append(f"gone: {place}")
        elif path.read_bytes() != new[place].read_bytes() or path.stat().st_mtime_ns != new[place].stat().st_mtime_ns:
            different.append(f"rewritten: {place}")
    table.line(what, "reused files", len(old), different)


def compare_results(table: Table, what: str, before: Path, after: Path) -> None:
    """Results of both, made apart from the same inputs."""
    old, new = ({p: f for p, f in results(w).items() if "/origins/" not in p} for w in (before, after))
    for kind in dict.fromkeys(map(kind_of, [*old, *new])):
        places = [place for place in dict.fromkeys([*old, *new]) if kind_of(place) == kind]
        different = [
            place
            for place in places
            if place not in old or place not in new or comparable(old[place]) != comparable(new[place])
        ]
        table.line(what, kind, len(places), different)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--folder", type=Path, help="keep the work here [a temporary folder]")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="compare"))).resolve()
    for name in ("old", "reused", "again"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    old = Version("OLD", options.old.resolve(), folder / "old")
    reused, again = (Version("NEW", options.new.resolve(), folder / name) for name in ("reused", "again"))

    if (old.work / "done").exists():
        print(f"reusing what OLD made in {old.work}")
    else:
        old.run_everything(old.make_project())
        (old.work / "done").touch()
    for version in (reused, again):
        shutil.rmtree(version.work)
        version.work.mkdir()
    tiny = old.work / "tiny" / "workspace"

    table = Table()
    copy_workspace(old.work / "smoke", reused.work / "smoke")
    said = reused.run_everything(reused.make_project(tiny))
    computed = [line for line in said.splitlines() if " extracted" in line or " trained" in line]
    table.line("reused", "stages", said.count("reused"), computed)
    compare_reused(table, "tiny project", tiny, reused.work / "tiny" / "workspace")
    compare_reused(table, "smoke job", old.work / "smoke", reused.work / "smoke")

    again.run_everything(again.make_project(tiny, INPUTS))
    compare_results(table, "tiny project", tiny, again.work / "tiny" / "workspace")
    compare_results(table, "smoke job", old.work / "smoke", again.work / "smoke")
    if options.folder is None:
        shutil.rmtree(folder)
    print("different" if table.differs else "no number changes")
    return int(table.differs)


if __name__ == "__main__":
    sys.exit(main())
