"""Many clips, many kills: does an extraction of weeks keep its pace? `python benchmarks/soak.py --folder FOLDER --clips 1000,10000`.

Short clips of H.264 are drawn and written; each file has bytes, and so a sha256, of its own. `repro extract` computes their features
with the backbone of mean colours, whose cost is that of decoding and storing, and is killed every minute with all its processes. Time,
also that of the kills, is CPU time of all processes of a run, so that other users of the machine do not count.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from repro.core.files import try_lock_file
from repro.features.collection import folder_collection
from repro.smoke import clips
from repro.video.synthetic import scenes

DISTINCT = 12
"""Drawn clips; every file is one of them with a number behind its last box."""
FRAMES = 24
SIZE = 96
POLL = 2.0
"""Seconds between two looks at a running extraction."""
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def write_videos(folder: Path, count: int) -> None:
    """Write `count` different clips, a hundred a folder as data sets have them."""
    drawn = []
    for number, scene in enumerate(scenes.smoke_scenes()[:DISTINCT]):
        path = folder.with_name(f"drawn{number}.mp4")
        short = dataclasses.replace(scene, frames=FRAMES, height=SIZE, width=SIZE, seed=number)
        clips.encode_scene(path, short)
        drawn.append(path.read_bytes())
        path.unlink()
    for number in range(count):
        path = folder / f"{number // 100:04}" / f"{number:06}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A `free` box, which players skip.
        path.write_bytes(drawn[number % DISTINCT] + struct.pack(">I4sI", 12, b"free", number))


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a session use."""

    cpu: float
    """Seconds since they started, with those that have ended."""
    parent: int
    """Private memory of the main process in bytes."""
    workers: int
    """Of its largest child."""


def read_usage(session: int) -> Usage:
    cpu, memory = 0, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                cpu += sum(map(int, fields[11:15]))
                resident, shared = map(int, (stat.with_name("statm")).read_text().split()[1:3])
                memory[int(stat.parent.name)] = (resident - shared) * PAGE
        except (OSError, IndexError):  # it has ended
            continue
    parent = memory.pop(session, 0)
    return Usage(cpu / TICK, parent, max(memory.values(), default=0))


@dataclass(slots=True)
class Run:
    """One `repro extract`, to its end or its kill."""

    killed: bool = False
    stored: list[tuple[int, Usage]] = field(default_factory=list)
    """Clips stored, and what the processes had used by then."""

    def clips_per_cpu_second(self) -> float | None:
        """Clips stored by CPU second, from the first stored one on: loading libraries and looking for what is there not counted."""
        working = [point for point, after in zip(self.stored, self.stored[1:], strict=False) if after[0] > point[0]]
        if len(working) < 3:
            return None
        (first, start), (last, end) = working[1], working[-1]
        return (last - first) / (end.cpu - start.cpu) if end.cpu > start.cpu else None


def count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def extract(videos: Path, workspace: Path, kill_after: float, log: Path) -> Run:
    """Run `repro extract` and sample it; kill all its processes when they have used so many seconds of CPU."""
    words = ["extract", str(videos), "--backbone", "mean_colour", "--workers", "1", "--device", "cpu"]
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "repro", *words, "--workspace", str(workspace)],
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        run = Run()
        while process.poll() is None:
            time.sleep(POLL)
            usage = read_usage(process.pid)
            if usage.parent:
                run.stored.append((count_files(workspace / "features"), usage))
            if usage.cpu > kill_after and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                run.killed = True
    assert run.killed or process.returncode == 0, log.read_text()[-2000:]
    return run


def time_command(*words: str) -> tuple[float, str]:
    """Run a command to its end; returns its CPU seconds and what it printed."""
    before = os.times()
    done = subprocess.run([sys.executable, "-m", "repro", *words], capture_output=True, text=True, check=False)
    after = os.times()
    assert done.returncode == 0, done.stderr
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, done.stdout + done.stderr


@contextmanager
def packing_elsewhere(videos: Path, workspace: Path, key: str) -> Iterator[None]:
    """Keep extractions of `videos` from packing, as another process that packs does."""
    collection = workspace / "features" / key / folder_collection(videos).name
    collection.mkdir(parents=True)
    with try_lock_file(collection / ".pack.lock") as acquired:
        assert acquired
        yield


def soak(folder: Path, count: int, kill_every: float) -> dict[str, float]:
    """Extract, resume, pack and check `count` clips; returns the figures."""
    videos, workspace, log = folder / "videos", folder / "workspace", folder / "log"
    write_videos(videos, count)
    single = folder / "single" / "000000.mp4"
    single.parent.mkdir()
    shutil.copy(videos / "0000" / "000000.mp4", single)
    options = ("--backbone", "mean_colour", "--workspace")
    time_command("extract", str(single), *options, str(folder / "small"))
    start_up = min(time_command("extract", str(single), *options, str(folder / "small"))[0] for _ in range(3))
    verify_up = min(time_command("verify", "--store", *options[2:], str(folder / "small"))[0] for _ in range(3))

    (key,) = (path.name for path in (folder / "small" / "features").iterdir())
    # Killed until all clips are stored; packing is timed on its own.
    runs: list[Run] = []
    with packing_elsewhere(videos, workspace, key):
        while not runs or runs[-1].killed:
            runs.append(extract(videos, workspace, kill_every, log))
        resuming, _ = time_command("extract", str(videos), *options, str(workspace))
    packing, printed = time_command("extract", str(videos), *options, str(workspace))
    assert f"{count} clips' features" in printed, printed
    listing, printed = time_command("extract", str(videos), *options, str(workspace))
    assert f"reused all {count}" in printed, printed
    checking, printed = time_command("verify", "--store", "--workspace", str(workspace), "--json")
    assert json.loads(printed)["damaged"] == []
    rates = [rate for run in runs if (rate := run.clips_per_cpu_second()) is not None]
    part = max(1, len(rates) // 4)
    parents = [usage.parent for run in runs for _, usage in run.stored]
    workers = [usage.workers for run in runs for _, usage in run.stored]
    third = max(1, len(parents) // 3)
    return {
        "kills": sum(run.killed for run in runs),
        "unfinished files left": len([*workspace.rglob("*.partial*")]),
        "clips per CPU second, first quarter": statistics.mean(rates[:part]),
        "clips per CPU second, last quarter": statistics.mean(rates[-part:]),
        "last / first": statistics.mean(rates[-part:]) / statistics.mean(rates[:part]),
        "main process at most, first third, MB": max(parents[:third]) / 1e6,
        "main process at most, last third, MB": max(parents[-third:]) / 1e6,
        "decoder at most, first third, MB": max(workers[:third]) / 1e6,
        "decoder at most, last third, MB": max(workers[-third:]) / 1e6,
        "list and reuse packed, CPU ms per clip": 1000 * (listing - start_up) / count,
        "resume with all stored, CPU ms per clip": 1000 * (resuming - start_up) / count,
        "pack, CPU ms per clip": 1000 * (packing - resuming) / count,
        "verify --store, CPU ms per clip": 1000 * (checking - verify_up) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="does not exist yet; deleted at the end")
    parser.add_argument("--clips", default="1000,10000,30100")
    parser.add_argument("--kill-every", type=float, default=60.0, metavar="CPU_SECONDS")
    options = parser.parse_args()
    if options.folder.exists():
        parser.error(f"--folder {options.folder}: exists already, and would be deleted: name a new one")
    for count in map(int, options.clips.split(",")):
        options.folder.mkdir(parents=True)
        try:
            started = time.monotonic()
            figures = soak(options.folder, count, options.kill_every)
            figures["wall time, minutes"] = (time.monotonic() - started) / 60
            for name, value in figures.items():
                print(f"{count:<7} {name:<42} {value:10.3f}", flush=True)
        finally:
            shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
