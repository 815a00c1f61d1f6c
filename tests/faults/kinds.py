"""The faults: kills and signals, disks that refuse, clocks that jump, memory that ends, workers that hang."""

import errno
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from faults.machine import Machine, Process, Settings
from faults.stages import Lab
from faults.trials import Fault

REFUSED = frozenset({0, 2, 4})
"""Exit codes when a disk refuses: a write that can be done without may fail with a warning."""
FULL = (
    "no space left",
    "disk quota",
    "read-only",
    "input/output error",
    "disk i/o error",
    "disk is full",
    "needed",
    "only",
    "cannot be written",
)


# Kills and signals.


def _strike_at(group: bool, number: signal.Signals) -> Callable[[Lab, str, list[Process], random.Random], bool]:
    def strike(lab: Lab, stage: str, started: list[Process], draws: random.Random) -> bool:
        """Wait for a share of the CPU time that the stage takes: on a busy machine seconds would come too early."""
        victim = draws.choice(started)
        moment = draws.uniform(0.02, 0.98) * lab.seconds[stage] / len(started)
        while victim.poll() is None and _cpu_seconds(victim) < moment:
            time.sleep(0.003)
        return victim.signal(number, group=group)

    return strike


def _cpu_seconds(process: Process) -> float:
    total = 0.0
    for pid in process.members():
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def _at_operation(
    what: str, most_times: int, lab: Lab, stage: str, draws: random.Random, *, share: float = 1.0
) -> Settings:
    """Have the preloaded library act at a random file operation below the workspace."""
    at = draws.randint(1, max(1, round(share * lab.operations[stage])))
    return Settings(
        env={
            "FAULTS_PATH": str(lab.place), "FAULTS_WHAT": what, "FAULTS_AT": str(at), "FAULTS_TIMES": str(most_times),
        }
    )  # fmt: skip


def _preloaded(name: str, what: str, lasting: int = 0, **rules: object) -> Fault:
    return Fault(name, settings=partial(_at_operation, what, lasting), **rules)  # type: ignore[arg-type]


KILLED = frozenset({0, -signal.SIGKILL})
IN_A_ROW = 4
"""Kills of a trial: each but the first strikes a command that resumes."""
KILLS = (
    Fault("SIGKILL to the parent alone", strike=_strike_at(False, signal.SIGKILL), codes=KILLED | {1}, times=IN_A_ROW),
    Fault("SIGKILL to the group", strike=_strike_at(True, signal.SIGKILL), codes=KILLED | {1}, times=IN_A_ROW),
    _preloaded("SIGKILL to the group at a file operation", "kill", 1, codes=KILLED | {1}, times=IN_A_ROW),
    _preloaded("SIGKILL to the parent at a file operation", "kill_alone", 1, codes=KILLED | {1}, times=IN_A_ROW),
)
SIGNALS = tuple(
    Fault(
        f"{number.name}{' to the group' if group else ''}, as schedulers send it",
        strike=_strike_at(group, number),
        codes=frozenset({0, 1, 128 + number}),
        says=("interrupted",),
    )
    for number, group in ((signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGUSR1, False))
)


# Disks.


def _strike_disk(make: Callable[[Lab], None]) -> Callable[[Lab, str, list[Process], random.Random], bool]:
    def strike(lab: Lab, stage: str, started: list[Process], draws: random.Random) -> bool:
        moment = draws.uniform(0, 0.9) * lab.seconds[stage] / len(started)
        while started[0].poll() is None and _cpu_seconds(started[0]) < moment:
            time.sleep(0.003)
        make(lab)
        return started[0].poll() is None

    return strike


@contextmanager
def _mounted(lab: Lab, *words: str) -> Iterator[None]:
    lab.place.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, str(lab.place)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(lab.place)], check=True, capture_output=True)


def _on_tmpfs(lab: Lab, stage: str, draws: random.Random) -> object:
    return _mounted(lab, "-t", "tmpfs", "-o", "size=64m", "tmpfs")


BALLAST = ".ballast"


def _fill(lab: Lab) -> None:
    """Fill the small disk to its last page."""
    with suppress(OSError), (lab.place / BALLAST).open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def _drain(lab: Lab) -> None:
    (lab.place / BALLAST).unlink(missing_ok=True)


def _remount(how: str, lab: Lab) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(lab.place)], check=False, capture_output=True)


@contextmanager
def _on_loop_device(lab: Lab, stage: str, draws: random.Random) -> Iterator[None]:
    image = lab.folder / "disk"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    device = subprocess.run(["losetup", "-f", "--show", str(image)], check=True, capture_output=True, text=True)
    try:
        with _mounted(lab, device.stdout.strip()):
            yield
    finally:
        subprocess.run(["losetup", "-d", device.stdout.strip()], check=True, capture_output=True)


def _after_sync(lab: Lab, stage: str, draws: random.Random) -> Settings:
    """Have what the stage begins with on the disk: only what it writes itself may be lost."""
    subprocess.run(["sync", "-f", str(lab.place)], check=True)
    return Settings()


def _cut_power(lab: Lab) -> None:
    """Have ext4 stop as at a power cut: nothing more is written, not even its journal."""
    import fcntl

    handle = os.open(lab.place, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, 0x8004587D, (2).to_bytes(4, "little"))  # EXT4_IOC_SHUTDOWN, NOLOGFLUSH
    finally:
        os.close(handle)


def _restore_power(lab: Lab) -> None:
    """Mount the disk again, as after a start of the machine."""
    device = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", str(lab.place)], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["umount", str(lab.place)], check=True, capture_output=True)
    subprocess.run(["mount", device, str(lab.place)], check=True, capture_output=True)


DISKS = (
    Fault("full disk (tmpfs)", strike=_strike_disk(_fill), lift=_drain, place=_on_tmpfs, codes=REFUSED | {1}, says=FULL),
    Fault(
        "power cut (ext4 on a loop device)", settings=_after_sync, strike=_strike_disk(_cut_power), lift=_restore_power, place=_on_loop_device,
        codes=REFUSED | {1}, says=(*FULL, "structure needs cleaning", "cannot be"),
    ),
    Fault(
        "read-only disk from the start (tmpfs)",
        settings=lambda lab, stage, draws: (_remount("ro", lab), Settings())[1],
        lift=partial(_remount, "rw"), place=_on_tmpfs, codes=REFUSED | {1}, says=FULL,
    ),
)  # fmt: skip
PRELOADED_DISKS = (
    _preloaded("read-only from an operation on (EROFS)", str(errno.EROFS), codes=REFUSED | {1}, says=FULL),
    _preloaded("quota from an operation on (EDQUOT)", str(errno.EDQUOT), codes=REFUSED | {1}, says=FULL),
    _preloaded("full disk at one operation (ENOSPC)", str(errno.ENOSPC), 1, codes=REFUSED | {1}, says=FULL),
    _preloaded("EIO at one operation", str(errno.EIO), 1, codes=REFUSED | {1}, says=FULL),
    _preloaded("EIO when reading", "read", 1, codes=REFUSED | {1}),
    _preloaded("short writes", "short", codes=frozenset({0, 1})),
)


# Clock.


def _jumping_clock(lab: Lab, stage: str, draws: random.Random) -> Settings:
    seconds = draws.choice((3600, 86_400, 400 * 86_400))
    calls = draws.randint(3, 200)
    return Settings(
        env={
            "FAULTS_PATH": str(lab.place), "FAULTS_WHAT": "clock", "FAULTS_AT": str(seconds), "FAULTS_TIMES": str(calls),
        }
    )  # fmt: skip


CLOCK = Fault("clock jumps by an hour to a year, forth and back", settings=_jumping_clock, codes=frozenset({0, 1}))


# Memory.


def _find_cgroup() -> Path | None:
    """Return the memory control group of this process (version 1), if groups can be made below it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory")
    except (OSError, StopIteration):
        return None
    folder = Path(f"/sys/fs/cgroup/memory{own}")
    return folder if os.access(folder, os.W_OK) else None


CGROUP = _find_cgroup()


@contextmanager
def _small_group(lab: Lab, stage: str, draws: random.Random) -> Iterator[None]:
    assert CGROUP is not None
    folder = CGROUP / "faults"
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        for _ in range(100):
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.05)


def _in_small_group(lab: Lab, stage: str, draws: random.Random) -> Settings:
    # What a fork shares with the machine that it came from does not count: this is what it allocates itself.
    assert CGROUP is not None
    limit = draws.randint(8, 60) << 20
    (CGROUP / "faults" / "memory.limit_in_bytes").write_text(str(limit))
    return Settings(cgroup=CGROUP / "faults")


def _worker_of(process: Process) -> int | None:
    for pid in process.members():
        with suppress(OSError):
            if pid != process.pid and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def _wait_for_worker(process: Process) -> int | None:
    while process.poll() is None:
        if (worker := _worker_of(process)) is not None:
            return worker
        time.sleep(0.003)
    return None


def _starve_worker(lab: Lab, stage: str, started: list[Process], draws: random.Random) -> bool:
    """Move a worker into a group without memory: the kernel kills it as it kills any process that exceeds its group's."""
    worker = _wait_for_worker(started[0])
    if worker is None:
        return False
    time.sleep(draws.uniform(0, 0.5))
    assert CGROUP is not None
    (CGROUP / "faults" / "memory.limit_in_bytes").write_text(str(2 << 20))
    with suppress(OSError):
        (CGROUP / "faults" / "cgroup.procs").write_text(str(worker))
        return True
    return False


def _stop_worker(lab: Lab, stage: str, started: list[Process], draws: random.Random) -> bool:
    worker = _wait_for_worker(started[0])
    if worker is None:
        return False
    time.sleep(draws.uniform(0, 0.3))
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGSTOP)
        return True
    return False


def _limited_address_space(lab: Lab, stage: str, draws: random.Random) -> Settings:
    size = int(Path(f"/proc/{lab.machine.server.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return Settings(address_space=size + (draws.randint(1, 60) << 20))


LOST = frozenset({0, 1, 2, 4})
WITH_WORKERS = ("audit", "extract", "extract, SVD", "row")
MEMORY = Fault(
    "out of memory in the main process (cgroup)", settings=_in_small_group, place=_small_group, codes=KILLED | {1}
)
WORKER_MEMORY = Fault(
    "out of memory in a worker (cgroup)",
    strike=_starve_worker,
    place=_small_group,
    codes=LOST,
    says=("clip", "memory"),
    stages=WITH_WORKERS,
)
# Libraries in C++ abort the process if they cannot start a thread, and glibc ends it with 127; no Python runs after that.
ADDRESS_SPACE = Fault(
    "out of memory in the main process (RLIMIT_AS)",
    settings=_limited_address_space,
    codes=LOST | {-signal.SIGABRT, 127},
    says=("memory",),
)
HANGING_WORKER = Fault(
    "a worker that hangs (SIGSTOP)", settings=lambda *_: Settings(hang_limit=3.0), strike=_stop_worker, codes=LOST,
    says=("clip", "no frame"), stages=WITH_WORKERS,
)  # fmt: skip


# MLflow.


class _Deaf:
    """Listens on a port and never answers."""

    @cached_property
    def socket(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0))


_deaf = _Deaf()


def _tracking_at(where: Callable[[Lab], str]) -> Callable[[Lab, str, random.Random], Settings]:
    return lambda lab, stage, draws: Settings(env={"MLFLOW_TRACKING_URI": where(lab)})


MLFLOW = tuple(
    Fault(
        name,
        settings=_tracking_at(where),
        codes=frozenset({0}),
        warns="MLFLOW_TRACKING_URI",
        stages=("record", "train"),
    )
    for name, where in (
        ("MLflow's server is gone", lambda lab: "http://127.0.0.1:9"),
        ("MLflow's server answers nonsense", lambda lab: lab.server),
        ("MLflow's server does not answer", lambda lab: f"http://127.0.0.1:{_deaf.socket.getsockname()[1]}"),
    )
)


# What can be tried on this machine.


@dataclass(frozen=True, slots=True)
class Available:
    """The faults that this machine allows."""

    kills: tuple[Fault, ...]
    others: tuple[Fault, ...]
    skipped: dict[str, str]
    """Why each other fault cannot be tried."""


def list_available(machine: Machine) -> Available:
    kills, others, skipped = [*KILLS[:2]], [*SIGNALS, ADDRESS_SPACE, HANGING_WORKER, *MLFLOW], {}
    if machine.library is not None:
        kills += KILLS[2:]
        others += [*PRELOADED_DISKS, CLOCK]
    else:
        skipped |= {fault.name: "no C compiler" for fault in (*KILLS[2:], *PRELOADED_DISKS, CLOCK)}
    for fault in DISKS:
        reason = _why_no_disk(fault is DISKS[1])
        if reason:
            skipped[fault.name] = reason
        else:
            others.append(fault)
    for fault in (MEMORY, WORKER_MEMORY):
        if CGROUP is None:
            skipped[fault.name] = "no memory control group (version 1) that can be written"
        else:
            others.append(fault)
    return Available(tuple(kills), tuple(others), skipped)


@cache
def _why_no_disk(loop: bool) -> str:
    """Return why no small disk can be mounted; empty if one can."""
    if os.geteuid():
        return "only root mounts"
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image"
        try:
            if loop:
                with image.open("wb") as file:
                    file.truncate(8 << 20)
                subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
                words = ["mount", "-o", "loop", str(image), folder]
            else:
                words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
            subprocess.run(words, check=True, capture_output=True)
            subprocess.run(["umount", folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return f"no {'loop device' if loop else 'tmpfs'} can be mounted"
    return ""
