"""Checks of what is installed: Python, the lock, torch, decoders, the implementation of SVD."""

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

from repro.backbones.svd.config import SvdConfig
from repro.core.config import shipped_folder
from repro.core.reading import read_text
from repro.plan.doctor.finding import Finding, Subject
from repro.table.row import row_backbone

PYTHONS = ((3, 11), (3, 13))
"""Oldest and newest Python that pyproject.toml allows."""
INSTALL_LOCK = "install the lock: `scripts/venv.sh` in a checkout, else `pip install --no-deps --require-hashes -r requirements/runtime.txt`"
NAMED = 4
"""Packages that are named in a line; the others are counted."""


def check_python(_: Subject) -> Iterator[Finding]:
    """Compare the running Python with those that the project supports."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield Finding("python", "ok", found)
    else:
        oldest, newest = (".".join(map(str, one)) for one in PYTHONS)
        yield Finding("python", "fail", found, f"use Python {oldest} to {newest}")


def check_lock(_: Subject) -> Iterator[Finding]:
    """Compare installed versions with the shipped lock."""
    folder = shipped_folder("requirements")
    if not (folder / "runtime.txt").is_file():
        yield Finding(
            "lock",
            "warn",
            f"no lock in {folder}: versions were not compared",
            "use a checkout or a wheel of the project",
        )
        return
    pinned = read_lock(read_text(folder / "runtime.txt") + read_text(folder / "torch.txt"))
    direct = {one.name for one in read_requirements(read_text(folder / "runtime.in"))} | {"torch"}
    missing, drifted = compare_versions(pinned)
    needed = [name for name in missing if name in direct]
    if needed:
        yield Finding("lock", "fail", f"not installed: {_join(needed)}", INSTALL_LOCK)
    elif missing or drifted:
        parts = [f"{len(drifted)} of other versions than the lock's: {_join(drifted)}"] if drifted else []
        parts += [f"not installed: {_join(missing)}"] if missing else []
        yield Finding("lock", "warn", "; ".join(parts), INSTALL_LOCK)
    else:
        yield Finding("lock", "ok", f"{len(pinned)} packages have the lock's versions")


def read_requirements(text: str) -> list[Requirement]:
    """Parse the requirements of a .in or .txt file that hold on this machine; hashes and comments are skipped."""
    lines = [line.partition("#")[0].partition("\\")[0].strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if re.match(r"[A-Za-z0-9]", line)]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def read_lock(text: str) -> dict[str, str]:
    """Return the pinned version of each package that this machine needs."""
    return {one.name: str(one.specifier).removeprefix("==") for one in read_requirements(text)}


def compare_versions(pinned: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the names of packages that are not installed, and a text for each of another version."""
    missing, drifted = [], []
    for name, expected in pinned.items():
        try:
            # The build of torch, as in 2.13.0+cpu, is another check's.
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            missing.append(name)
            continue
        if found != expected:
            drifted.append(f"{name} {found} (lock: {expected})")
    return missing, drifted


def check_torch(subject: Subject) -> Iterator[Finding]:
    """Report whether torch can be imported, and which build it is."""
    facts = subject.torch_facts("torch")
    if "version" not in facts:
        yield Finding("torch", "fail", f"torch cannot be imported: {facts['problem']}", INSTALL_LOCK)
    else:
        build = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs"
        yield Finding("torch", "ok", f"torch {facts['version']}, {build}")


def check_decoders(subject: Subject) -> Iterator[Finding]:
    """Report whether each reader decodes the codecs of the data sets."""
    probe = subject.probe("video")
    facts = probe.facts()
    broken = {name: found["problem"] for name, found in facts.items() if found["problem"]}
    if not facts:
        yield Finding("decoders", "fail", f"no video can be decoded: {probe.failure}", INSTALL_LOCK)
    elif broken:
        # The release's frames are PyAV's; decord reads where a config names it.
        state = "fail" if any(name.startswith("pyav") for name in broken) else "warn"
        text = "; ".join(f"{name}: {problem}" for name, problem in broken.items())
        yield Finding("decoders", state, f"cannot decode {text}", INSTALL_LOCK)  # type: ignore[arg-type]
    else:
        yield Finding("decoders", "ok", f"{', '.join(facts)} decode")


def check_implementation(subject: Subject) -> Iterator[Finding]:
    """Report which library computes SVD: sgm if it works, else diffusers."""
    backbone = row_backbone(subject.row) if subject.row is not None else None
    if backbone is not None and not isinstance(backbone, SvdConfig):
        return
    wanted = backbone.implementation if backbone is not None else "auto"
    facts = subject.torch_facts("sgm")
    problem = facts["problem"] if "version" in subject.torch_facts("torch") else "torch cannot be imported"
    installed = "sgm" in subject.probe("torch").facts()
    if installed and not problem and wanted != "diffusers":
        yield Finding("svd", "ok", "sgm computes, the release's own code")
        return
    why = problem if installed else "sgm is not installed"
    if wanted == "sgm":
        yield Finding(
            "svd", "fail", why, "build the image with the fork (docs/image.md), or use --implementation diffusers"
        )
        return
    try:
        found = f"diffusers {version('diffusers')}"
    except PackageNotFoundError:
        yield Finding("svd", "fail", f"{why}, and diffusers neither", INSTALL_LOCK)
        return
    # An sgm that is there and broken is silently not used by `auto`.
    state = "warn" if installed and wanted == "auto" else "ok"
    remedy = "`repro verify svd_xt` compares both; reinstall the fork as docs/image.md says" if state == "warn" else ""
    yield Finding("svd", state, f"{found} computes" + ("" if wanted == "diffusers" else f"; {why}"), remedy)  # type: ignore[arg-type]


def _join(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
