"""The stages of a row's way, each on clips so few that it takes a second or two, and what must come out of each.

All run at one path, because a workspace's database and cached hashes name it; a stage begins with a copy of what another left.
"""

import hashlib
import json
import re
import shutil
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from builders import tiny_project
from builders.fileserver import serve_file
from faults.machine import Machine, Process, Settings

from repro.core.files import try_lock_file
from repro.features.packed import array_path

LIMIT = 300.0
"""Seconds after which a command counts as hanging; the slowest takes a few on an idle machine."""
DATA = "animal_kingdom"
SVD = ("--timesteps", "20", "--layers", "1,9")
Contents = dict[str, str]
"""What a workspace holds: a digest by path."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, or several started together."""

    commands: tuple[tuple[str, ...], ...]
    after: str = ""
    """The stage that left the workspace in which it begins; empty: a workspace with checkpoints alone."""
    alter: Callable[[Path], None] = field(default=lambda place: None)
    """Changes that workspace."""
    done: str = ""
    """Part of the message with which it refuses to run again when it had finished; empty: it runs again."""
    unpacked: bool = False
    """Whether the stage before leaves one file a clip, as if another process packed them."""


def _delete(*patterns: str) -> Callable[[Path], None]:
    def alter(place: Path) -> None:
        for pattern in patterns:
            for path in place.glob(pattern):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return alter


def _extract(*more: str) -> tuple[str, ...]:
    return ("extract", DATA, "--backbone", "vjepa", "--workers", "1", *more)


ROW = "ak_unseen_vjepa"
STAGES: dict[str, Stage] = {
    "fetch": Stage(
        (("fetch", "charades_1to1_videomaev2", "--accept-license", "--from", "SERVER/"),), alter=_delete("checkpoints")
    ),
    "prepare": Stage((("data", "prepare", DATA, "--from", "MIRROR"),)),
    "audit": Stage((("data", "audit", DATA, "--workers", "1"),), "prepare"),
    "extract": Stage((_extract(),), "audit"),
    "extract, SVD": Stage((("extract", DATA, "--backbone", "svd_xt", *SVD, "--workers", "1"),), "row"),
    "shards": Stage((_extract("--shard", "1/2"), _extract("--shard", "2/2")), "audit"),
    "pack": Stage((_extract(),), "extract", unpacked=True),
    "row": Stage(((ROW, "--workers", "1"),), "audit"),
    "row, all clips": Stage((_extract(),), "row"),
    "train": Stage((("readout", ROW, "--seeds", "3"),), "row"),
    "record": Stage((("readout", ROW),), "row", _delete("runs/*/*/record.json")),
    "grid": Stage((("grid", "ak_unseen", *SVD, "--workers", "1"),), "extract, SVD"),
    "MLflow": Stage((("track",),), "train", _delete("mlflow.db", "mlartifacts")),
    "check": Stage((("check",),), "train", _delete("rescored.jsonl")),
    "bundle": Stage((("bundle", ROW, "--output", "PLACE/bundle.zip"),), "row", done="exists: name another file"),
    "report": Stage((("report",),), "train"),
}


@dataclass
class Lab:
    """Runs stages. `place` is the workspace of all of them, one after the other."""

    machine: Machine
    folder: Path
    mirror: Path
    """The publishers' files."""
    server: str
    """Address that serves them."""
    ends: dict[str, Path] = field(default_factory=dict)
    expected: dict[str, Contents] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long a stage takes undisturbed."""
    operations: dict[str, int] = field(default_factory=dict)
    """File operations of its first command below the workspace."""

    @property
    def place(self) -> Path:
        return self.folder / "place"

    def start(self, name: str, settings: Settings | None = None) -> list[Process]:
        """Start a stage's commands in `place`."""
        return [self.start_command(words, settings) for words in STAGES[name].commands]

    def start_command(self, words: Sequence[str], settings: Settings | None = None) -> Process:
        settings = settings or Settings()
        env = {"REPRO_WORKSPACE": str(self.place), "no_proxy": "127.0.0.1", **settings.env}
        changed = {"PLACE": str(self.place), "MIRROR": str(self.mirror), "SERVER": self.server}
        filled = [re.sub("PLACE|MIRROR|SERVER", lambda found: changed[found[0]], word) for word in words]
        return self.machine.start(filled, replace(settings, env=env))

    def run(self, name: str) -> list[Process]:
        """Run a stage to its end, undisturbed."""
        started = self.start(name)
        for process in started:
            process.wait(LIMIT)
        return started

    def begin(self, name: str) -> None:
        """Make `place` what a stage begins with."""
        self.empty_place()
        stage = STAGES[name]
        if stage.unpacked:
            self._run_unpacked(stage.after)
        elif stage.after:
            self.undisturbed(stage.after)
            self.empty_place()
            _copy(self.ends[stage.after], self.place)
        else:
            (self.place / "checkpoints").symlink_to(self.machine.project / "workspace" / "checkpoints")
        stage.alter(self.place)

    def _run_unpacked(self, name: str) -> None:
        self.undisturbed(name)
        kept = self.folder / "ends" / f"{name}, unpacked"
        if not kept.exists():
            (collection,) = (path.parent for path in self.ends[name].glob("features/*/*/packed"))
            self.begin(name)
            here = self.place / collection.relative_to(self.ends[name])
            here.mkdir(parents=True)
            with try_lock_file(here / ".pack.lock") as acquired:
                assert acquired
                _require_ok(self.run(name))
            _copy(self.place, kept)
        self.empty_place()
        _copy(kept, self.place)

    def empty_place(self) -> None:
        # What is in it, not the folder: a small disk may be mounted on it.
        self.place.mkdir(exist_ok=True)
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def undisturbed(self, name: str) -> Contents:
        """Run a stage undisturbed, the first time; returns what it left."""
        if name not in self.expected:
            self.begin(name)
            count = self.folder / "operations"
            settings = Settings(env={"FAULTS_PATH": str(self.place), "FAULTS_WHAT": "count", "FAULTS_FILE": str(count)})
            started = self.start(name, settings)
            _require_ok(started)
            self.seconds[name] = sum(process.cpu for process in started)
            self.operations[name] = int(count.read_text()) if count.exists() else 0
            self.expected[name] = describe_contents(self.place)
            self.ends[name] = self.folder / "ends" / name
            _copy(self.place, self.ends[name])
        return self.expected[name]


def open_lab(folder: Path, stack: ExitStack) -> Lab:
    """Make the small project, serve its files, and start the machine that forks commands."""
    project, mirror = folder / "project", folder / "mirror"
    workspace = tiny_project.make(project, (DATA, "charades_ego"))
    mirror.mkdir()
    # The size that is stated is that of the served files: they must fit on a small disk.
    config = project / "configs" / "datasets" / "charades_ego.yaml"
    config.write_text(re.sub(r"size: about \d+ GB", "size: 1 MB", config.read_text()))
    ego, kingdom = workspace.data / "charades_ego", workspace.data / DATA
    with zipfile.ZipFile(mirror / "CharadesEgo.zip", "w") as archive:
        for path in sorted((ego / "CharadesEgo").rglob("*.csv")) + sorted((ego / "CharadesEgo").glob("*.txt")):
            archive.write(path, path.relative_to(ego))
    with tarfile.open(mirror / "CharadesEgo_v1_480.tar", "w") as tar:
        tar.add(ego / "CharadesEgo_v1_480", "CharadesEgo_v1_480")
    with tarfile.open(mirror / "video.tar.gz", "w:gz") as tar:
        tar.add(kingdom / "video", "video")
    shutil.copy(kingdom / "AR_metadata.xlsx", mirror)
    served = {f"/{path.name}": path.read_bytes() for path in mirror.iterdir()}
    served |= {f"/{path.name}": path.read_bytes() for path in workspace.checkpoints.glob("*videomae*")}
    for name in (
        "CharadesEgo.zip",
        "CharadesEgo_v1_480.tar",
    ):  # `prepare` is given the folder, with its own files alone
        (mirror / name).unlink()
    server = stack.enter_context(serve_file(contents=served))
    machine = stack.enter_context(Machine(project, folder))
    return Lab(machine, folder, mirror, server.url)


def _require_ok(started: list[Process]) -> None:
    for process in started:
        code = process.wait(LIMIT)
        assert code in (0, 5) or (code == 1 and "check" in process.output), (code, process.output, process.errors)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


# What must be equal.

TIMES = {"made", "started", "ended", "seconds", "date", "created"}
"""Keys of JSON that state when or how fast something was made."""
CACHES = frozenset(
    {
        "hashes.jsonl",
        "rates.json",
        "rescored.jsonl",
        "computed.jsonl",
        "journal.jsonl",
        ".prepared.json",
        "training.jsonl",
    }
)
"""Files that hold measured times or the time stamps of other files, and may miss what a killed process had measured."""


LEFT_OUT = ("checkpoints/", "mlartifacts/", "status/", "features/spent/", "spent/")
"""Folders that are not compared: what a stage reads, the database's files, and logs of attempts, a file each."""


def describe_contents(place: Path) -> Contents:
    """Return a digest of each file in a workspace, leaving out times; of the database, what it says of the runs."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_symlink() or path.is_dir() or (name.startswith(LEFT_OUT) and ".partial/" not in name):
            continue
        # A lock's file stays, as deleting it would let two processes hold it.
        if path.name.endswith(".lock") or path.name in CACHES:
            continue
        if name == "mlflow.db":
            found[name] = json.dumps(describe_database(path))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                found |= {f"{name}/{one}": _digest(one, archive.read(one)) for one in archive.namelist()}
        elif path.parent.name == "packed" and path.suffix == ".parquet":
            found[name] = _describe_pack(path)
        elif path.parent.name == "packed" and path.suffix == ".npy":
            # Its name has a hash of the index. One that was being read when it was superseded goes with the next packing.
            cell = path.stem.rsplit("-", 1)[0]
            if path == array_path(path.parent, cell):
                found[f"{name.rsplit('/', 1)[0]}/{cell}.npy"] = _digest(name, path.read_bytes())
        else:
            found[name] = _digest(name, path.read_bytes())
    return found


def _describe_pack(path: Path) -> str:
    """Return the index of packed clips, without how each was computed: of several processes, any may be the one that stores a clip."""
    with pq.ParquetFile(path) as file:
        return json.dumps(file.read().drop_columns(["origins"]).to_pylist())


def _digest(name: str, content: bytes) -> str:
    if name.endswith(".json"):
        value = json.loads(content)
        if isinstance(value, dict) and TIMES & {*value}:
            value.pop("sha256", None)  # a signed file's own, of its time too
        content = json.dumps(_without_times(value), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def describe_database(path: Path) -> list[str]:
    """Return the finished runs of this project with their last metrics."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(
            "select t.value, m.key, m.value from runs r join tags t using (run_uuid) left join latest_metrics m using (run_uuid) "
            "where t.key = 'repro.run' and r.status = 'FINISHED' and r.lifecycle_stage = 'active'"
        )
        return sorted(json.dumps(row) for row in rows)
