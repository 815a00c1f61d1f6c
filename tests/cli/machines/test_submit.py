"""`repro submit`: what it would run, what it refuses, and what it starts. Programs of a cluster are scripts made here."""

import errno
import fcntl
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from builders.commands import ROOT, run_repro
from builders.tiny_datasets import write_audit

from repro.core.workspace import Workspace
from repro.plan import submission
from repro.table.own import load_own_row
from repro.table.row import row_datasets


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is PATH, in which Snakemake and SLURM are what a test makes of them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(submission.importlib.util, "find_spec", lambda name: None)
    return folder


def write_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def write_slurm(folder: Path, **scripts: str) -> None:
    """Programs of a SLURM with GPUs and without jobs; `scripts` replace some of them."""
    usual = {
        "sbatch": "exit 1",
        "sinfo": "echo gpu gpu:8",
        "squeue": "exit 0",
        "scontrol": "exit 0",
        "scancel": "exit 0",
    }
    for name, script in (usual | scripts).items():
        write_program(folder, name, script)


def submit(workspace: Workspace, *words: str | Path) -> SimpleNamespace:
    return run_repro("submit", *words, "--workspace", workspace.root)


def list_jobs(workspace: Workspace, *words: str) -> dict[str, list[dict[str, Any]]]:
    """Return the jobs of a dry run by rule."""
    done = submit(workspace, *words, "--dry-run", "--json")
    assert done.code == 0, done.err
    jobs: dict[str, list[dict[str, Any]]] = {}
    for job in json.loads(done.out)["jobs"]:
        jobs.setdefault(job["rule"], []).append(job)
    return jobs


def test_rows_decide_the_jobs(workspace: Workspace) -> None:
    rows = ["ucf_hmdb", "hmdb_ucf", "ucf_hmdb_vjepa", "ak_full"]
    jobs = list_jobs(workspace, *rows, "--seeds", "2", "--grid")
    # All backbones that read the same of a data set at once, splits of several rows too.
    commands = [" ".join(job["command"]) for job in jobs["extract"]]
    assert "extract animal_kingdom/full_train animal_kingdom/full_test --backbone svd_xt" in commands
    assert "extract ucf101/full --backbone svd_xt" in commands or any(
        command.startswith("extract ucf101/") and command.endswith("--backbone svd_xt") for command in commands
    )
    assert [job["name"] for job in jobs["audit"]] == ["ucf101", "hmdb51", "animal_kingdom"]
    assert len(jobs["readout"]) == 8
    assert {job["name"] for job in jobs["grid"]} == {"ucf_hmdb", "hmdb_ucf", "ak_full"}
    extractions = {job["name"]: job for job in jobs["extract"]}
    for job in (*jobs["readout"], *jobs["grid"]):
        assert job["gpus"] == 1
        assert set(job["after"]) <= set(extractions)
        datasets = {extractions[name]["after"][0] for name in job["after"]}
        assert datasets == ({"animal_kingdom"} if "ak_" in job["name"] else {"ucf101", "hmdb51"})
    assert all(job["hours"] > 0 and job["clips"] > 100 and job["memory_gb"] > 10 for job in jobs["extract"])
    assert [jobs[rule][0]["command"] for rule in ("check", "report")] == [["check"], ["report"]]
    assert not workspace.root.exists()


def test_backbones_of_one_data_set_share_an_extraction(workspace: Workspace) -> None:
    jobs = list_jobs(workspace, "ak_full", "ak_full_sdv2", "ak_full_vjepa", "--device", "cpu", "--seed", "52")
    (extraction,) = jobs["extract"]
    assert "svd_xt,sdv2,vjepa" in extraction["command"]
    assert extraction["gpus"] == 0
    assert jobs["readout"][0]["command"] == ["readout", "ak_full", "--seed", "52"]
    # Another precision is an option of all backbones of a command, so each has its own, one after the other.
    jobs = list_jobs(workspace, "ak_full", "ak_full_sdv2", "--precision", "fast")
    assert [job["command"][-2:] for job in jobs["extract"]] == [["--precision", "fast"]] * 2
    assert jobs["readout"][0]["command"][-2:] == ["--precision", "fast"]


def test_a_dry_run_prints_jobs_and_costs(workspace: Workspace) -> None:
    done = submit(workspace, "ucf_hmdb", "--shards", "4", "--dry-run")
    assert done.code == 0
    lines = done.out.splitlines()
    assert any(line.startswith("extract hmdb51-") and line.split()[2:5] == ["4", "1", "8"] for line in lines)
    assert any(line.startswith("by stage") for line in lines)
    # The total of the stages, downloads included, and the memory of the machine that the jobs ask for.
    stages = {line.split()[0]: line.split()[-2:] for line in lines if line.startswith(("fetch ", "total "))}
    assert (stages["total"][1], float(stages["total"][0][1:]) > float(stages["fetch"][0][1:])) == ("GB", True)
    assert any(line.startswith("- memory of the machine, at most: ") for line in lines)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--profile", "slrm"], 2, "--profile slrm: no config.yaml in "),
        (["--profile", "slurm"], 4, "sbatch is not on PATH"),
        (["--profile", "slurm", "--devices", "0,1"], 2, "only with --profile local"),
        (["--image", "no.sif"], 4, "no.sif: no such file: build it"),
        (["--device", "cuda:1"], 2, "--device cuda:1: expected cpu or cuda"),
        (["--device", "cuda"], 4, "GPU"),
        (["--device", "cpu"], 4, "Snakemake is not installed, which runs the workflow: pip install"),
        (["--shards", "0"], 2, "--shards 0: expected a number from 1"),
    ],
)
def test_what_cannot_run_is_refused(
    programs: Path, workspace: Workspace, words: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.table.requirements.gpus_visible", lambda: 0)
    done = submit(workspace, "ucf_hmdb", *words)
    assert done.code == code
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("partition", "sinfo", "code", "message"),
    [
        (
            "gpus",
            "echo gpu gpu:8; echo cpu '(null)'",
            2,
            "--partition gpus: no such partition: this cluster has cpu, gpu",
        ),
        ("cpu", "echo gpu gpu:8; echo cpu '(null)'", 4, "no node of partition cpu offers GPUs"),
        ("gpu", "echo 'Unable to contact slurm controller' >&2; exit 1", 4, "sinfo failed (Unable to contact"),
    ],
)
def test_a_cluster_without_what_is_asked_for(
    programs: Path, workspace: Workspace, partition: str, sinfo: str, code: int, message: str
) -> None:
    write_slurm(programs, sinfo=sinfo)
    done = submit(workspace, "ucf_hmdb", "--profile", "slurm", "--partition", partition)
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert message in done.err


def test_an_image_sees_the_files_of_own_rows_and_folders_outside(
    programs: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(programs, "snakemake", f'echo "$@" > {tmp_path}/words')
    clips = [f"{name} {n},{name},{n}" for name in ("walk", "jump") for n in range(8)]
    table = tmp_path / "mine" / "labels.csv"
    table.parent.mkdir()
    table.write_text("\n".join(["path,label,group", *clips]))
    for line in clips:
        (table.parent / line.split(",")[0]).touch()
    assert run_repro("data", "new", table, "--backbone", "mean_colour").code == 0
    row = table.with_name("labels_row.yaml")
    (config,) = row_datasets(load_own_row(row)).values()
    write_audit(config, workspace, frames=40)
    data = tmp_path / "my data"
    monkeypatch.setenv("REPRO_DATA", str(data))
    done = submit(workspace, row, "--device", "cpu", "--image", "docker://example/image")
    assert done.code == 0, done.err
    # Apptainer refuses folders that are missing.
    assert data.is_dir()
    assert workspace.checkpoints.is_dir()
    mounts = f"{workspace.root},{data},{workspace.checkpoints},{table.parent}"
    assert f"--nv --bind '{mounts}'" in (tmp_path / "words").read_text()


def test_jobs_that_do_not_end_are_named(programs: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slurm(programs, squeue=f"echo '7|rule_pack|{workspace.root}/workflow'")
    write_program(programs, "snakemake", "exit 0")
    monkeypatch.setattr(submission, "LEFTOVER_SECONDS", 0)
    done = submit(workspace, "ucf_hmdb", "--profile", "slurm")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "jobs 7 of an earlier coordinator of this workspace were cancelled and have not ended" in done.err


def test_a_workspace_without_locks(programs: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    done = submit(workspace, "ucf_hmdb", "--device", "cpu")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{workspace.root}/.submit.lock: cannot be locked (No locks available)" in done.err


def test_snakemake_is_started_with_a_config_and_one_at_a_time(
    programs: Path, workspace: Workspace, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    (left / "7").touch()
    # Of three jobs, one is of another workspace, and one was submitted by hand.
    jobs = f"[ -e {left}/7 ] && echo '7|rule_pack|{workspace.root}/workflow'"
    jobs += f"; echo '8|rule_pack|{tmp_path}/workflow'; echo '9|(null)|{workspace.root}/workflow'"
    scancel = f'/bin/rm {left}/"$1"; [ "$#" = 1 ]'
    write_slurm(programs, scontrol="echo 'AccountingStorageType = (null)'", squeue=jobs, scancel=scancel)
    write_program(
        programs, "snakemake", f'echo "$@" > {tmp_path}/words; echo "$PATH" > {tmp_path}/path; exit ${{FAIL:-0}}'
    )
    image = tmp_path / "a.sif"
    image.write_text("")
    words = ["ucf_hmdb", "--profile", "slurm", "--partition", "gpu", "--account", "me", "--image", image, "--jobs", "3"]
    done = submit(workspace, *words, "--seeds", "52,", "--precision", "fast")
    assert done.code == 0, done.err
    assert done.out == f"written {workspace.root}/workflow/report.html\n"
    assert done.err.startswith("cancelled 1 job of an earlier coordinator: what it finished is stored\n")
    started = (tmp_path / "words").read_text()
    for part in (
        "slurm_partition=gpu slurm_account=me",
        f"--nv --bind {workspace.root},",
        "--jobs 3",
        "--sdm apptainer",
        "--slurm-status-command squeue",
    ):
        assert part in started
    assert (tmp_path / "path").read_text().endswith(f":{programs}\n")
    config = yaml.safe_load((workspace.root / "workflow" / "config.yaml").read_text())
    assert (config["rows"], config["seeds"], config["precision"]) == (["ucf_hmdb"], "52,", ["fast"])
    assert config["image"] == str(image)
    # The config has the keys that the workflow's schema asks for, as its own has.
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
    shipped = yaml.safe_load((ROOT / "workflow" / "config" / "config.yaml").read_text())
    assert set(config) == set(shipped) == set(schema["properties"]) == set(schema["required"])

    failed = run_repro("submit", *words, "--workspace", workspace.root, env={"FAIL": "1"})
    assert failed.code == 4
    assert "the workflow ended early (Snakemake's exit code 1)" in failed.err
    with workspace.lock("submit"):
        refused = submit(workspace, *words)
    assert refused.code == 2
    assert "'submit' is already running here" in refused.err
