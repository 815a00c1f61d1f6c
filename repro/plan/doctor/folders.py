"""Checks of the workspace's folders: writing, free disk, locks, the file system's clock, mounts and containers."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.core.disk import describe_disk_error, find_disk_errno, format_size
from repro.core.errors import ReproError
from repro.core.locks import wait_for_lock
from repro.core.reading import read_text
from repro.core.workspace import Workspace
from repro.plan.amounts import Amount, sum_amounts
from repro.plan.doctor.finding import Finding, FindingState, Subject
from repro.plan.doctor.probes import start_probe

MOST_SKEW = 2.0
"""Seconds between the clocks of this machine and of the file system that pass unreported: some file systems have times of 2 s."""
SCARCE = 10e9
"""Bytes of free disk below which a machine without a row is warned of: one checkpoint."""
OVERLAYS = ("overlay", "fuse-overlayfs", "aufs")
"""Types of the root file system of containers, whose changes end with the container."""
MOUNTS = Path("/proc/self/mounts")
BUILT = 1_757_548_800.0
"""When the paper appeared (2025-09-11), in seconds since 1970: a clock that is earlier is wrong."""
SET_CLOCK = "set the clocks (NTP): evidence whose times contradict each other is not judged"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    place: Path
    type: str
    read_only: bool


def find_existing(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists; a file among them if it is in the way."""
    return next(place for place in (path, *path.parents) if place.exists())


def check_workspace(subject: Subject) -> Iterator[Finding]:
    """Write a file in the workspace, or where it would be created, and delete it."""
    root = subject.workspace.root
    folder = find_existing(root)
    where = str(root) if folder == root else f"{root}, to be created in {folder},"
    try:
        # Written to, not asked about: permissions say nothing of a full disk or a read-only mount.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"doctor")
            file.flush()
    except OSError as error:
        number = find_disk_errno(error)
        reason, _, remedy = describe_disk_error(None, number).partition(": ") if number else (str(error), "", "")
        what = f"{where} cannot be written ({reason})"
        scratch = subject.environment.get("REPRO_SCRATCH", "")
        # In the image, the smoke job needs no folder of the user; a row does.
        if subject.row is None and scratch and os.access(scratch, os.W_OK):
            remedy = f"{remedy}; `repro smoke` alone works in {scratch}"
            yield Finding("workspace", "warn", what, remedy)
        else:
            yield Finding("workspace", "fail", what, remedy or "name another folder with --workspace")
        return
    yield Finding("workspace", "ok", f"{where} can be written")


def check_locks(subject: Subject) -> Iterator[Finding]:
    """Hold a lock in the workspace while another process tries to take it, then free it for one more."""
    folder = find_existing(subject.workspace.root)
    try:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".doctor-", suffix=".partial")
    except OSError:  # check_workspace has said why
        yield Finding("locks", "warn", f"not tried: {folder} cannot be written")
        return
    os.close(descriptor)
    try:
        yield _contend_for_lock(Path(name))
    finally:
        Path(name).unlink(missing_ok=True)


def _contend_for_lock(path: Path) -> Finding:
    remedy = "use a workspace on a file system with locks (docs/design.md); on NFS, mount it without nolock"
    try:
        # Held here while a second process tries: on some mounts both would get it.
        with wait_for_lock(path, lambda: None, deadline=time.monotonic()):
            held = _try_lock(path)
        freed = _try_lock(path)
    except (ReproError, TimeoutError) as error:
        return Finding("locks", "fail", str(error).partition(": use a workspace")[0], remedy)
    problem = held["problem"] or freed["problem"]
    if problem:
        return Finding("locks", "fail", str(problem), remedy)
    if held["taken"] or not freed["taken"]:
        what = "two processes hold one lock" if held["taken"] else "a lock that was freed stays taken"
        return Finding("locks", "fail", f"{what} in {path.parent}", remedy)
    return Finding("locks", "ok", "of two processes, one waits for the other")


def _try_lock(path: Path) -> dict[str, object]:
    probe = start_probe("lock", str(path))
    return dict(probe.facts().get("lock", {"problem": probe.failure, "taken": False}))


def check_clock(subject: Subject) -> Iterator[Finding]:
    """Compare the time that the workspace's file system gives a new file with this machine's clock."""
    folder = find_existing(subject.workspace.root)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", suffix=".partial") as file:
            before = time.time()
            file.write(b"doctor")
            file.flush()
            written = Path(file.name).stat().st_mtime
    except OSError:
        yield Finding("clock", "warn", f"not compared: {folder} cannot be written")
        return
    yield judge_clock(written - before, before)


def judge_clock(skew: float, now: float) -> Finding:
    """Judge a clock.

    Args:
        skew: Seconds by which the file system's clock is ahead.
        now: Seconds since 1970, by this machine's clock.
    """
    if now < BUILT:
        return Finding(
            "clock", "warn", f"it is {time.strftime('%Y-%m-%d', time.gmtime(now))} by this machine's clock", SET_CLOCK
        )
    if abs(skew) > MOST_SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        return Finding(
            "clock", "warn", f"the file system's clock is {abs(skew):.0f} s {ahead} this machine's", SET_CLOCK
        )
    return Finding("clock", "ok", "the file system's clock agrees with this machine's")


def check_mounts(subject: Subject) -> Iterator[Finding]:
    """Report the container, folders that end with it, and folders that cannot be written."""
    container = describe_container(subject.environment)
    try:
        mounts = parse_mounts(read_text(MOUNTS, errors="surrogateescape"))
    except OSError:  # no Linux
        mounts = []
    yield from judge_mounts(subject.workspace, mounts, container)


def describe_container(environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """Return docker, podman, apptainer or kubernetes; an empty string outside of containers."""
    if {"APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"} & set(environment) or (root / ".singularity.d").is_dir():
        return "apptainer"
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    if (root / "run" / ".containerenv").exists():
        return "podman"
    return "docker" if (root / ".dockerenv").exists() else ""


def parse_mounts(text: str) -> list[Mount]:
    """Parse /proc/self/mounts; a later line covers an earlier one of the same place."""
    found = []
    for line in text.split("\n"):
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        # Spaces, tabs, newlines and backslashes are octal escapes.
        place = re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), fields[1])
        found.append(Mount(Path(place), fields[2], "ro" in fields[3].split(",")))
    return found


def find_mount(path: Path, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that a path is on; None if none is known."""
    above = [mount for mount in mounts if mount.place == path or mount.place in path.parents]
    longest = max((len(mount.place.parts) for mount in above), default=0)
    return next((mount for mount in reversed(above) if len(mount.place.parts) == longest), None)


def judge_mounts(workspace: Workspace, mounts: Sequence[Mount], container: str) -> Iterator[Finding]:
    """Judge where the folders of a workspace are mounted."""
    yield Finding("container", "ok", f"in a container ({container})" if container else "in no container that is known")
    for name, folder in (
        ("workspace", workspace.root),
        ("data", workspace.data),
        ("checkpoints", workspace.checkpoints),
    ):
        if name != "workspace" and workspace.root in folder.parents:
            continue
        mount = find_mount(Path(os.path.realpath(folder)), mounts)
        if mount is None:
            continue
        if container and (mount.type in OVERLAYS or mount.place == Path("/")):
            what = f"{folder} is on the container's own file system: what is written there ends with it"
            how = f"--bind FOLDER:{folder} (apptainer)" if container == "apptainer" else f"-v FOLDER:{folder}"
            yield Finding(f"mount {name}", "warn", what, f"start the container with {how}")
        elif mount.read_only:
            # Read-only data and checkpoints are usual on clusters: what is missing is another check's.
            state: FindingState = "fail" if name == "workspace" else "ok"
            remedy = f"mount {mount.place} for writing, or name another folder with --workspace"
            yield Finding(
                f"mount {name}",
                state,
                f"{folder} is mounted read-only ({mount.type})",
                remedy if state == "fail" else "",
            )
        else:
            yield Finding(f"mount {name}", "ok", f"{folder} is on {mount.type}, mounted at {mount.place}")


def check_disk(subject: Subject) -> Iterator[Finding]:
    """Compare free disk with what the row still writes, on each file system."""
    workspace = subject.workspace
    needs: dict[Path, tuple[float, float]] = {workspace.root: (0.0, 0.0)}
    plan = subject.plan
    if plan is None and subject.row is not None:
        remedy = f"`repro plan {subject.row.argument}` says why"
        yield Finding("disk", "warn", "what the row takes cannot be estimated", remedy)
    if plan is not None:
        for download in plan.downloads:
            folder = workspace.data if download.kind == "data" else workspace.checkpoints
            parts = sum_amounts([download.bytes_to_download, download.bytes_unpacked])
            _add_need(needs, folder, parts, parts)
        features = sum_amounts(job.disk for job in plan.jobs)
        # While features are packed, they are on disk twice.
        _add_need(needs, workspace.root, features, features and features.times(2))
        _add_need(needs, workspace.root, plan.readouts.disk, plan.readouts.disk)
    by_device: dict[int, tuple[Path, float, float]] = {}
    for folder, (least, most) in needs.items():
        place = find_existing(folder)
        first, before, before_most = by_device.get(place.stat().st_dev, (place, 0.0, 0.0))
        by_device[place.stat().st_dev] = (first, before + least, before_most + most)
    for place, least, most in by_device.values():
        yield judge_disk(place, shutil.disk_usage(place).free, least, most)


def _add_need(needs: dict[Path, tuple[float, float]], folder: Path, least: Amount | None, most: Amount | None) -> None:
    before = needs.get(folder, (0.0, 0.0))
    needs[folder] = (before[0] + (least.likely if least else 0), before[1] + (most.most if most else 0))


def judge_disk(place: Path, free: int, least: float, most: float) -> Finding:
    """Compare free bytes with the likely need, and with the most, which counts features twice."""
    found = f"{format_size(free)} free at {place}"
    if most:
        found += f"; the row takes about {format_size(round(least))}, {format_size(round(most))} at most"
    remedy = (
        "free space, or choose another disk with --workspace (REPRO_DATA and REPRO_CHECKPOINTS name folders elsewhere)"
    )
    if free < least:
        return Finding("disk", "fail", found, remedy)
    return Finding("disk", "warn", found, remedy) if free < max(most, SCARCE) else Finding("disk", "ok", found)
