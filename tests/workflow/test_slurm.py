"""The workflow over a real SLURM of one node with two fake GPUs: what is killed, requeued and preempted ends as one process does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders.commands import run_repro
from builders.results import describe_results
from builders.slurm_cluster import Cluster, missing_tools, start_cluster

from repro.core.workspace import Workspace

pytestmark = pytest.mark.skipif(bool(missing_tools()), reason=f"not here: {', '.join(missing_tools())}")
LIMIT = 400.0
"""Seconds that a step may take on a machine that others use."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with start_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def wait_for(what: str, happened: Callable[[], object], coordinator: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert coordinator.poll() is None, f"the coordinator ended before {what}"
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_what_is_disturbed_ends_as_one_process_does(
    cluster: Cluster, own_row: Path, alone: Workspace, workspace: Workspace, control: Path, environment: dict[str, str]
) -> None:
    data = own_row.with_name("labels.yaml")
    assert run_repro("data", "audit", data, "--workers", "1", "--workspace", workspace.root).code == 0
    environment |= {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
    environment["PATH"] = f"{cluster.environment['PATH'].partition(':')[0]}:{environment['PATH']}:/usr/sbin:/sbin"
    words = ["submit", own_row, "--profile", "slurm", "--partition", "low", "--shards", "3", "--seeds", "1"]
    command = [sys.executable, "-m", "repro", *words, "--device", "cuda", "--workspace", workspace.root]
    log = control / "coordinator.log"

    def start_coordinator() -> subprocess.Popen[str]:
        with log.open("a") as output:
            return subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True, text=True
            )

    def jobs_of(part: str) -> tuple[int, str]:
        process, job = (control / f"reached-{part}").read_text().split()
        return int(process), job

    def finished(part: str) -> bool:
        outputs = list(workspace.root.glob(f"workflow/features/*/{part}of3.json"))
        return bool(outputs and outputs[0].stat().st_size)

    for part in "123":
        (control / f"hold-{part}").touch()
    coordinator = start_coordinator()
    try:
        # Both GPUs are taken by the first two parts, whichever SLURM starts first.
        wait_for("two parts", lambda: len(list(control.glob("reached-?"))) == 2, coordinator)
        killed, requeued = sorted(path.name[-1] for path in control.glob("reached-?"))
        (last,) = set("123") - {killed, requeued}
        assert set((control / "devices").read_text().split("\n")) == {"extract 0", "extract 1", ""}
        for part in (killed, requeued):
            (control / f"hold-{part}").unlink()
        os.kill(jobs_of(killed)[0], signal.SIGKILL)
        job = jobs_of(requeued)[1]
        cluster.run("scontrol", "requeue", job)
        wait_for("a requeued job", lambda: cluster.state(job) == "PENDING", coordinator)
        cluster.start_again(job)
        wait_for("two parts to end", lambda: finished(killed) and finished(requeued), coordinator)

        # Preempted: SIGTERM, and 20 s later the end.
        wait_for("the last part", lambda: (control / f"reached-{last}").exists(), coordinator)
        process, job = jobs_of(last)
        wait_for("others to end", lambda: cluster.list_jobs() == [job], coordinator)
        cluster.run("sbatch", "--partition=high", "--gres=gpu:2", "--output=/dev/null", "--wrap=true")
        wait_for("a preempted job", lambda: cluster.state(job) == "PENDING", coordinator)
        cluster.start_again(job)
        wait_for("its second start", lambda: jobs_of(last)[0] != process, coordinator)
        assert jobs_of(last)[1] == job

        # Killed with its job running: the next coordinator ends that one first.
        os.killpg(coordinator.pid, signal.SIGKILL)
        coordinator.wait()
        assert cluster.list_jobs() == [job]
        coordinator = start_coordinator()
        wait_for("a cancelled job", lambda: job not in cluster.list_jobs(), coordinator)
        (control / f"hold-{last}").unlink()
        assert coordinator.wait(LIMIT) == 0, log.read_text()
    finally:
        if coordinator.poll() is None:
            os.killpg(coordinator.pid, signal.SIGKILL)
    assert "cancelled 1 job of an earlier coordinator" in log.read_text()

    # Each disturbed part lost at most the clip that it computed: what it had stored was not computed again. One that was asked to
    # end may have stored another.
    for part, kept in ((killed, 1), (requeued, 1), (last, 2)):
        (output,) = workspace.root.glob(f"workflow/features/*/{part}of3.json")
        found = json.loads(output.read_text())
        assert found["reused"] >= kept, part
        assert found["reused"] + found["extracted"] == found["clips"] >= 5, part
    results = describe_results(alone)
    assert len(results) == 2
    assert describe_results(workspace) == results
