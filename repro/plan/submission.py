"""The workflow of `workflow/` for rows: its config, the command that starts it, and what it needs of this machine."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from repro.core.config import is_config_path, shipped_folder
from repro.core.errors import MissingError, UsageError, find_nearest
from repro.core.files import write_bytes
from repro.core.workspace import Workspace, environment_values

INSTALL = "pip install 'actiondiff-repro[workflow]'"
LEFTOVER_SECONDS = 180
"""How long cancelled jobs may take to end: SLURM kills them some 30 s (KillWait) after it has asked them to stop."""


@dataclass(frozen=True, slots=True)
class WorkflowConfig:
    """The workflow's config (workflow/schemas/config.schema.yaml describes the keys)."""

    rows: list[str]
    seeds: str
    grid: list[str]
    protocol: str | None
    precision: list[str]
    workspace: str
    shards: int
    device: str
    devices: str | None
    image: str
    accept_license: bool
    allow_damaged: bool
    retries: int = 3


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where jobs run."""

    profile: Path
    """Folder of a Snakemake profile."""
    partition: str | None
    account: str | None
    jobs: int | None
    """Jobs at the same time [default: the profile's]."""

    @property
    def executor(self) -> str:
        """What Snakemake runs jobs with: local, slurm, ..."""
        # As Snakemake takes it: local unless the profile says otherwise.
        return str(yaml.safe_load((self.profile / "config.yaml").read_text()).get("executor", "local"))


def find_profile(name: str) -> Path:
    """Return the folder of a profile: of workflow/profiles by name, or any other by path.

    Raises:
        UsageError: there is no such profile.
    """
    shipped = shipped_folder("workflow") / "profiles"
    names = sorted(path.name for path in shipped.iterdir())
    folder = shipped / name if name in names else Path(name).absolute()
    if not (folder / "config.yaml").is_file():
        raise UsageError(
            f"--profile {name}: no config.yaml in {folder}{find_nearest(name, names) or ': expected ' + ', '.join(names)}, or "
            "the folder of a Snakemake profile"
        )
    return folder


def require_image(image: str) -> str:
    """Return the image as jobs find it: the absolute path of a file, or an address.

    Raises:
        MissingError: it is a path, and there is no such file.
    """
    if "://" in image:
        return image
    path = Path(image).absolute()
    if not path.exists():
        raise MissingError(
            f"--image {image}: no such file: build it on a machine with a network, `apptainer build {path.name} apptainer.def` "
            "(docs/image.md), or name an address, as docker://..."
        )
    return str(path)


def require_slurm(partition: str | None, *, gpus: bool) -> None:
    """Check that jobs can be submitted to SLURM.

    Raises:
        MissingError: there is no sbatch or no controller, or no GPU in the partition.
        UsageError: there is no such partition.
    """
    for program in ("sbatch", "squeue", "sinfo", "scontrol", "scancel"):
        if shutil.which(program) is None:
            raise MissingError(
                f"--profile slurm: {program} is not on PATH: run this on a login node of the cluster, or --profile local"
            )
    # Partitions, each with the generic resources of a group of its nodes.
    asked = subprocess.run(["sinfo", "-h", "-o", "%R %G"], capture_output=True, text=True, check=False)  # noqa: S607
    if asked.returncode:
        # The first lines are attempts.
        reason = " ".join(asked.stderr.strip().rpartition("\n")[2].split())[:200]
        raise MissingError(
            f"--profile slurm: sinfo failed ({reason}): the controller does not answer from this machine"
        )
    offered: dict[str, str] = {}
    for line in asked.stdout.splitlines():
        name, _, resources = line.partition(" ")
        # A partition is listed once for every group of equal nodes.
        offered[name] = offered.get(name, "") + resources
    if partition is not None and partition not in offered:
        raise UsageError(f"--partition {partition}: no such partition: this cluster has {', '.join(sorted(offered))}")
    # Without --partition, SLURM or the profile picks one.
    chosen = list(offered.values()) if partition is None else [offered[partition]]
    if gpus and not any("gpu" in resources for resources in chosen):
        where = "the cluster" if partition is None else f"partition {partition}"
        raise MissingError(
            f"no node of {where} offers GPUs (sinfo -o '%R %G'): name a --partition that does, or --device cpu"
        )


def _has_accounting() -> bool:
    """Return whether SLURM keeps records of jobs that have ended."""
    asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)  # noqa: S607
    return not re.search(r"AccountingStorageType\s*=\s*(\(null\)|accounting_storage/none)", asked.stdout)


def cancel_leftover_jobs(workspace: Workspace) -> int:
    """Cancel the SLURM jobs that a killed coordinator of this workspace left, and wait until they have ended.

    A new coordinator does not know them: the jobs that it submits for the same work would find it locked and fail. What
    the cancelled ones have finished is stored.

    Args:
        workspace: The workspace, of which the caller is the only coordinator.

    Returns:
        The number of cancelled jobs.

    Raises:
        MissingError: jobs still run after LEFTOVER_SECONDS.
    """
    left = cancelled = _list_leftover_jobs(workspace)
    if left:
        subprocess.run(["scancel", *left], capture_output=True, check=False)  # noqa: S603, S607
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while left := _list_leftover_jobs(workspace):
        if time.monotonic() > deadline:
            raise MissingError(
                f"jobs {', '.join(left)} of an earlier coordinator of this workspace were cancelled and have not ended: wait until "
                "`squeue --me` lists them no longer"
            )
        time.sleep(1)
    return len(cancelled)


def _list_leftover_jobs(workspace: Workspace) -> list[str]:
    """Return the ids of this user's jobs that Snakemake submitted from the workspace's folder."""
    # Working directory and comment; Snakemake starts comments with the rule.
    words = ["squeue", "--me", "--noheader", "--format", "%A|%k|%Z"]
    asked = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    folder = (workspace.root / "workflow").resolve()
    jobs = (line.split("|", 2) for line in asked.stdout.split("\n") if line.count("|") >= 2)
    return [job for job, comment, place in jobs if comment.startswith("rule_") and Path(place).resolve() == folder]


def write_workflow_config(config: WorkflowConfig, workspace: Workspace) -> Path:
    """Write the workflow's config to the workspace; returns the file."""
    path = workspace.root / "workflow" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, yaml.safe_dump(asdict(config), sort_keys=False).encode())
    return path


def build_command(
    config: WorkflowConfig, config_file: Path, cluster: Cluster, workspace: Workspace, *, image: bool
) -> list[str]:
    """Return the command that starts Snakemake; with `image`, the folders of data and weights are created.

    Raises:
        MissingError: Snakemake is not installed.
    """
    found = shutil.which("snakemake")
    if importlib.util.find_spec("snakemake") is not None:
        words = [sys.executable, "-m", "snakemake"]
    elif found is not None:
        words = [found]
    else:
        raise MissingError(f"Snakemake is not installed, which runs the workflow: {INSTALL}")
    words += ["--snakefile", str(shipped_folder("workflow") / "Snakefile"), "--configfile", str(config_file)]
    # Snakemake's own lock survives a killed coordinator and would have to be removed by hand; `repro submit` holds one that does not.
    words += ["--workflow-profile", str(cluster.profile), "--nolock"]
    if cluster.jobs is not None:
        words += ["--jobs", str(cluster.jobs)]
    resources = [("slurm_partition", cluster.partition), ("slurm_account", cluster.account)]
    if any(value for _, value in resources):
        given = [f"{name}={value}" for name, value in resources if value]
        # Given again with the profile's values: the option replaces the profile's list.
        words += ["--default-resources", "mem_mb=4000", "runtime=60", *given]
    if cluster.executor == "slurm":
        if cluster.account is None:
            # The cluster's default: without accounting, Snakemake's guess fails.
            words.append("--slurm-no-account")
        if not _has_accounting():
            # Snakemake would wait for what sacct never reports.
            words += ["--slurm-status-command", "squeue"]
    if image:
        # Inside, the folders have the paths that they have outside. Files of own rows are next to the table of their clips.
        own = [Path(name).parent for name in config.rows if is_config_path(name)]
        for folder in (workspace.data, workspace.checkpoints):
            # Apptainer mounts no folder that is missing, and `repro fetch` fills these.
            folder.mkdir(parents=True, exist_ok=True)
        folders = dict.fromkeys(map(str, (workspace.root, workspace.data, workspace.checkpoints, *own)))
        words += ["--sdm", "apptainer", "--apptainer-args", f"--nv --bind {shlex.quote(','.join(folders))}"]
    return words


def run_workflow(command: list[str], workspace: Workspace) -> int:
    """Run Snakemake in the foreground; returns its exit code. If this process is interrupted, Snakemake ends its jobs first."""
    own = Path(sys.executable).parent
    values = environment_values()
    environment = values | {
        # Jobs call `repro`, also where this environment is not activated.
        "PATH": f"{own}:{values.get('PATH', '')}",
        "REPRO_DATA": str(workspace.data),
        "REPRO_CHECKPOINTS": str(workspace.checkpoints),
    }
    # Snakemake keeps its logs where it is started.
    process = subprocess.Popen(command, env=environment, cwd=workspace.root / "workflow")  # noqa: S603
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
