"""`repro doctor`: every check tells a machine that works from one that does not, and none stops the others."""

import dataclasses
import errno
import fcntl
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders.commands import ROOT, run_process, run_repro
from packaging.specifiers import SpecifierSet

from repro.core.config import shipped_folder
from repro.core.files import write_json
from repro.core.hashing import FileHashes
from repro.core.workspace import Workspace
from repro.datasets.manifest import ClipFacts
from repro.fetch.catalogue import list_assets
from repro.plan.doctor import examine, finding, folders, gpu, network, probes, software
from repro.plan.doctor.needs import judge_audit, judge_checkpoint
from repro.plan.doctor.probes import start_probe

H100 = {
    "count": 1,
    "number": 0,
    "name": "NVIDIA H100",
    "capability": [9, 0],
    "free": 80 * 10**9,
    "total": 84 * 10**9,
    "problem": "",
}
TORCH = {"version": "2.13.0+cu130", "cuda": "13.0", "kernels": ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"]}
VIDEO = {"pyav h264": {"problem": ""}, "decord h264": {"problem": ""}}
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040)."


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A machine to be described: what probes report, what nvidia-smi prints, and how many GPUs the driver lists."""
    described = SimpleNamespace(facts={"torch": {"torch": TORCH, "gpu": H100}, "video": VIDEO}, visible=1)

    class DescribedProbe(probes.RunningProbe):
        failure = "not tried"

        def __init__(self, name: str, arguments: tuple[str, ...]) -> None:
            self.name, self.arguments = name, arguments

        def facts(self) -> dict[str, Any]:
            # A second open of a file conflicts within one process too, and a process takes longer.
            return next(probes.probe_lock(*self.arguments)) if self.name == "lock" else described.facts[self.name]

    def start(name: str, *arguments: str) -> DescribedProbe:
        return DescribedProbe(name, arguments)

    def write_smi(text: str, code: int = 0) -> None:
        path = tmp_path / "bin" / "nvidia-smi"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        path.chmod(0o755)

    for module in (finding, folders):
        monkeypatch.setattr(module, "start_probe", start)
    monkeypatch.setattr(finding, "gpus_visible", lambda: described.visible)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in ("REPRO_DEVICE", "CUDA_VISIBLE_DEVICES", *network.OFFLINE, "HF_TOKEN", "REPRO_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    described.smi = write_smi
    write_smi("0, NVIDIA H100, 580.65.06")
    described.workspace = tmp_path / "workspace"
    return described


def diagnose(machine: SimpleNamespace, *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Run `repro doctor --json`; returns the exit code and the findings by name."""
    done = run_repro("doctor", *words, "--json", "--workspace", machine.workspace)
    report = json.loads(done.out)
    assert done.code == (0 if report["able"] else 4)
    return done.code, {one["name"]: one for one in report["findings"]}


@pytest.mark.slow
def test_a_machine_is_really_looked_at(tmp_path: Path) -> None:
    """With torch, decoders and locks of this machine, as a process, and the output that a person reads."""
    done = run_process("doctor", "--device", "cpu", "--workspace", tmp_path / "new")
    assert done.code == 0, done.out + done.err
    assert done.err == ""
    lines = done.out.splitlines()
    assert "ok   locks: of two processes, one waits for the other" in lines
    assert any(line.startswith("ok   decoders: pyav h264") for line in lines)
    assert any(line.startswith("ok   torch: torch 2.") for line in lines)
    assert not (tmp_path / "new").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_good_machine_is_able(machine: SimpleNamespace) -> None:
    code, found = diagnose(machine)
    assert code == 0
    assert found["driver"]["what"] == "driver 580.65.06 for CUDA 13.0"
    assert found["device"]["state"] == found["GPU memory"]["state"] == "ok"
    assert not machine.workspace.exists()


def test_a_gpu_without_a_c_compiler_is_able_and_slower(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "icx")
    assert "icx, for" in diagnose(machine)[1]["C compiler"]["what"]
    monkeypatch.delenv("CC")
    monkeypatch.setattr("repro.core.workspace.shutil.which", lambda name: None)
    code, found = diagnose(machine)
    assert (code, found["C compiler"]["state"]) == (0, "warn")
    assert "C compiler" not in diagnose(machine, "--device", "cpu")[1]


def test_an_old_driver_is_named_with_the_one_that_is_needed(machine: SimpleNamespace) -> None:
    machine.smi("0, NVIDIA H100, 535.104.05")
    machine.facts["torch"]["gpu"] = {"problem": TOO_OLD}
    code, found = diagnose(machine)
    assert code == 4
    assert found["driver"]["state"] == "fail"
    assert found["driver"]["what"] == "driver 535.104.05 is too old for CUDA 13.0, which needs 580 or newer"
    # With NVIDIA's forward-compatibility libraries the same pair computes.
    machine.facts["torch"]["gpu"] = H100
    code, found = diagnose(machine)
    assert (code, found["driver"]["state"]) == (0, "warn")


@pytest.mark.parametrize(
    ("driver", "cuda", "old"),
    [
        ("579.99", "13.0", True),
        ("580.65.06", "13.0", False),
        ("525.59", "12.6", True),
        ("525.60.13", "12.6", False),
        ("1.0", "99.0", False),
    ],
)
def test_drivers_and_cudas(driver: str, cuda: str, old: bool) -> None:
    assert bool(gpu.explain_old_driver(driver, cuda)) == old


def test_no_gpu_though_asked(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.visible = 0
    machine.smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9)
    machine.facts["torch"]["gpu"] = {"problem": "Found no NVIDIA driver on your system."}
    code, found = diagnose(machine)
    assert (code, found["driver"]["state"]) == (0, "ok")
    assert (found["device"]["state"], found["device"]["what"]) == ("warn", "no GPU: rows compute on the CPU")
    for words, env in ((("--device", "cuda"), ""), ((), "cuda")):
        monkeypatch.setenv("REPRO_DEVICE", env)
        code, found = diagnose(machine, *words)
        assert (code, found["driver"]["state"], found["device"]["state"]) == (4, "fail", "fail")
        assert "couldn't communicate with the NVIDIA driver" in found["driver"]["what"]
        assert "--gpus all (docker) or --nv (apptainer)" in found["driver"]["remedy"]


def test_gpus_that_are_hidden_from_programs_are_said(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.visible = 0
    machine.facts["torch"]["gpu"] = {"problem": "No CUDA GPUs are available"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert diagnose(machine)[1]["device"]["state"] == "warn"
    code, found = diagnose(machine, "--device", "cuda")
    assert code == 4
    assert found["device"]["remedy"].startswith("CUDA_VISIBLE_DEVICES is '7'")


def test_a_cpu_build_of_torch_on_a_machine_with_a_gpu(machine: SimpleNamespace) -> None:
    machine.facts["torch"] = {"torch": {"version": "2.13.0+cpu", "cuda": None, "kernels": []}}
    code, found = diagnose(machine)
    assert code == 4
    assert found["device"]["what"] == "torch 2.13.0+cpu is built for CPUs"


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({"capability": [8, 0], "name": "NVIDIA A100"}, "warn", "sm_80, one of 1; the project was run on sm_90"),
        ({"capability": [7, 0], "name": "Tesla V100"}, "fail", "has kernels for sm_75"),
        ({"problem": "CUDA error: no kernel image is available"}, "fail", "does not compute: CUDA error"),
    ],
)
def test_gpus(machine: SimpleNamespace, change: dict[str, Any], state: str, said: str) -> None:
    machine.facts["torch"]["gpu"] = H100 | change
    found = diagnose(machine)[1]["device"]
    assert found["state"] == state
    assert said in found["what"]


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    [
        ((9, 0), ["sm_90"], True), ((9, 0), ["sm_80", "compute_80"], True), ((9, 0), ["sm_80"], False), ((8, 9), ["sm_86"], True),
        ((12, 0), ["sm_120"], True), ((9, 0), ["sm_90a"], True), ((10, 0), ["sm_90a"], False), ((7, 5), ["sm_80", "odd"], False),
    ],
)  # fmt: skip
def test_kernels(capability: tuple[int, int], kernels: list[str], runs: bool) -> None:
    assert gpu.has_kernels(capability, kernels) == runs


def test_memory_of_the_gpu_against_the_plan(machine: SimpleNamespace) -> None:
    needs = {8: 5.8, 1: 4.6, 32: 9.8}
    states = [gpu.judge_memory(int(free * 1e9), int(8e9), needs).state for free in (6, 5, 4)]
    assert states == ["ok", "warn", "fail"]
    assert gpu.judge_memory(int(5e9), int(8e9), {5: 13.9}).state == "warn"
    machine.facts["torch"]["gpu"] = H100 | {"free": 2 * 10**9}
    found = diagnose(machine, "ak_full_vjepa")[1]["GPU memory"]
    assert found["state"] == "fail"
    assert "--batch 8" in found["what"]


def test_what_nvidia_smi_says_when_it_fails() -> None:
    both = probes.parse_answer("0, NVIDIA H100 NVL, 580.65.06\n1, NVIDIA H100 NVL, 580.65.06\n", "", 0)
    assert both == probes.ListedGpus(("NVIDIA H100 NVL",) * 2, "580.65.06")
    failed = probes.parse_answer("Failed to initialize NVML: Driver/library version mismatch\nNVML 580.65\n", "", 18)
    assert failed.names == ()
    assert "Driver/library version mismatch" in failed.failure
    assert probes.parse_answer("No devices were found\n", "", 0).failure == "nvidia-smi: No devices were found"


def test_a_row_lacks_what_is_not_here(machine: SimpleNamespace) -> None:
    code, found = diagnose(machine, "ucf_hmdb")
    assert code == 4
    for name in ("data ucf101", "data hmdb51", "checkpoint svd_xt"):
        assert found[name]["state"] == "fail"
        assert found[name]["remedy"].startswith(f"run `repro fetch {name.split()[1]} --workspace")


def test_data_are_judged_by_their_audit() -> None:
    decoded = ClipFacts("a", "a.mp4", ("train",), True, 1, 8, 25.0, 64, 48, 0.3, "pyav", "", "0" * 64)
    broken = dataclasses.replace(decoded, id="b", error="damaged")
    found = [
        judge_audit("ucf101", clips, "repro data audit ucf101")
        for clips in ({}, {"a": decoded}, {"a": decoded, "b": broken})
    ]
    assert [one.state for one in found] == ["warn", "ok", "warn"]
    assert found[0].remedy == "run `repro data audit ucf101`"
    assert "1 of 2 clips do not decode completely, as b" in found[2].what


def test_a_checkpoint_of_another_size_or_hash(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = list_assets(workspace)["svd_xt"]
    file = asset.files[0].model_copy(update={"bytes": 10_000})
    asset, path = dataclasses.replace(asset, files=(file,)), asset.path(file)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"short")
    assert [one.state for one in judge_checkpoint(asset, workspace)] == ["fail"]
    with path.open("wb") as sparse:
        sparse.truncate(file.bytes or 0)
    assert [one.state for one in judge_checkpoint(asset, workspace)] == ["warn"]  # its sha256 was never compared
    write_json(path.with_name(f"{path.name}.origin.json"), {"sha256": file.sha256, "sha256_is": "published"})
    assert [one.state for one in judge_checkpoint(asset, workspace)] == ["ok"]
    monkeypatch.setattr(FileHashes, "known", lambda self, path: "0" * 64)
    assert [one.state for one in judge_checkpoint(asset, workspace)] == ["fail"]


def refuse(number: int) -> Callable[..., Any]:
    def raise_error(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return raise_error


def test_a_file_system_without_locks(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    code, found = diagnose(machine)
    assert code == 4
    assert "cannot be locked (No locks available)" in found["locks"]["what"]


def test_locks_that_another_process_does_not_see(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS mounted with nolock: here this process only pretends to lock."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    code, found = diagnose(machine)
    assert (code, found["locks"]["what"].partition(" in /")[0]) == (4, "two processes hold one lock")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_workspace_that_cannot_be_written(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse(number))
    code, found = diagnose(machine)
    assert code == 4
    assert os.strerror(number).lower() in found["workspace"]["what"]
    assert found["locks"]["state"] == found["clock"]["state"] == "warn"
    # In the image, the smoke job works elsewhere; a row does not.
    monkeypatch.setenv("REPRO_SCRATCH", str(machine.workspace.parent))
    assert diagnose(machine)[1]["workspace"]["state"] == "warn"
    assert diagnose(machine, "ak_full")[1]["workspace"]["state"] == "fail"


MOUNTS = """overlay / overlay rw,lowerdir=/a 0 0
/dev/sda1 /workspace ext4 ro,relatime 0 0
server:/data /data nfs4 ro,vers=4.2 0 0
/dev/sdb1 /with\\040space xfs rw 0 0
"""


def test_mounts() -> None:
    mounts = folders.parse_mounts(MOUNTS)
    workspace = Workspace(Path("/workspace"), Path("/data"), Path("/checkpoints"))
    found = {one.name: one for one in folders.judge_mounts(workspace, mounts, "docker")}
    assert found["mount workspace"].state == "fail"
    assert "read-only" in found["mount workspace"].what
    assert found["mount data"].state == "ok"
    assert found["mount checkpoints"].state == "warn"
    assert "-v FOLDER:/checkpoints" in found["mount checkpoints"].remedy
    spaced = Workspace(Path("/with space/workspace"))
    assert [one.state for one in folders.judge_mounts(spaced, mounts, "")] == ["ok", "ok"]


def test_containers(tmp_path: Path) -> None:
    assert folders.describe_container({}, tmp_path) == ""
    (tmp_path / ".dockerenv").touch()
    assert folders.describe_container({}, tmp_path) == "docker"
    assert folders.describe_container({"APPTAINER_CONTAINER": "/x.sif"}, tmp_path) == "apptainer"


def test_disk_and_clock() -> None:
    here = Path("/")
    assert [folders.judge_disk(here, int(free), 20e9, 30e9).state for free in (40e9, 25e9, 5e9)] == [
        "ok",
        "warn",
        "fail",
    ]
    assert folders.judge_disk(here, int(5e9), 0, 0).state == "warn"
    now = 1.8e9
    assert [folders.judge_clock(skew, now).state for skew in (0.5, 90, -90)] == ["ok", "warn", "warn"]
    assert folders.judge_clock(0, 0.0).state == "warn"


def test_variables_of_hub_and_proxies(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy:3128")
    monkeypatch.setenv("http_proxy", "proxy:3128")
    found = diagnose(machine, "ucf_hmdb")[1]
    assert found["hub"]["state"] == "warn"
    assert "ucf101" in found["hub"]["what"]
    assert found["proxy"]["state"] == "warn"
    assert "write http_proxy as" in found["proxy"]["remedy"]
    assert "secret" not in json.dumps(found)


def test_drift_from_the_lock(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = software.version
    other = {"numpy": "1.0", "scipy": "1.0"}
    monkeypatch.setattr(software, "version", lambda name: other.get(name) or real(name))
    code, found = diagnose(machine)
    assert (code, found["lock"]["state"]) == (0, "warn")
    assert found["lock"]["what"].startswith("2 of other versions than the lock's: numpy 1.0 (lock: ")

    def missing(name: str) -> str:
        if name == "av":
            raise software.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(software, "version", missing)
    code, found = diagnose(machine)
    assert (code, found["lock"]["what"]) == (4, "not installed: av")


def test_the_lock_and_the_pythons_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    allowed = SpecifierSet(project["project"]["requires-python"])
    oldest, newest = software.PYTHONS
    tried = [(3, minor) for minor in range(9, 16)]
    assert [one for one in tried if "{}.{}".format(*one) in allowed] == [
        one for one in tried if oldest <= one <= newest
    ]
    assert (
        project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["requirements"] == "repro/requirements"
    )
    lock = software.read_lock((shipped_folder("requirements") / "runtime.txt").read_text())
    assert lock["av"] == "15.1.0"
    assert ("decord" in lock) == (sys.platform == "linux" and os.uname().machine == "x86_64")


@pytest.mark.parametrize(
    ("facts", "row", "state", "said"),
    [
        ({"torch": TORCH, "sgm": {"problem": ""}}, "ak_full", "ok", "sgm computes"),
        ({"torch": TORCH, "sgm": {"problem": "sgm cannot be imported"}}, "ak_full", "warn", "sgm cannot be imported"),
        ({"torch": TORCH}, "ak_full", "ok", "sgm is not installed"),
    ],
)
def test_who_computes_svd(machine: SimpleNamespace, facts: dict[str, Any], row: str, state: str, said: str) -> None:
    machine.facts["torch"] = facts | {"gpu": H100}
    found = diagnose(machine, row)[1]["svd"]
    assert found["state"] == state
    assert said in found["what"]
    assert "svd" not in diagnose(machine, "ak_full_vjepa")[1]


def test_decoders_that_do_not_decode(machine: SimpleNamespace) -> None:
    machine.facts["video"] = {"pyav h264": {"problem": ""}, "decord h264": {"problem": "ImportError: no decord"}}
    assert diagnose(machine)[1]["decoders"]["state"] == "warn"
    machine.facts["video"] = {"pyav h264": {"problem": "3 of 8 frames"}}
    assert diagnose(machine)[1]["decoders"]["state"] == "fail"
    machine.facts["video"] = {}
    assert diagnose(machine)[1]["decoders"]["what"] == "no video can be decoded: not tried"


def test_a_check_that_fails_stops_no_other(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(examine, "CHECKS", dict.fromkeys(examine.CHECKS, broken) | {"python": software.check_python})
    code, found = diagnose(machine)
    assert code == 0
    assert set(found) >= {"python", "lock"}
    assert found["lock"]["what"] == "not known: ZeroDivisionError: of all things"


def test_a_wrong_device_in_the_environment_is_one_finding(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_DEVICE", "tpu")
    code, found = diagnose(machine)
    assert code == 4
    assert [name for name, one in found.items() if "REPRO_DEVICE is 'tpu'" in one["what"]] == ["driver"]


def test_a_probe_that_crashes_hangs_or_says_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(code: str) -> Any:
        monkeypatch.setattr(probes, "__name__", "timeit")  # `python -m timeit -n1 -r1 CODE`
        return start_probe("-n1", "-r1", code)

    crashed = start("import os; print('{\"torch\": {}}', flush=True); os.abort()")
    assert crashed.facts() == {"torch": {}}
    assert crashed.failure == "the process died of SIGABRT"
    failed = start("import sys; print('x' * 100_000, file=sys.stderr); raise ImportError('no libcudart')")
    assert failed.facts() == {}
    assert failed.failure == "ImportError: no libcudart"
    monkeypatch.setattr(probes, "PROBE_LIMIT", 0.3)
    hanging = start("import time; time.sleep(60)")
    assert hanging.facts() == {}
    assert hanging.failure == "no answer in 0 s"
