"""A SLURM of this machine alone with two fake GPUs: the real daemons, with keys, ports and state in a folder of the test.

Needs root and Debian's packages slurm-wlm and munge. Nothing outside the folder is written, and no other SLURM is touched.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
STARTING_SECONDS = 30

CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0
ReturnToService=2
# More cores and memory than the machine has: jobs ask for what real ones need.
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PropagateResourceLimits=NONE
JobRequeue=1
KillWait=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname={host} CPUs=64 RealMemory=256000 Gres=gpu:2
PartitionName=low Nodes=localhost Default=YES State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=localhost State=UP PriorityTier=10 PreemptMode=OFF
"""
GPUS = "NodeName=localhost Name=gpu File=/dev/null\nNodeName=localhost Name=gpu File=/dev/zero\n"


def missing_tools() -> list[str]:
    """What has to be installed, and being root, which the daemons need here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running SLURM; jobs of partition `high` preempt those of `low`, which have 20 s to end."""

    environment: dict[str, str]
    """What its commands need."""

    def run(self, *words: str) -> str:
        """Run one of SLURM's commands; returns what it printed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout.strip()

    def start_again(self, job: str) -> None:
        """Have a job that was requeued or preempted start now: SLURM holds it for two minutes."""
        self.run("scontrol", "update", f"jobid={job}", "StartTime=now")

    def state(self, job: str) -> str:
        """Return the state of a job, as PENDING; empty if it has ended."""
        return self.run("squeue", "-h", "-j", job, "-o", "%T")

    def list_jobs(self) -> list[str]:
        """Return the ids of the jobs that wait, run or end."""
        return self.run("squeue", "-h", "-o", "%A").split()


def _choose_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def start_cluster(folder: Path) -> Iterator[Cluster]:
    """Start munged, slurmctld and slurmd; end them, and all jobs, at the end of the block."""
    for name in ("state", "spool", "munge", "bin"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = {"controller_port": _choose_port(), "node_port": _choose_port()}
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(folder=folder, host=host, **ports))
    (folder / "gres.conf").write_text(GPUS)
    # Snakemake's jobs start srun without SLURM's variables.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
    cluster = Cluster({**os.environ, "SLURM_CONF": str(config), "PATH": path})
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munged = ["munged", "--force", "--foreground", *(f"--{k}={folder}/munge/{v}" for k, v in names.items())]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "daemons.log").open("wb"))
        for words in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
            daemon = subprocess.Popen(words, env=cluster.environment, stdout=log, stderr=log, start_new_session=True)
            # The last one first; SIGTERM lets each remove what it holds.
            stack.callback(daemon.wait, 30)
            stack.callback(daemon.terminate)
            deadline = time.monotonic() + STARTING_SECONDS
            while words is munged and not (folder / "munge" / "socket").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        stack.callback(_cancel_all, cluster)
        while not _is_idle(cluster):
            if time.monotonic() > deadline:
                raise RuntimeError(f"SLURM does not start: {(folder / 'daemons.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield cluster


def _is_idle(cluster: Cluster) -> bool:
    try:
        return cluster.run("sinfo", "-h", "-p", "low", "-o", "%T") == "idle"
    except RuntimeError:
        return False


def _cancel_all(cluster: Cluster) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while (jobs := cluster.list_jobs()) and time.monotonic() < deadline:
        cluster.run("scancel", *jobs)
        time.sleep(0.5)
