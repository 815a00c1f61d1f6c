"""The workflow on one machine: a published row from its clips to the report, a job and the coordinator killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from builders import tiny_project
from builders.commands import ROOT, run_process
from builders.results import describe_results

from repro.core.workspace import Workspace

ROW = "ak_full_vjepa"
LIMIT = 900.0
"""Seconds, on a machine that others use."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with ten small clips of Animal Kingdom and small networks, and its workflow."""
    folder = tmp_path_factory.mktemp("project")
    tiny_project.make(folder, ["animal_kingdom"], ["vjepa"])
    (folder / "workflow").symlink_to(ROOT / "workflow")
    path = folder / "configs" / "datasets" / "animal_kingdom.yaml"
    config = yaml.safe_load(path.read_text())
    for facts in config["splits"].values():
        facts["frames"] = {"mean": [9, 9], "source": "clips of a test"}
    path.write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_row_ends_as_in_one_process_and_is_judged(
    project: Path, environment: dict[str, str], control: Path, tmp_path: Path
) -> None:
    environment["PYTHONPATH"] = (
        environment["PYTHONPATH"].replace(str(ROOT), str(project)).replace(f"{project}/tests", f"{ROOT}/tests")
    )
    environment["REPRO_DATA"] = str(project / "workspace" / "data")
    environment["REPRO_CHECKPOINTS"] = str(project / "workspace" / "checkpoints")
    workspace, alone = Workspace(tmp_path / "workspace"), Workspace(tmp_path / "alone")
    words = ["submit", ROW, "--profile", "local", "--shards", "2", "--seeds", "1", "--device", "cpu"]
    # On one core, jobs have one thread, as the run in one process below: the number of threads changes the rounding of products.
    one_core = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    command = [*one_core, sys.executable, "-m", "repro", *words, "--workspace", str(workspace.root)]
    log = control / "coordinator.log"

    def start_coordinator() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True, cwd=project
            )

    def wait_for_part() -> int:
        """Return the process of a part that has stored a clip and is held."""
        deadline = time.monotonic() + LIMIT
        while not (reached := list(control.glob("reached-?"))):
            assert coordinator.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process = int(reached[0].read_text().split()[0])
        reached[0].unlink()
        return process

    for part in "12":
        (control / f"hold-{part}").touch()
    coordinator = start_coordinator()
    try:
        # A job that is killed is tried again.
        process = wait_for_part()
        os.kill(process, signal.SIGKILL)
        assert wait_for_part() != process
        # The machine goes down: the coordinator and its jobs.
        os.killpg(coordinator.pid, signal.SIGKILL)
        coordinator.wait()
        for part in "12":
            (control / f"hold-{part}").unlink()
        coordinator = start_coordinator()
        assert coordinator.wait(LIMIT) == 0, log.read_text()
    finally:
        if coordinator.poll() is None:
            os.killpg(coordinator.pid, signal.SIGKILL)
            coordinator.wait()

    # A verdict, whatever it is, ends no workflow.
    verdicts = json.loads((workspace.root / "workflow" / "check.json").read_text())["verdicts"]
    assert {one["row"]: one["verdict"] for one in verdicts}[ROW] == "EDITED"
    assert ROW in (workspace.root / "workflow" / "report.html").read_text()
    run = run_process(
        "run",
        ROW,
        "--device",
        "cpu",
        "--workers",
        "1",
        "--workspace",
        alone.root,
        env=environment | {"TEST_CONTROL": ""},
        cwd=project,
    )
    assert run.code == 0, run.err
    expected, found = describe_results(alone), describe_results(workspace)
    # The workflow has audited the clips, a run by itself has not.
    assert expected[f"{ROW} 52"].pop("manifests") == {}
    assert len(found[f"{ROW} 52"].pop("manifests")) == 1
    assert found == expected
