"""Commands of the project as real processes, without paying for their start: forks of a process that has imported what they use.

A fork leads a session, and so a process group, of its own, and ends as a process that `repro` started does. `preload.c`, which
fails its file operations, is loaded if there is a C compiler.
"""

import atexit
import ctypes
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODULES = (
    "av", "decord", "diffusers.models", "matplotlib.figure", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "pyarrow.parquet",
    "scipy.stats", "sklearn.metrics", "torch", "repro.backbones.registry", "repro.backbones.svd.with_diffusers",
    "repro.backbones.vit.vjepa", "repro.cli.judge.bundle", "repro.cli.judge.check", "repro.cli.judge.report", "repro.cli.run",
    "repro.datasets.audit", "repro.datasets.prepare", "repro.fetch.bring", "repro.pipeline.bundle.make",
    "repro.pipeline.grid.grid", "repro.pipeline.row", "repro.records.mlflow_database", "repro.report.page",
)  # fmt: skip
"""Imported once, before the forks."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a process is started."""

    env: Mapping[str, str] = field(default_factory=dict)
    cgroup: Path | None = None
    """Folder of a control group that it joins."""
    address_space: int = 0
    """Bytes it may map; 0: any number."""
    hang_limit: float = 0.0
    """Seconds after which its decoders count as hung; 0: as shipped."""


@dataclass(slots=True)
class Process:
    """A started command."""

    machine: "Machine"
    pid: int
    folder: Path
    """Where its output is stored."""
    code: int | None = None
    """Exit code; minus the signal that ended it."""
    cpu: float = 0.0
    """Seconds of CPU time that it used, with the workers that it waited for."""

    def poll(self) -> int | None:
        if self.code is None and (ended := self.machine.request({"poll": self.pid})):
            self.code, self.cpu = ended
        return self.code

    def wait(self, limit: float) -> int | None:
        """Wait for its end; None if it has not ended after `limit` seconds."""
        end = time.monotonic() + limit
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.code

    def signal(self, number: signal.Signals, *, group: bool = False) -> bool:
        """Send a signal to it, or to its group; returns whether it was still running."""
        if self.poll() is not None:
            return False
        (os.killpg if group else os.kill)(self.pid, number)
        return True

    @property
    def errors(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def output(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    def members(self) -> list[int]:
        """Ids of the running processes of its session."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found


class Machine:
    """The process that forks commands; use it in a `with`.

    Args:
        project: Folder with the package `repro` and its configs.
        scratch: A folder for the library and the processes' output.
    """

    def __init__(self, project: Path, scratch: Path) -> None:
        self.project, self.scratch = project, scratch
        self.started = 0
        self.library = self._compile_library()

    def _compile_library(self) -> Path | None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            return None
        library = self.scratch / "preload.so"
        words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "preload.c"), "-ldl"]
        return library if subprocess.run(words, capture_output=True, check=False).returncode == 0 else None

    def __enter__(self) -> "Machine":
        env = {**os.environ, "PYTHONPATH": str(self.project), "OMP_NUM_THREADS": "1"}
        if self.library is not None:
            env["LD_PRELOAD"] = str(self.library)
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "machine.py")],
            cwd=self.project, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stdin.close()  # type: ignore[union-attr]
        self.server.wait()
        self.server.stdout.close()  # type: ignore[union-attr]

    def request(self, value: Mapping[str, Any]) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(value) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, words: Sequence[str], settings: Settings | None = None) -> Process:
        """Start `repro WORDS`."""
        settings = settings or Settings()
        self.started += 1
        folder = self.scratch / "output" / str(self.started)
        folder.mkdir(parents=True)
        pid = self.request(
            {
                "words": list(words), "env": dict(settings.env), "folder": str(folder),
                "cgroup": settings.cgroup and str(settings.cgroup), "address_space": settings.address_space,
                "hang_limit": settings.hang_limit,
            }
        )  # fmt: skip
        return Process(self, pid, folder)


# What runs in the forking process.


def serve() -> Callable[[], int]:
    """Fork for every request. Returns only in a fork: the command to run there, after which it ends as any process does."""
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in requests:
        request = json.loads(line)
        if "poll" in request:
            pid, status, used = os.wait4(request["poll"], os.WNOHANG)
            answer = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime] if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                answers.close()
                return prepare_command(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


def prepare_command(request: Mapping[str, Any]) -> Callable[[], int]:
    os.setsid()
    folder = Path(request["folder"])
    for descriptor, path in ((0, Path(os.devnull)), (1, folder / "stdout"), (2, folder / "stderr")):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["cgroup"]:
        (Path(request["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
    if request["address_space"]:
        resource.setrlimit(resource.RLIMIT_AS, (request["address_space"],) * 2)
    if request["hang_limit"]:
        from repro.video import decoders, probe

        decoders.Decoders.__init__.__defaults__ = (1, request["hang_limit"])
        probe.probe_all.__defaults__ = (request["hang_limit"],)
    sys.argv = ["repro", *request["words"]]
    os.environ.update(request["env"])  # last, as the preloaded library heeds it from here on
    from repro.__main__ import run
    from repro.core.stopping import raise_on_signals

    raise_on_signals()
    return lambda: run(request["words"])


def main() -> None:
    import importlib

    del sys.path[0]  # this folder
    from repro.core.workspace import quiet_libraries

    quiet_libraries()
    for name in MODULES:
        importlib.import_module(name)
    # A fork that walks all objects, as the collector does, would copy the memory of all of them.
    gc.collect()
    gc.freeze()
    code = serve()()
    # As a process ends, but without taking down every module.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).exit(code)


if __name__ == "__main__":
    main()
