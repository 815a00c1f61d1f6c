"""Building and running images with buildah and podman, without a registry, a Docker engine or systemd.

The base image is made by debootstrap. What pip needs on this machine (a certificate, folders of wheels) goes into that
test base alone; a real base image needs none of it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ("buildah", "podman", "runc", "debootstrap")
EPOCH = 1_700_000_000
"""SOURCE_DATE_EPOCH of test builds."""
BASE = "localhost/actiondiff-test-base:bookworm"


def missing_tools() -> list[str]:
    """What has to be installed, and being root, which building needs here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


def pip_settings() -> dict[str, list[str]]:
    """Certificate and folders that pip is given on this machine, wherever that is configured."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, list[str]] = {"cert": [], "find-links": []}
    for line in done.splitlines():
        name, _, value = line.partition("=")
        key = name.rsplit(".", 1)[-1]
        if key in settings:
            settings[key] += [v for v in value.strip("'\"").split() if v not in settings[key]]
    return settings


@dataclass(slots=True)
class Engine:
    """buildah and podman with a store of their own under `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.folder}/graph"\nrunroot = "{self.folder}/run"\n'
        )
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\nnetns = "host"\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )

    def run(self, *words: str | Path, input_: str | None = None, timeout: float = 1500) -> SimpleNamespace:
        """Run a command with this store; `code`, `out`, `err`."""
        env = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        done = subprocess.run(
            [str(w) for w in words],
            capture_output=True, text=True, env=env, input=input_, check=False, timeout=timeout,
        )  # fmt: skip
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    def remove(self) -> None:
        """Delete the store; what stays mounted in it is left, so that nothing is deleted through a mount."""
        self.run("podman", "system", "reset", "--force")
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        inside = sorted((place for place in places if Path(place).is_relative_to(self.folder)), reverse=True)
        if all(self.run("umount", place).code == 0 for place in inside):
            shutil.rmtree(self.folder, ignore_errors=True)

    def must(self, *words: str | Path, input_: str | None = None) -> str:
        """Like `run`, for what has to work; returns its output."""
        done = self.run(*words, input_=input_)
        if done.code != 0:
            raise RuntimeError(f"{' '.join(map(str, words))}: exit {done.code}\n{done.out[-3000:]}\n{done.err[-3000:]}")
        return str(done.out)

    @property
    def mounts(self) -> list[str]:
        """Folders of wheels, mounted while building."""
        folders = [f for f in pip_settings()["find-links"] if Path(f).is_dir()]
        return [word for folder in folders for word in ("-v", f"{folder}:{folder}:ro")]

    def make_base(self) -> None:
        """A Debian 12 without Python, as BASE."""
        if self.run("podman", "image", "exists", BASE).code == 0:
            return
        root = self.folder / "rootfs"
        if not (root / "etc" / "debian_version").is_file():
            self.must("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root)
        pip = pip_settings()
        lines = ["[global]"]
        if pip["cert"]:
            shutil.copy(pip["cert"][0], root / "etc" / "test-ca.pem")
            lines.append("cert = /etc/test-ca.pem")
        if pip["find-links"]:
            lines.append("find-links = " + " ".join(pip["find-links"]))
        (root / "etc" / "pip.conf").write_text("\n".join(lines) + "\n")
        archive = self.folder / "base.tar"
        self.must("tar", "-C", root, "--numeric-owner", "--exclude=./dev", "-cf", archive, ".")
        self.must("podman", "import", "-q", archive, BASE)
        archive.unlink()
        shutil.rmtree(root)

    def build(self, tag: str, target: str, *options: str) -> None:
        """Build the Dockerfile's `target` from the checkout's tracked files."""
        self.must(
            "buildah", "bud", "--isolation", "chroot", "--layers", "--target", target,
            # OCI's format has no health check. A fixed time keeps layers from one commit to the next.
            "--format", "docker", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}",
            "--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", "TORCH_INDEX=", *self.mounts, *options,
            "-t", tag, ROOT,
        )  # fmt: skip

    def container(
        self, tag: str, *words: str, options: Sequence[str] = (), input_: str | None = None
    ) -> SimpleNamespace:
        """`docker run --rm OPTIONS TAG WORDS`."""
        # Podman's health checks need systemd, and it complains if there is none.
        return self.run("podman", "run", "--rm", "-i", "--no-healthcheck", *options, tag, *words, input_=input_)
